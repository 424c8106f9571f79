"""Stochastic contrastive learning: images to short, interpretable, uncertain codes, without labels."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stochcon.codes import file
    from stochcon.codes.encoder import Encoder as Encoder
    from stochcon.codes.encoder import encode as encode
    from stochcon.codes.encoder import load as load
    from stochcon.codes.packed import Codes as Codes
    from stochcon.codes.search import search as search
    from stochcon.codes.transformer import StochConTransformer as StochConTransformer
    from stochcon.config import Config as Config
    from stochcon.data import sets
    from stochcon.evaluation.curve import curve as curve
    from stochcon.evaluation.evaluate import evaluate as evaluate
    from stochcon.evaluation.features import Features as Features
    from stochcon.evaluation.features import extract as extract
    from stochcon.experiments.demo import demo as demo
    from stochcon.experiments.paper import paper as paper
    from stochcon.exporters.export import export as export
    from stochcon.exporters.export import to_onnx as to_onnx
    from stochcon.exporters.hub import from_hub as from_hub
    from stochcon.exporters.hub import to_hub as to_hub
    from stochcon.method.objective import info_nce as info_nce
    from stochcon.recipebook import recipe as recipe
    from stochcon.recipebook import recipes as recipes
    from stochcon.runs import load_model as load_model
    from stochcon.train.classify import classify as classify
    from stochcon.train.pretrain import pretrain as pretrain

    load_data, read_codes = sets.load, file.read

_HOMES = {
    "Codes": ("codes.packed", "Codes"),
    "Config": ("config", "Config"),
    "Encoder": ("codes.encoder", "Encoder"),
    "Features": ("evaluation.features", "Features"),
    "StochConTransformer": ("codes.transformer", "StochConTransformer"),
    "classify": ("train.classify", "classify"),
    "curve": ("evaluation.curve", "curve"),
    "demo": ("experiments.demo", "demo"),
    "encode": ("codes.encoder", "encode"),
    "evaluate": ("evaluation.evaluate", "evaluate"),
    "export": ("exporters.export", "export"),
    "extract": ("evaluation.features", "extract"),
    "from_hub": ("exporters.hub", "from_hub"),
    "info_nce": ("method.objective", "info_nce"),
    "load": ("codes.encoder", "load"),
    "load_data": ("data.sets", "load"),
    "load_model": ("runs", "load_model"),
    "paper": ("experiments.paper", "paper"),
    "pretrain": ("train.pretrain", "pretrain"),
    "read_codes": ("codes.file", "read"),
    "recipe": ("recipebook", "recipe"),
    "recipes": ("recipebook", "recipes"),
    "search": ("codes.search", "search"),
    "to_hub": ("exporters.hub", "to_hub"),
    "to_onnx": ("exporters.export", "to_onnx"),
}
"""The module of each public name, and what it is called there."""
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `stochcon --help` need not wait for torch."""
    if name == "__version__":
        return version("stochcon")
    if name not in _HOMES:
        raise AttributeError(f"module 'stochcon' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(f"stochcon.{module}"), attribute)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
