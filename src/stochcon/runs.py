"""A run directory: config.json, log.jsonl, checkpoint/, model.safetensors, metrics.json, pictures.

Every file is written whole: a crash leaves the old one or the new one. Tensors are kept as safetensors,
so that nothing is ever loaded by pickle.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from pydantic import ValidationError
from torch import Tensor

from stochcon.config import Config, explain

CONFIG, LOG, MODEL, METRICS, SKIPPED = (
    "config.json",
    "log.jsonl",
    "model.safetensors",
    "metrics.json",
    "skipped.txt",
)
CHECKPOINT = Path("checkpoint") / "last.safetensors"


def write(path: Path, content: bytes) -> None:
    """The file with this content, or as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:  # an interruption too
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            message = f"{error.strerror}; {path} is left as it was"
            raise OSError(error.errno, message, str(partial)) from None
        raise
    os.replace(partial, path)


def write_json(path: Path, value: Any) -> None:
    write(path, (json.dumps(value, indent=2) + "\n").encode())


def write_tensors(path: Path, tensors: dict[str, Tensor], **metadata: str) -> None:
    write(
        path,
        safetensors.torch.save({k: t.detach().contiguous() for k, t in tensors.items()}, metadata or None),
    )


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata. Raises ValueError when the file is no safetensors file (a pickle, say)."""
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file, which is all that is read: {error}"
        ) from None


def create(directory: Path, config: Config) -> None:
    """Start a run directory. Raises ValueError when it holds a run already."""
    if (directory / CONFIG).exists():
        raise ValueError(
            f"{directory} holds a run already: go on with --resume {directory}, or choose another --out"
        )
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file; --out must name a folder, or one that is not there yet")
    write(directory / CONFIG, (config.model_dump_json(indent=2) + "\n").encode())


def holds(directory: Path, config: Config) -> bool:
    """Whether the directory is a run of just this configuration."""
    return (directory / CONFIG).exists() and read_config(directory) == config


def read_config(directory: Path) -> Config:
    """The configuration of a run. Raises ValueError when the directory is no run."""
    path = directory / CONFIG
    if not path.is_file():
        raise ValueError(f"{directory} is not a run: it has no {CONFIG}")
    try:
        return Config.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path}: {explain(error)}") from None


class Log:
    """log.jsonl: one object a line. Opened at a step, it drops the lines that a resumed run will write again."""

    def __init__(self, path: Path, step: int):
        kept = []
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:
                    break  # a line that an interruption cut
                if entry["step"] <= step:
                    kept.append(line)
        write(path, "".join(line + "\n" for line in kept).encode())
        self.path = path

    def append(self, entry: dict[str, Any]) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps(entry) + "\n")
