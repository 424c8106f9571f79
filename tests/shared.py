"""What several test files do alike."""

from pathlib import Path
from typing import Any

import pytest
import torch

from stochcon import runs
from stochcon.cli import main
from stochcon.config import Config
from stochcon.method.model import StochCon
from stochcon.recipebook import recipe


def tiny_digits(**changes: Any) -> Config:
    """A network for digits of 8 pixels that is pretrained in a fraction of a second."""
    sizes = {"data.size": 8, "views.global_size": 8, "views.local_size": 4, "views.local_views": 0}
    network = {"backbone.width": 4, "head": {"hidden": 8, "dim": 4}, "epochs": 1, "rebit.steps": 3}
    return recipe("digits", **sizes | network | changes)


def write_run(directory: Path, config: Config, seed: int = 0) -> Path:
    """A run that is finished, of a network that has learnt nothing."""
    torch.manual_seed(seed)
    runs.create(directory, config)
    runs.write_tensors(directory / runs.MODEL, StochCon(config).state_dict())
    return directory


def error(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The line on standard error of a command that exits with 2; or tyro's box, if it cannot read the options."""
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err
    if said.startswith("╭"):
        return said
    assert said.startswith("stochcon: error: ") and said.count("\n") == 1
    return said.removeprefix("stochcon: error: ").rstrip("\n")
