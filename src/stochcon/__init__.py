"""Stochastic contrastive learning: images to short, interpretable, uncertain codes, without labels."""

from importlib.metadata import version

import lazy_loader

# The names are listed in __init__.pyi and imported when first used, so that `stochcon --help` need not wait for torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("stochcon")
