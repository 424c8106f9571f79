"""What is done and measured in one run of a grid."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stochcon import runs
from stochcon.config import Config
from stochcon.data import sets as data
from stochcon.data.images import stratified_subset
from stochcon.evaluation import probes
from stochcon.evaluation.features import extract
from stochcon.method.model import StochCon
from stochcon.parallel import rank
from stochcon.runs import load_model
from stochcon.train.classifier import Mode
from stochcon.train.classify import CROP, LEARNING_RATE, classify
from stochcon.train.pretrain import pretrain

COUNTED = 1000
"""Images of each split on which active bits are counted during training."""


class ActiveBits:
    """Figure 4: the share of ones among the bits of train and test images, in per cent, along a pretraining.

    After the first step, and as often as there are checkpoints; into bits.jsonl of the run.
    """

    def __init__(self, config: Config, directory: Path):
        self.config, self.path = config, directory / "bits.jsonl"
        self.images = {split: data.load(config.data, split).pixels for split in ("train", "test")}
        self.log: runs.Log | None = None

    def __call__(self, step: int, model: StochCon) -> None:
        if rank() or not (step == 1 or step % self.config.checkpoint_every == 0):
            return
        if self.log is None:  # what a resumed run will write again is dropped
            self.log = runs.Log(self.path, step - 1)
        self.log.append({"step": step} | {split: self.active(model, x) for split, x in self.images.items()})

    def active(self, model: StochCon, pixels: Tensor) -> float:
        bits = extract(model, pixels[:: -(-len(pixels) // COUNTED)], self.config.views).bits
        assert bits is not None
        return round(probes.count_bits(bits)["active"], 3)


def pretrained(config: Config, directory: Path) -> dict[str, Any]:
    """Train, or go on; the last loss, and the active bits along training of a latent that has bits."""
    if not (directory / runs.MODEL).exists():
        observe = ActiveBits(config, directory) if config.latent.kind == "bernoulli" else None
        resume = (directory / runs.CONFIG).exists()
        pretrain(config, directory, resume=resume, progress=False, observe=observe)
    last = _lines(directory / runs.LOG)[-1]
    metrics: dict[str, Any] = {"loss": last["loss"]}
    if config.latent.kind == "bernoulli":
        looks = _lines(directory / "bits.jsonl")
        per_epoch = last["step"] / config.epochs
        metrics["active"] = [look | {"epoch": round(look["step"] / per_epoch, 3)} for look in looks]
    return metrics


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def probed(directory: Path, units: Sequence[int], forest_images: int) -> dict[str, Any]:
    """Frozen features on the test images: linear probes, the forest by units, active bits, aggregate variance.

    linear.NAME: logistic regression, in per cent, of h, z and bits. forest.K: F1 on K units, of the bits or
    the mean, and forest.all on all of them; no units: no forest. variance: of q(z|x); spread: of z from image to image.
    """
    model, config = load_model(directory)
    train, test = data.load(config.data, "train"), data.load(config.data, "test")
    assert train.labels is not None and test.labels is not None
    a, b = extract(model, train.pixels, config.views), extract(model, test.pixels, config.views)
    metrics = {"linear.h": probes.linear_top1(a.h, train.labels, b.h, test.labels)}
    if a.z is not None and b.z is not None:
        metrics["linear.z"] = probes.linear_top1(a.z, train.labels, b.z, test.labels)
        metrics["variance"] = probes.aggregate_variance(b.uncertainty)
        metrics["spread"] = b.z.double().var(0).mean().item()
    code = b.z if b.bits is None else b.bits
    if code is not None and units:
        chosen = torch.tensor(stratified_subset(test.labels.numpy(), forest_images))
        width = code.shape[1]
        counts = [count for count in units if count < width] + [width]
        scores = probes.forest_f1(code[chosen], test.labels[chosen], counts)
        metrics |= {f"forest.{count}": scores[count] for count in counts}
        metrics["forest.all"] = scores[width]
    if a.bits is not None and b.bits is not None:
        metrics["linear.bits"] = probes.linear_top1(a.bits, train.labels, b.bits, test.labels)
        metrics |= probes.count_bits(b.bits)
    return {name: round(float(value), 5) for name, value in metrics.items()}


def classified(
    directory: Path,
    mode: Mode,
    labels: float,
    epochs: int,
    batch_size: int,
    rates: tuple[float, ...] | None = None,
    crop: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """Appendix A.3 or A.2 for one length: top-1 in per cent on validation, for choosing, and on test.

    Of several learning rates the best on validation.
    """
    out = directory / f"{mode}-{labels:g}-{epochs}epochs"
    result = classify(
        directory,
        mode,
        labels=labels,
        epochs=[epochs],
        lr=rates or (LEARNING_RATE,),
        crop=crop or CROP,
        batch_size=batch_size,
        out=out,
        progress=False,
    )
    best = max(result["validation"], key=lambda trial: trial["top1"])
    scores = {"validation": best, "test": result["test"]}
    metrics = {
        f"{split}.{name}": score[name]
        for split, score in scores.items()
        for name in ("top1", "bits", "h")
        if name in score
    }
    return {"images": result["images"], "lr": result["chosen_lr"]} | metrics
