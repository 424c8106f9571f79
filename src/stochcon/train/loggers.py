"""Loggers: the lines of log.jsonl for TensorBoard, Weights & Biases or trackio, through Fabric's interface."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from lightning_fabric.loggers.logger import Logger
from lightning_fabric.loggers.tensorboard import TensorBoardLogger

from stochcon.config import Config

Name = Literal["tensorboard", "wandb", "trackio"]


class _Tracker(Logger):
    """A package with wandb's `init`, `log` and `finish`, which trackio has too. Fabric has a logger for neither."""

    name, version = "stochcon", None

    def __init__(self, package: str, **about: Any):
        try:
            self.run = import_module(package).init(project=self.name, **about)
        except Exception as error:  # each package has errors of its own
            raise ValueError(f"--logger {package}: {error}") from error

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.run.log(metrics, step=step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Leave it to `init`."""

    def finalize(self, status: str) -> None:
        self.run.finish()


def refuse_missing(name: Name | None) -> None:
    """Raise ValueError if the package of a logger is not installed, and say how to install it."""
    if name and find_spec(name) is None:
        raise ValueError(f"--logger {name} needs a package that is not there: pip install 'stochcon[{name}]'")


@contextmanager
def opened(name: Name | None, directory: Path, config: Config, done: int) -> Iterator[Logger | None]:
    """Open a logger, if one is named, for a run of which `done` steps are logged already; close it however it ends."""
    about: dict[str, Any] = {"config": config.model_dump(mode="json")}
    logger: Logger
    if name == "tensorboard":  # what came after the last checkpoint comes again
        logger = TensorBoardLogger(directory, name="", version=name, purge_step=done + 1)
    elif name == "wandb":  # nothing leaves this machine unless the environment says so
        about |= {"mode": os.environ.get("WANDB_MODE", "offline"), "resume": "allow" if done else None}
        about |= {"id": sha256(bytes(directory.resolve())).hexdigest()[:8], "dir": directory}
        logger = _Tracker(name, name=directory.name, **about)
    elif name == "trackio":
        logger = _Tracker(name, name=str(directory), resume="allow" if done else "never", embed=False, **about)
    else:
        yield None
        return
    try:
        yield logger
    finally:
        logger.finalize("")
