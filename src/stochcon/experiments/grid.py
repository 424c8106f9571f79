"""Run a grid of cells that stops and resumes anywhere: one JSON file a cell, and nothing is done twice."""

import json
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch
from pydantic import ValidationError

from stochcon import atomic
from stochcon.config import Config, changes, explain
from stochcon.experiments.measure import measure
from stochcon.experiments.plans import RESULTS, Cell
from stochcon.parallel import rank


def read(cell: Cell) -> dict[str, Any] | None:
    """Return the metrics of a cell, or None if it has not run.

    Raises:
        ValueError: If it ran with another configuration or other settings.
    """
    if not cell.path.is_file():
        return None
    record = json.loads(cell.path.read_bytes())
    try:
        differing = changes(Config.model_validate(record["config"]), cell.config)
    except ValidationError as error:
        raise ValueError(f"{cell.path}: {explain(error)}") from None
    settings = record["settings"]
    differing |= {k: (settings.get(k), v) for k, v in cell.settings.items() if settings.get(k) != v}
    for name, (old, new) in differing.items():
        raise ValueError(
            f"the recipe changed: {cell.path} was made with {name} = {old}, which is now {new}; "
            f"put it back, or move {RESULTS / cell.config.recipe} away to start that grid anew"
        )
    return record["metrics"]


def run(cell: Cell, command: str) -> None:
    """Do what is left of a cell, and write its JSON file."""
    began = time.perf_counter()
    record = {
        "model": cell.model,
        "seed": cell.config.seed,
        "settings": cell.settings,
        "metrics": measure(cell),
        "seconds": round(time.perf_counter() - began, 1),
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
        "config": cell.config.model_dump(mode="json"),
    }
    if rank() == 0:
        atomic.write_json(cell.path, record)


def run_grid(cells: Sequence[Cell], jobs: int, command: str) -> None:
    """Run the cells that have not run yet, seed by seed.

    Args:
        cells: All cells of the grid; those that start from one pretraining are one job.
        jobs: How many jobs run at a time, each with one thread if there are several.
        command: What the JSON files say about how to repeat the run.

    Raises:
        ValueError: If a cell has run with another recipe; nothing runs then.
    """
    todo = [cell for cell in cells if read(cell) is None]
    groups: dict[Config, list[Cell]] = {}
    for cell in sorted(todo, key=lambda cell: cell.config.seed):
        groups.setdefault(cell.config, []).append(cell)
    began = time.time(), sum(cell.work() for cell in todo)
    job = partial(_run_group, grid=cells, began=began, command=command)
    if jobs == 1:
        list(map(job, groups.values()))
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        list(pool.map(job, groups.values()))  # cancels what waits if one fails


def _run_group(cells: list[Cell], grid: Sequence[Cell], began: tuple[float, float], command: str) -> None:
    """Run the cells of one pretraining; say after each what came of it and how far the whole grid is."""
    start, whole = began  # when the grid began, and how much work it had then
    for cell in cells:
        run(cell, command)
        left = [other for other in grid if not other.path.exists()]
        remaining = sum(other.work() for other in left)
        minutes = (time.time() - start) * remaining / (60 * max(whole - remaining, 1))
        metrics = read(cell) or {}
        shown = ", ".join(f"{m} {metrics[m]:.2f}" for m in ("loss", "linear.h", "test.top1") if m in metrics)
        done = f"run {len(grid) - len(left)} of {len(grid)}: {cell}: {shown}; {minutes:.0f} minutes left"
        if rank() == 0:
            print(done, flush=True)
