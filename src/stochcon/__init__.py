"""Stochastic contrastive learning: images to short, interpretable, uncertain codes, without labels."""

from stochcon.config import Config
from stochcon.evaluate import evaluate
from stochcon.features import Features, extract, load_model
from stochcon.objective import info_nce
from stochcon.pretrain import pretrain
from stochcon.recipes import recipe

__all__ = ["Config", "Features", "evaluate", "extract", "info_nce", "load_model", "pretrain", "recipe"]
