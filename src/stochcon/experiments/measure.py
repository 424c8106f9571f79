"""Do one run of a grid, and measure it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from stochcon import runs
from stochcon.config import Config
from stochcon.data import sets as data
from stochcon.data.images import stratified_subset
from stochcon.evaluation import probes
from stochcon.evaluation.features import aggregate_variance, count_bits, extract
from stochcon.experiments.plans import Cell
from stochcon.method.latents import LATENTS
from stochcon.method.model import StochCon
from stochcon.parallel import rank
from stochcon.runs import load_model
from stochcon.train.classify import CROP, LEARNING_RATE, classify
from stochcon.train.pretrain import pretrain

LOOKS = "bits.jsonl"
COUNTED = 1000  # images of each split on which the active bits are counted during training


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
    """Measure the frozen features of the test images.

    Returns:
        `linear.NAME`: top-1 of logistic regression on h, z and bits, in per cent. `forest.K`: F1 of a random
        forest on K units of the bits, or else of the mean, and `forest.all` on all of them. `variance`: the
        aggregate variance of q(z|x). `spread`: the variance of z from image to image. And counts of the bits.
    """
    model, config = load_model(cell.directory)
    train, test = data.load_data(config.data, "train"), data.load_data(config.data, "test")
    assert train.labels is not None and test.labels is not None
    a, b = extract(model, train.pixels, config.views), extract(model, test.pixels, config.views)
    pairs = {"h": (a.h, b.h), "z": (a.z, b.z), "bits": (a.bits, b.bits)}
    metrics: dict[str, float] = {
        f"linear.{name}": probes.linear_top1(x, train.labels, y, test.labels)
        for name, (x, y) in pairs.items()
        if x is not None and y is not None
    }
    if b.z is not None:
        metrics |= {"variance": aggregate_variance(b.uncertainty)}
        metrics |= {"spread": b.z.double().var(0).mean().item()}
    code = b.z if b.bits is None else b.bits
    if code is not None and cell.units:
        chosen = torch.tensor(stratified_subset(test.labels.numpy(), cell.images or len(test)))
        width = code.shape[1]
        counts = [count for count in cell.units if count < width] + [width]
        scores = probes.forest_f1(code[chosen], test.labels[chosen], counts)
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
        crop=cell.crop or CROP,
        batch_size=cell.batch_size,
        out=cell.directory / f"{cell.task}-{cell.labels:g}-{cell.epochs}epochs",
        progress=False,
    )
    best = max(result["validation"], key=lambda trial: trial["top1"])
    metrics = {"images": result["images"], "lr": result["chosen_lr"]}
    for split, scores in {"validation": best, "test": result["test"]}.items():
        metrics |= {f"{split}.{name}": scores[name] for name in ("top1", "bits", "h") if name in scores}
    return metrics
