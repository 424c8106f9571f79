"""A grid of runs that stops and resumes anywhere: one JSON file a run, nothing done twice.

A cell is one run and what is measured of it. Its pretraining is kept below runs/paper under a hash of the
configuration, so that all figures share it; an interrupted one goes on from its checkpoint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError

from stochcon import atomic
from stochcon.config import Config, changes, explain
from stochcon.experiments import measure
from stochcon.experiments.cost import work
from stochcon.parallel import rank
from stochcon.train.classifier import Mode

RESULTS, RUNS = Path("results/paper"), Path("runs/paper")


@dataclass(frozen=True)
class Cell:
    """One run: a pretraining, or a measurement of its model, or a classifier that starts from it."""

    model: str
    config: Config
    """Of the pretraining, seed included."""
    task: Literal["pretrain", "probe"] | Mode = "pretrain"
    labels: float | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: tuple[float, ...] | None = None
    """Learning rates of which the best on validation is tested; none: A.3's."""
    crop: tuple[float, float] | None = None
    """Share of the image that random crops cover; none: that of `classify`."""
    units: tuple[int, ...] | None = None
    images: int | None = None
    """How many the pretraining has; of a probe, how many its forest has."""

    @property
    def settings(self) -> dict[str, Any]:
        """What else a result depends on, as JSON has it."""
        return json.loads(json.dumps({k: v for k, v in asdict(self).items() if k not in ("model", "config")}))

    @property
    def path(self) -> Path:
        """Of its JSON file: data set / model / what was done, and the seed."""
        done: list[str] = [self.task]
        if self.labels is not None:
            done += [f"{self.labels:g}", f"{self.epochs}epochs"]
        return (
            RESULTS / self.config.recipe / self.model / f"{'-'.join([*done, f'seed{self.config.seed}'])}.json"
        )

    @property
    def directory(self) -> Path:
        """Of its pretraining. The hash leaves out what is at its default, so that a new option changes none."""
        said = self.config.model_dump_json(exclude_defaults=True)
        return RUNS / f"{self.config.recipe}-{self.model}-{sha256(said.encode()).hexdigest()[:12]}"

    def __str__(self) -> str:
        done = f"{self.task} {self.labels:.0%}, {self.epochs} epochs" if self.labels else self.task
        return f"{self.config.recipe} {self.model} seed {self.config.seed}, {done}"


def read(cell: Cell) -> dict[str, Any] | None:
    """The metrics of a cell, or None if it has not run. Raises ValueError if it ran by another recipe."""
    if not cell.path.is_file():
        return None
    record = json.loads(cell.path.read_text())
    try:
        differing = changes(Config.model_validate(record["config"]), cell.config)
    except ValidationError as error:
        raise ValueError(f"{cell.path}: {explain(error)}") from None
    for name, value in cell.settings.items():
        if record["settings"].get(name) != value:
            differing[name] = record["settings"].get(name), value
    for name, (old, new) in differing.items():
        raise ValueError(
            f"the recipe changed: {cell.path} was made with {name} = {old}, which is now {new}; "
            f"put it back, or move {RESULTS / cell.config.recipe} away to start that grid anew"
        )
    metrics: dict[str, Any] = record["metrics"]
    return metrics


def values(cells: Iterable[Cell], metric: str) -> dict[int, float]:
    """By seed, one metric of the cells that have run and have it."""
    found = ((cell.config.seed, read(cell)) for cell in cells)
    return {seed: metrics[metric] for seed, metrics in found if metrics is not None and metric in metrics}


def run(cell: Cell, command: str) -> None:
    """Do what is left of a cell and write its JSON file."""
    began = time.perf_counter()
    metrics = measure.pretrained(cell.config, cell.directory)
    if cell.task == "probe":
        assert cell.units is not None and cell.images is not None
        metrics = measure.probed(cell.directory, cell.units, cell.images)
    elif cell.task != "pretrain":
        assert cell.labels is not None and cell.epochs is not None and cell.batch_size is not None
        metrics = measure.classified(
            cell.directory, cell.task, cell.labels, cell.epochs, cell.batch_size, cell.lr, cell.crop
        )
    if rank() == 0:
        record = {
            "model": cell.model,
            "seed": cell.config.seed,
            "settings": cell.settings,
            "metrics": metrics,
            "seconds": round(time.perf_counter() - began, 1),
            "date": datetime.now(UTC).date().isoformat(),
            "command": command,
            "config": cell.config.model_dump(mode="json"),
        }
        atomic.write_json(cell.path, record)


def run_grid(cells: Sequence[Cell], jobs: int, command: str) -> None:
    """Run what has not run yet, seed by seed, `jobs` at a time. A pretraining and all that reads it is one job.

    Raises ValueError, before anything runs, if the recipe of an earlier run was another.
    """
    todo = [cell for cell in cells if read(cell) is None]
    if not todo:
        return
    groups: dict[Config, list[Cell]] = {}
    for cell in sorted(todo, key=lambda cell: cell.config.seed):
        groups.setdefault(cell.config, []).append(cell)
    began = time.time(), sum(map(work, todo))
    if jobs == 1:
        for group in groups.values():
            run_group(group, cells, began, command)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        futures = [pool.submit(run_group, group, cells, began, command) for group in groups.values()]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def run_group(group: Sequence[Cell], cells: Sequence[Cell], began: tuple[float, float], command: str) -> None:
    """Run cells of one pretraining, and say after each how far the whole grid is; began: when, and the work then."""
    for cell in group:
        run(cell, command)
        if rank() == 0:
            print(progress(cell, cells, began), flush=True)


def progress(cell: Cell, cells: Sequence[Cell], began: tuple[float, float]) -> str:
    """Which run of how many, what came of it, and the time that is left."""
    left = [other for other in cells if not other.path.exists()]
    start, whole = began
    remaining = sum(map(work, left))
    minutes = (time.time() - start) * remaining / (60 * max(whole - remaining, 1))
    metrics = read(cell) or {}
    shown = (
        f"{metrics['test.top1']:.1f} %" if "test.top1" in metrics else f"loss {metrics.get('loss', 0):.2f}"
    )
    if cell.task == "probe":
        shown = f"linear {metrics['linear.z']:.1f} %" if "linear.z" in metrics else ""
    return f"run {len(cells) - len(left)} of {len(cells)}: {cell}: {shown}; {minutes:.0f} minutes left"
