"""Stochastic contrastive learning: images to short, interpretable, uncertain codes, without labels."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stochcon.codes import Codes
    from stochcon.codes import read as read_codes
    from stochcon.config import Config
    from stochcon.curves import curve
    from stochcon.data import load as load_data
    from stochcon.encoding import Encoder, encode, load
    from stochcon.evaluation import evaluate
    from stochcon.export import to_onnx
    from stochcon.features import Features, extract, load_model
    from stochcon.hub import from_hub, to_hub
    from stochcon.objective import info_nce
    from stochcon.pretraining import pretrain
    from stochcon.recipes import recipe
    from stochcon.transformer import StochConTransformer

__all__ = [
    "Codes",
    "Config",
    "Encoder",
    "Features",
    "StochConTransformer",
    "curve",
    "encode",
    "evaluate",
    "extract",
    "from_hub",
    "info_nce",
    "load",
    "load_data",
    "load_model",
    "pretrain",
    "read_codes",
    "recipe",
    "to_hub",
    "to_onnx",
]

_HOMES = {
    "Codes": ("codes", "Codes"),
    "Config": ("config", "Config"),
    "Features": ("features", "Features"),
    "Encoder": ("encoding", "Encoder"),
    "StochConTransformer": ("transformer", "StochConTransformer"),
    "curve": ("curves", "curve"),
    "encode": ("encoding", "encode"),
    "evaluate": ("evaluation", "evaluate"),
    "extract": ("features", "extract"),
    "from_hub": ("hub", "from_hub"),
    "info_nce": ("objective", "info_nce"),
    "load": ("encoding", "load"),
    "load_data": ("data", "load"),
    "load_model": ("features", "load_model"),
    "pretrain": ("pretraining", "pretrain"),
    "read_codes": ("codes", "read"),
    "recipe": ("recipes", "recipe"),
    "to_hub": ("hub", "to_hub"),
    "to_onnx": ("export", "to_onnx"),
}


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that `stochcon --help` need not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'stochcon' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(f"stochcon.{module}"), attribute)
