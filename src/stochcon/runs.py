"""A run directory: config.json, log.jsonl, checkpoint/, rebit/ with the same two, model.safetensors, metrics.json.

training.png is a picture of the log. Every file is written whole. Tensors are kept as safetensors, so that nothing is
ever loaded by pickle.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor

from stochcon import atomic
from stochcon.config import Config, explain
from stochcon.method.model import StochCon

CONFIG, LOG, MODEL = "config.json", "log.jsonl", "model.safetensors"
METRICS, SKIPPED = "metrics.json", "skipped.txt"
CHECKPOINT = Path("checkpoint") / "last.safetensors"


def write_tensors(path: Path, tensors: dict[str, Tensor], **metadata: str) -> None:
    """Write named tensors, and text about them, as a safetensors file."""
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    atomic.write(path, safetensors.torch.save(contiguous, metadata or None))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and metadata of a safetensors file. Raises ValueError for any other file, such as a pickle."""
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file, which is all that is read: {error}") from None


def refuse_taken(directory: Path) -> None:
    """Raise ValueError if a run cannot start in a directory, since it holds one already or is a file."""
    if (directory / CONFIG).exists() or (directory / CHECKPOINT).exists():
        raise ValueError(f"{directory} holds a run already: go on with --resume {directory}, or choose another --out")
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file; --out must name a folder, or one that is not there yet")


def create(directory: Path, config: Config) -> None:
    """Start a run directory. Raises ValueError as `refuse_taken` does."""
    refuse_taken(directory)
    write_config(directory, config)


def write_config(directory: Path, config: Config) -> None:
    """Write the configuration of a run."""
    atomic.write(directory / CONFIG, (config.model_dump_json(indent=2) + "\n").encode())


def how_to_go_on(directory: Path) -> str:
    """Say how a pretraining that was interrupted goes on, by what it has written."""
    if not (directory / CONFIG).is_file():
        return "nothing has been written yet; the same command starts again"
    there = (directory / CHECKPOINT).is_file()
    does = "goes on from the last checkpoint" if there else "starts again, as there is no checkpoint yet"
    return f"stochcon pretrain --resume {directory} {does}"


def holds(directory: Path, config: Config) -> bool:
    """Whether the directory is a run of just this configuration."""
    return (directory / CONFIG).exists() and read_config(directory) == config


def read_config(directory: Path) -> Config:
    """Read the configuration of a run. Raises ValueError if there is none that can be used."""
    if not (directory / CONFIG).is_file():
        raise ValueError(f"{directory} is not a run: it has no {CONFIG}")
    try:
        return Config.model_validate_json((directory / CONFIG).read_bytes())
    except ValidationError as error:
        raise ValueError(f"{directory / CONFIG}: {explain(error)}") from None


def load_model(directory: Path | str) -> tuple[StochCon, Config]:
    """Load the model of a finished run.

    Args:
        directory: The run directory.

    Returns:
        The model, in evaluation mode on the CPU, and the configuration of the run.

    Raises:
        ValueError: If the run is not finished, or its weights do not fit its configuration.
    """
    directory = Path(directory)
    config = read_config(directory)
    path = directory / MODEL
    if not path.is_file() and (directory / CHECKPOINT).is_file():
        raise ValueError(f"{directory} is not finished: stochcon pretrain --resume {directory}")
    with torch.random.fork_rng(devices=[]):  # weights that are replaced at once are no one's randomness
        model = StochCon(config).to(memory_format=torch.channels_last)
    try:
        model.load_state_dict(read_tensors(path)[0])
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit its {CONFIG}: {str(error).splitlines()[-1].strip()}") from None
    return model.eval(), config


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a log, but for one that an interruption cut; none if there is no log."""
    lines = []
    with suppress(json.JSONDecodeError, FileNotFoundError):
        for line in path.read_text().splitlines():
            lines.append(json.loads(line))
    return lines


class Log:
    """A file of JSON objects, one a line.

    Opened after a step, it drops the lines that a resumed run will write again, and one that an interruption cut.
    """

    def __init__(self, path: Path, step: int):
        kept = [json.dumps(line) + "\n" for line in read_log(path) if line["step"] <= step]
        atomic.write(path, "".join(kept).encode())
        self.path = path

    def append(self, entry: dict[str, Any]) -> None:
        """Write one line more."""
        with open(self.path, "a") as file:
            file.write(json.dumps(entry) + "\n")
