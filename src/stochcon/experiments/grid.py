"""Run a grid of cells that stops and resumes anywhere: one JSON file a cell, and nothing is done twice."""

import json
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from stochcon import atomic, runs
from stochcon.config import Config, changes, explain
from stochcon.data import sets as data
from stochcon.data.images import stratified_subset
from stochcon.evaluation import probes
from stochcon.evaluation.evaluate import labelled_images
from stochcon.evaluation.features import aggregate_variance, count_bits, extract
from stochcon.experiments.plans import RESULTS, Cell
from stochcon.method.latents import LATENTS
from stochcon.method.model import StochCon
from stochcon.parallel import rank
from stochcon.train.classify import CROP, LEARNING_RATE, classify
from stochcon.train.pretrain import pretrain

LOOKS = "bits.jsonl"
READINGS = "top1", "mean", "bits", "h"
COUNTED = 1000  # images of each split on which the active bits are counted during training


def read(cell: Cell) -> dict[str, Any] | None:
    """Return the metrics of a cell, or None if it has not run. Raises ValueError if it ran with other settings."""
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


def run_grid(cells: Sequence[Cell], jobs: int, command: str, minutes: float = math.inf) -> None:
    """Run the cells that have not run yet, seed by seed; `command` is what their files say about how to repeat it.

    None begins after so many minutes.
    Cells that start from one pretraining are one job. Of several jobs at a time each has one thread. If a cell has
    run with another recipe, nothing runs, and ValueError says so.
    """
    todo = [cell for cell in cells if read(cell) is None]
    groups: dict[Config, list[Cell]] = {}
    for cell in sorted(todo, key=lambda cell: cell.config.seed):
        groups.setdefault(cell.config, []).append(cell)
    began = time.time(), sum(cell.work() for cell in todo)
    job = partial(_run_group, grid=cells, began=began, command=command, end=time.time() + 60 * minutes)
    if jobs == 1:
        list(map(job, groups.values()))
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        list(pool.map(job, groups.values()))  # cancels what waits if one fails


def _run_group(cells: list[Cell], grid: Sequence[Cell], began: tuple[float, float], command: str, end: float) -> None:
    """Run the cells of one pretraining; say after each what came of it and how far the whole grid is."""
    start, whole = began  # when the grid began, and how much work it had then
    for cell in cells:
        if time.time() > end:
            return
        run(cell, command)
        left = [other for other in grid if not other.path.exists()]
        remaining = sum(other.work() for other in left)
        minutes = (time.time() - start) * remaining / (60 * max(whole - remaining, 1))
        metrics = read(cell) or {}
        shown = ", ".join(f"{m} {metrics[m]:.2f}" for m in ("loss", "linear.h", "test.top1") if m in metrics)
        done = f"run {len(grid) - len(left)} of {len(grid)}: {cell}: {shown}; {minutes:.0f} minutes left"
        if rank() == 0:
            print(done, flush=True)


def measure(cell: Cell) -> dict[str, Any]:
    """Do what a cell says, its pretraining first if that is not done, and return what was measured."""
    metrics = pretrained(cell.config, cell.directory)
    if cell.task == "pretrain":
        return metrics
    return probed(cell) if cell.task == "probe" else classified(cell)


def count_active(config: Config, directory: Path) -> Callable[[int, StochCon], None]:
    """Make an observer that counts the ones among an image's bits, in per cent (figure 4).

    It counts on train and test images, after the first step and at every checkpoint, into bits.jsonl.
    """
    pixels = {split: data.load_data(config.data, split).pixels for split in ("train", "test")}
    some = {split: x[:: -(-len(x) // COUNTED)] for split, x in pixels.items()}

    def look(step: int, model: StochCon) -> None:
        if rank() or not (step == 1 or step % config.checkpoint_every == 0):
            return
        bits = {split: extract(model, x, config.views).bits for split, x in some.items()}
        counts = {k: round(count_bits(x)["active"], 3) for k, x in bits.items() if x is not None}
        runs.Log(directory / LOOKS, step - 1).append({"step": step} | counts)  # drops what is done again

    return look


def pretrained(config: Config, directory: Path) -> dict[str, Any]:
    """Pretrain, or go on; return the last loss, and the active bits along training if the latent has bits."""
    if not (directory / runs.MODEL).exists():
        observe = count_active(config, directory) if LATENTS[config.latent.kind].binary else None
        resume = (directory / runs.CONFIG).exists()
        pretrain(config, directory, resume=resume, progress=False, observe=observe)
    last = _lines(directory / runs.LOG)[-1]
    metrics: dict[str, Any] = {"loss": last["loss"]}
    if (directory / LOOKS).exists():
        per_epoch = last["step"] / config.epochs
        looks = _lines(directory / LOOKS)
        metrics["active"] = [look | {"epoch": round(look["step"] / per_epoch, 3)} for look in looks]
    return metrics


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def probed(cell: Cell) -> dict[str, float]:
    """Measure the frozen features of the test images, and count the bits.

    `linear.NAME` is top-1 of logistic regression on h, z and bits, in per cent. `forest.K` is F1 of a random forest
    on K units of the bits, or else of the mean, and `forest.all` on all of them. `variance` is the aggregate variance
    of q(z|x), and `spread` the variance of z from image to image.
    """
    model, config = runs.load_model(cell.directory)
    train, labels, test, truth = labelled_images(config.data, "test")
    a, b = extract(model, train.pixels, config.views), extract(model, test.pixels, config.views)
    metrics: dict[str, float] = {}
    for name, x, y in (("h", a.h, b.h), ("z", a.z, b.z), ("bits", a.bits, b.bits)):
        if x is not None and y is not None:
            metrics[f"linear.{name}"] = probes.linear_top1(x, labels, y, truth)
    if b.z is not None:
        metrics |= {"variance": aggregate_variance(b.uncertainty), "spread": b.z.double().var(0).mean().item()}
    code = b.z if b.bits is None else b.bits
    if code is not None and cell.units:
        chosen, width = stratified_subset(truth.numpy(), cell.images or len(test)), code.shape[1]
        counts = [count for count in cell.units if count < width] + [width]
        scores = probes.forest_f1(code[chosen], truth[chosen], counts)
        metrics |= {f"forest.{count}": scores[count] for count in counts} | {"forest.all": scores[width]}
    if b.bits is not None:
        metrics |= count_bits(b.bits)
    return {name: round(float(value), 5) for name, value in metrics.items()}


def classified(cell: Cell) -> dict[str, Any]:
    """Train the classifier of A.3 or A.2; return its top-1 on validation, for choosing, and on test."""
    assert cell.labels and cell.epochs and cell.task != "pretrain" and cell.task != "probe"
    result = classify(
        cell.directory,
        cell.task,
        labels=cell.labels,
        epochs=[cell.epochs],
        lr=cell.lr or (LEARNING_RATE,),
        head_lr=cell.head_lr or (1.0,),
        crop=cell.crop or CROP,
        batch_size=cell.batch_size,
        out=cell.directory / f"{cell.task}-{cell.labels:g}-{cell.epochs}epochs",
        progress=False,
    )
    best = max(result["validation"], key=lambda trial: trial["top1"])
    metrics = {"images": result["images"], "lr": result["chosen_lr"], "head_lr": result["chosen_head_lr"]}
    for split, scores in {"validation": best, "test": result["test"]}.items():
        metrics |= {f"{split}.{name}": scores[name] for name in READINGS if name in scores}
    return metrics
