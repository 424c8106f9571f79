"""What several test files do alike."""

from pathlib import Path

import pytest
import torch

from stochcon import runs
from stochcon.cli import main
from stochcon.config import Config
from stochcon.method.model import StochCon


def write_run(directory: Path, config: Config, seed: int = 0) -> Path:
    """A run that is finished, of a network that has learnt nothing."""
    torch.manual_seed(seed)
    runs.create(directory, config)
    runs.write_tensors(directory / runs.MODEL, StochCon(config).state_dict())
    return directory


def error(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line on standard error of a command that must exit with 2."""
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("stochcon: error: ") and captured.err.count("\n") == 1
    return captured.err.removeprefix("stochcon: error: ").rstrip("\n")
