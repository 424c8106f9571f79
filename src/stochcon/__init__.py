"""Stochastic contrastive learning: images to short, interpretable, uncertain codes, without labels."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stochcon.codes.encode import Encoder, encode, load
    from stochcon.codes.file import Codes
    from stochcon.codes.file import read as read_codes
    from stochcon.codes.transformer import StochConTransformer
    from stochcon.config import Config
    from stochcon.data.sets import load as load_data
    from stochcon.evaluation.curve import curve
    from stochcon.evaluation.evaluate import evaluate
    from stochcon.evaluation.features import Features, extract
    from stochcon.exporters.export import export
    from stochcon.exporters.hub import from_hub, to_hub
    from stochcon.exporters.onnx import to_onnx
    from stochcon.method.objective import info_nce
    from stochcon.recipebook import recipe
    from stochcon.runs import load_model
    from stochcon.train.pretrain import pretrain

__all__ = [
    "Codes",
    "Config",
    "Encoder",
    "Features",
    "StochConTransformer",
    "curve",
    "encode",
    "evaluate",
    "export",
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
    "Codes": ("codes.packed", "Codes"),
    "Config": ("config", "Config"),
    "Features": ("evaluation.features", "Features"),
    "Encoder": ("codes.encode", "Encoder"),
    "StochConTransformer": ("codes.transformer", "StochConTransformer"),
    "curve": ("evaluation.curve", "curve"),
    "encode": ("codes.encode", "encode"),
    "evaluate": ("evaluation.evaluate", "evaluate"),
    "export": ("exporters.export", "export"),
    "extract": ("evaluation.features", "extract"),
    "from_hub": ("exporters.hub", "from_hub"),
    "info_nce": ("method.objective", "info_nce"),
    "load": ("codes.encode", "load"),
    "load_data": ("data.sets", "load"),
    "load_model": ("runs", "load_model"),
    "pretrain": ("train.pretrain", "pretrain"),
    "read_codes": ("codes.file", "read"),
    "recipe": ("recipebook", "recipe"),
    "to_hub": ("exporters.hub", "to_hub"),
    "to_onnx": ("exporters.onnx", "to_onnx"),
}


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that `stochcon --help` need not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'stochcon' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(f"stochcon.{module}"), attribute)
