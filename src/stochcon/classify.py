"""Appendix A.3 and A.2: a pretrained network fine-tuned or frozen, and the same network trained from nothing.

One process; a run that is interrupted starts again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from stochcon import backbones, data, rundir, training
from stochcon.config import Config, Data, Latent, Views
from stochcon.distributed import world_size
from stochcon.features import load_model
from stochcon.images import Images, Split
from stochcon.model import StochCon
from stochcon.recipes import RECIPES, recipe
from stochcon.views import eval_view, global_view

Mode = Literal["finetune", "frozen", "supervised", "supervised-bernoulli"]

LEARNING_RATE = 3e-4
TEMPERATURE = 0.1
"""Of the Bernoulli's relaxation, all the time."""
SKIP = 0.5
"""How often the supervised network's Bernoulli layer is dropped in training (A.2)."""
CROP = (0.08, 1.0)
"""Share of the area that a random resized crop covers, as is standard on ImageNet."""


def classify(
    source: Path | str,
    mode: Mode,
    *,
    labels: float = 1.0,
    epochs: Sequence[int] = (10,),
    crop: tuple[float, float] = CROP,
    batch_size: int | None = None,
    seed: int | None = None,
    out: Path | str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train a classifier for each number of epochs, choose on validation, read test once; what was measured.

    source: a finished run; its configuration says which images and which backbone. Supervised modes need
    nothing else of it, so they take a recipe's name too. labels: the share of training labels in use.
    batch_size and seed: by default the run's. Validation images are held out even if the run pretrained on
    them. Writes classify-MODE-LABELS.json to `out`, by default the run's directory. Accuracies are in per
    cent: `top1` reads what A.3 trains on (h of SimCLR, a Gaussian's mean, a sample of a Bernoulli), `bits` a
    Bernoulli's deterministic bits.

    Raises ValueError without labels, or with a class that has too few of them, and FloatingPointError when
    the loss is no longer finite.

    >>> import tempfile
    >>> directory = tempfile.mkdtemp()
    >>> result = classify("digits", "supervised", labels=0.1, epochs=[1, 2], out=directory, progress=False)
    >>> result["images"], result["epochs"], list(result["test"])
    (108, [1, 2], ['top1'])
    >>> [path.name for path in Path(directory).iterdir()]
    ['classify-supervised-0.1.json']
    """
    if world_size() > 1:
        raise ValueError("classify runs on one process: start it without torchrun")
    if not epochs or min(epochs) < 1:
        raise ValueError(f"epochs is {list(epochs)}; it must be one or more numbers of at least 1")
    config, directory = _source(source, mode)
    seed = config.seed if seed is None else seed
    out = Path(out or directory or Path("runs") / f"{config.recipe}-supervised-{seed}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; --out must name a folder, or one that is not there yet")

    held_out = config.data.model_copy(update={"holdout": True})
    train, train_labels = _labelled(held_out, "train")
    validation, validation_labels = _labelled(held_out, "validation")
    chosen = label_indices(train_labels, labels, seed)
    pixels, targets = train.pixels[chosen], train_labels[chosen]
    batch_size = min(batch_size or config.batch_size, len(chosen))
    if batch_size < 2:
        raise ValueError(f"batch_size is {batch_size}; batch norm needs at least 2 images a step")

    fabric = training.launch(config.precision)
    tried: list[dict[str, float]] = []
    for length in epochs:
        network = start(config, directory, mode, len(train.classes), seed).to(fabric.device)
        fit(fabric, network, pixels, targets, config, length, batch_size, seed, crop, progress)
        tried.append(top1(network, validation.pixels, validation_labels, config.views, seed))
        if all(tried[-1]["top1"] > other["top1"] for other in tried[:-1]):
            best, best_epochs = network, length

    test, test_labels = _labelled(held_out, "test")
    result = {
        "recipe": config.recipe,
        "latent": repr(best.latent),
        "mode": mode,
        "labels": float(labels),
        "images": len(chosen),
        "batch_size": batch_size,
        "crop": list(crop),
        "seed": seed,
        "epochs": list(epochs),
        "validation": tried,
        "chosen": best_epochs,
        "test": top1(best, test.pixels, test_labels, config.views, seed),
    }
    rundir.write_json(out / f"classify-{mode}-{float(labels)}.json", result)
    return result


def label_indices(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Indices, ascending, of a stratified share of the labels (N,); those of a smaller share are among them.

    Raises ValueError if a class would have none.

    >>> label_indices(torch.tensor([0, 0, 0, 0, 1, 1]), 0.5, seed=0)
    tensor([0, 2, 4])
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"labels is {fraction}; it must be a share above 0 and at most 1")
    chosen = []
    for c in labels.unique().tolist():
        members = (labels == c).nonzero()[:, 0].numpy()
        if fraction * len(members) < 1:
            raise ValueError(
                f"labels is {fraction:g}, which leaves none of the {len(members)} training images of class {c}: "
                f"use at least {np.ceil(1000 / len(members)) / 1000:g}"
            )
        order = np.random.default_rng([seed, c]).permutation(members)
        chosen.append(order[: round(fraction * len(members))])
    return torch.from_numpy(np.sort(np.concatenate(chosen)))


class Classifier(nn.Module):
    """Images to class scores, through a pretrained backbone and latent and a new linear head on z."""

    def __init__(self, model: StochCon, classes: int, frozen: bool = False):
        super().__init__()
        self.backbone, self.pi, self.latent = model.backbone, model.pi, model.latent
        self.head = nn.Linear(self.latent.dim, classes)
        self.frozen = frozen
        if frozen:
            self.backbone.requires_grad_(False)
            self.pi.requires_grad_(False)

    def train(self, mode: bool = True) -> Classifier:
        super().train(mode)
        self.pi.eval()  # standardised logits keep the thresholds that pretraining measured
        if self.frozen:  # not even batch norm's statistics move
            self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, S, S) to (N, classes)."""
        return self.head(self.z(self.backbone(images)))

    def z(self, h: Tensor, deterministic: bool = False) -> Tensor:
        """What the head reads: a sample of a latent with bits, or the bits; the mean of another; h of none."""
        phi = self.pi(h)
        bits = self.latent.bits(phi)
        if bits is None:
            mean = self.latent.code(phi)
            return h if mean is None else mean
        return bits.float() if deterministic else self.latent(phi, phi, TEMPERATURE).rsample()


class DroppedBernoulli(Classifier):
    """A.2: pi, a Bernoulli and rho between h and the head; in training, half of the images skip them."""

    def __init__(self, model: StochCon, classes: int):
        super().__init__(model, classes)
        self.rho = model.rho
        self.head = nn.Linear(backbones.width(model.backbone), classes)

    def z(self, h: Tensor, deterministic: bool = False) -> Tensor:
        through = self.rho(super().z(h, deterministic))
        if not self.training:
            return through
        return torch.where(torch.rand(len(h), 1, device=h.device) < SKIP, h, through)


def start(config: Config, directory: Path | None, mode: Mode, classes: int, seed: int) -> Classifier:
    """The network before its first step: of the run in `directory`, or in the supervised modes a new one."""
    torch.manual_seed(training.number(seed))
    if mode == "supervised":
        return Classifier(_new(config, Latent(kind="deterministic")), classes)
    if mode == "supervised-bernoulli":
        return DroppedBernoulli(_new(config, Latent(kind="bernoulli", hard=False)), classes)
    assert directory is not None
    return Classifier(load_model(directory)[0], classes, frozen=mode == "frozen")


def _new(config: Config, latent: Latent) -> StochCon:
    return StochCon(config.model_copy(update={"latent": latent})).to(memory_format=torch.channels_last)


def learning_rate(step: int, steps: int) -> float:
    """3e-4, and a tenth of it from 80 % of training on.

    >>> [f"{learning_rate(t, 10):.0e}" for t in (0, 7, 8, 9)]
    ['3e-04', '3e-04', '3e-05', '3e-05']
    """
    return LEARNING_RATE * (0.1 if 5 * step >= 4 * steps else 1.0)


def augmentation(views: Views, crop: tuple[float, float]) -> Views:
    """Random flip, as often as in pretraining (digits are not), and random resized crop; all else off."""
    off = {"jitter": 0.0, "grey": 0.0, "blur": (0.0, 0.0, 0.0), "solarize": (0.0, 0.0, 0.0)}
    return Views.model_validate(views.model_dump() | off | {"global_scale": crop, "local_views": 0})


def fit(
    fabric: Fabric,
    classifier: Classifier,
    pixels: Tensor,
    labels: Tensor,
    config: Config,
    epochs: int,
    batch_size: int,
    seed: int,
    crop: tuple[float, float] = CROP,
    progress: bool = False,
) -> None:
    """Train on uint8 images (N, C, S, S) and labels (N,), in place, with Adam and cross entropy."""
    views = augmentation(config.views, crop)
    steps = len(pixels) // batch_size * epochs
    classifier.train()
    parameters = [p for p in classifier.parameters() if p.requires_grad]
    network, optimizer = fabric.setup(classifier, torch.optim.Adam(parameters, lr=LEARNING_RATE))
    with training.progress_bar(progress) as bar:
        task = bar.add_task(f"{epochs} epochs", total=steps, batch_size=batch_size, loss=float("nan"))
        for step, indices in enumerate(training.batches(len(pixels), batch_size, seed, 0, steps)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps)
            torch.manual_seed(training.number(seed, step))
            scores = network(global_view(pixels[indices].to(fabric.device), views))
            loss = F.cross_entropy(scores, labels[indices].to(fabric.device))
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()
            if (step + 1) % config.log_every == 0 or step + 1 == steps:
                if not loss.isfinite():
                    raise FloatingPointError(f"the loss is not finite at step {step + 1} of {steps}")
                bar.update(task, completed=step + 1, loss=loss.item())


@torch.inference_mode()
def top1(classifier: Classifier, pixels: Tensor, labels: Tensor, views: Views, seed: int) -> dict[str, float]:
    """Per cent of uint8 images (N, C, S, S) that are classified right: `top1`, and `bits` of a latent with bits."""
    classifier.eval()
    device = classifier.head.weight.device
    torch.manual_seed(training.number(seed))
    right = {"top1": 0, "bits": 0}
    has_bits = False
    for batch, truth in zip(pixels.split(512), labels.split(512), strict=True):
        images = eval_view(batch.to(device), views).contiguous(memory_format=torch.channels_last)
        h = classifier.backbone(images)
        has_bits = classifier.latent.bits(classifier.pi(h)) is not None
        for name, deterministic in (("top1", False), ("bits", True)):
            scores = classifier.head(classifier.z(h, deterministic))
            right[name] += int((scores.argmax(1).cpu() == truth).sum())
    return {
        name: round(100 * count / len(labels), 2)
        for name, count in right.items()
        if has_bits or name == "top1"
    }


def _source(source: Path | str, mode: Mode) -> tuple[Config, Path | None]:
    if mode.startswith("supervised") and str(source) in RECIPES:
        return recipe(str(source)), None
    return rundir.read_config(Path(source)), Path(source)


def _labelled(config: Data, split: Split) -> tuple[Images, Tensor]:
    images = data.load(config, split)
    if images.labels is None:
        raise ValueError(
            f"{config.root} has no class folders, so there is nothing to classify: put images into root/class/"
        )
    return images, images.labels
