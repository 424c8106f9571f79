"""Appendix A.3 and A.2: a pretrained network fine-tuned or frozen, and the same network trained from nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor

from stochcon import atomic, runs
from stochcon.config import Config, Data, Optimizer, Views
from stochcon.data import sets as data
from stochcon.data.few_labels import choose, list_path
from stochcon.data.images import Images, Split
from stochcon.method.views import eval_view, global_view
from stochcon.parallel import rank, synchronise_batch_norm, world_size
from stochcon.recipebook import RECIPES, recipe
from stochcon.runs import load_model
from stochcon.train import loop as training
from stochcon.train.classifier import Classifier, Mode, start

LEARNING_RATE = 3e-4
CROP = (0.08, 1.0)
"""Share of the area that a random resized crop covers, as is standard on ImageNet."""


@dataclass(frozen=True)
class Trial:
    """One training: what is tried on validation, and what the trials of a result have in common."""

    mode: Mode
    labels: float
    epochs: int
    lr: float
    weight_decay: float
    batch_size: int
    crop: tuple[float, float]
    seed: int

    def folder(self, origin: str) -> str:
        """A name that differs if anything does; origin: of the images, of the network before training."""
        key = sha256(repr((self, origin)).encode()).hexdigest()[:12]
        return f"{self.mode}-{self.labels:g}-{self.epochs}-epochs-{key}"


def classify(
    source: Path | str,
    mode: Mode,
    *,
    labels: float = 1.0,
    epochs: Sequence[int] = (10,),
    lr: Sequence[float] = (LEARNING_RATE,),
    weight_decay: Sequence[float] = (0.0,),
    crop: tuple[float, float] = CROP,
    batch_size: int | None = None,
    seed: int | None = None,
    out: Path | str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train a classifier for each length, learning rate and decay, choose on validation, read test once.

    source: a finished run; its configuration says which images and which backbone. Supervised modes need
    nothing else of it, so they take a recipe's name too. labels: the share of training labels in use.
    batch_size and seed: by default the run's. Validation images are held out even if the run pretrained on
    them.

    Writes classify-MODE-LABELS.json to `out`, by default the run's directory, and each trial below
    `out`/classify. After an interruption the same call goes on, to the same bits; finished trials are not
    run again. Accuracies are in per cent: `top1` reads what A.3 trains on (h of SimCLR, a Gaussian's mean,
    a sample of a Bernoulli), `bits` a Bernoulli's deterministic bits through the same head, and `h` is a
    second head's beside it.

    Raises ValueError without labels, or with a class that has too few of them, and FloatingPointError when
    the loss is no longer finite.

    >>> import tempfile
    >>> directory = tempfile.mkdtemp()
    >>> result = classify("digits", "supervised", labels=0.1, epochs=[1, 2], out=directory, progress=False)
    >>> result["images"], [trial["epochs"] for trial in result["validation"]], list(result["test"])
    (108, [1, 2], ['top1'])
    >>> sorted(path.name for path in Path(directory).iterdir())
    ['classify', 'classify-supervised-0.1.json']
    """
    _check(epochs, lr, weight_decay, crop)
    config, directory = _source(source, mode)
    seed = config.seed if seed is None else seed
    out = Path(out or directory or Path("runs") / f"{config.recipe}-supervised-{seed}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; --out must name a folder, or one that is not there yet")

    fabric = training.launch(config.precision)
    held_out = config.data.model_copy(update={"holdout": True})
    train, train_labels = _labelled(held_out, "train")
    validation, validation_labels = _labelled(held_out, "validation")
    chosen = choose(train, held_out, labels)
    pixels, targets = train.pixels[chosen], train_labels[chosen]
    wanted = config.batch_size if batch_size is None else batch_size
    batch_size = min(wanted, len(chosen)) // world_size() * world_size()
    if batch_size < 2 * world_size():
        raise ValueError(f"batch_size is {batch_size}; batch norm needs at least 2 images on each process")
    origin = _origin(config, mode, directory, [train.ids[i] for i in chosen.tolist()], targets)
    trials = [
        Trial(mode, float(labels), *tried, batch_size, (float(crop[0]), float(crop[1])), seed)
        for tried in product(epochs, lr, weight_decay)
    ]

    def trained(trial: Trial) -> Classifier:
        folder = out / "classify" / trial.folder(origin)
        classifier = start(config, directory, mode, len(train.classes), seed).to(fabric.device)
        if not (folder / runs.MODEL).exists():
            fit(fabric, classifier, pixels, targets, config, trial, folder, progress)
        classifier.trained.load_state_dict(runs.read_tensors(folder / runs.MODEL)[0])
        return classifier

    scores = [
        accuracy(trained(trial), validation.pixels, validation_labels, config.views, seed) for trial in trials
    ]
    best = trials[max(range(len(trials)), key=lambda i: scores[i]["top1"])]
    classifier = trained(best)
    test, test_labels = _labelled(held_out, "test")
    label_list = list_path(held_out, labels)
    result = {
        "recipe": config.recipe,
        "latent": repr(classifier.latent),
        "mode": mode,
        "labels": best.labels,
        "label_list": label_list and label_list.name,
        "images": len(chosen),
        "batch_size": batch_size,
        "crop": list(best.crop),
        "seed": seed,
        "epochs": list(epochs),
        "validation": [
            {"epochs": trial.epochs, "lr": trial.lr, "weight_decay": trial.weight_decay} | score
            for trial, score in zip(trials, scores, strict=True)
        ],
        "chosen": best.epochs,
        "chosen_lr": best.lr,
        "chosen_weight_decay": best.weight_decay,
        "test": accuracy(classifier, test.pixels, test_labels, config.views, seed),
    }
    if rank() == 0:
        atomic.write_json(out / f"classify-{mode}-{best.labels}.json", result)
    return result


def learning_rate(step: int, steps: int, first: float = LEARNING_RATE) -> float:
    """3e-4, or what is tried for it, and a tenth of it from 80 % of training on.

    >>> [f"{learning_rate(t, 10):.0e}" for t in (0, 7, 8, 9)]
    ['3e-04', '3e-04', '3e-05', '3e-05']
    """
    return first * (0.1 if 5 * step >= 4 * steps else 1.0)


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
    trial: Trial,
    folder: Path,
    progress: bool = False,
) -> None:
    """Train on uint8 images (N, C, S, S) and labels (N,), in place; goes on from a checkpoint in the folder."""
    views = augmentation(config.views, trial.crop)
    per_epoch = len(pixels) // trial.batch_size
    steps = per_epoch * trial.epochs
    classifier.train()
    if config.sync_batch_norm and world_size() > 1:
        synchronise_batch_norm(classifier)
    # AdamW without decay is Adam
    settings = Optimizer(name="adamw", lr=trial.lr, weight_decay=trial.weight_decay)
    network, optimizer = fabric.setup(classifier, training.build_optimizer(classifier.trained, settings))

    checkpoint = folder / runs.CHECKPOINT.name
    start = 0
    if checkpoint.exists():
        start = training.load_checkpoint(checkpoint, classifier.trained, optimizer, folder.name)
    elif rank() == 0:
        atomic.write_json(folder / "trial.json", asdict(trial))
    mine = training.share(trial.batch_size)
    title = f"{trial.mode}, {trial.epochs} epochs"
    with training.Journal(
        folder, title, start, steps, per_epoch, trial.batch_size, progress, "try a lower --lr"
    ) as journal:
        for step, indices in enumerate(
            training.batches(len(pixels), trial.batch_size, trial.seed, start, steps), start
        ):
            lr = learning_rate(step, steps, trial.lr)
            for group in optimizer.param_groups:
                group["lr"] = lr

            torch.manual_seed(training.number(trial.seed, step, rank()))
            images = global_view(pixels[indices[mine]].to(fabric.device), views)
            truth = labels[indices[mine]].to(fabric.device)
            losses = {name: F.cross_entropy(scores, truth) for name, scores in network(images).items()}
            optimizer.zero_grad()
            fabric.backward(torch.stack([*losses.values()]).sum())
            optimizer.step()

            journal.add(losses["top1"])
            done = step + 1
            if training.due(done, steps, config.log_every, config.checkpoint_every):
                journal.write(done, {"lr": lr})
            if rank() == 0 and done < steps and done % config.checkpoint_every == 0:
                training.save_checkpoint(checkpoint, done, classifier.trained, optimizer, folder.name)
    if rank() == 0:
        runs.write_tensors(folder / runs.MODEL, classifier.trained.state_dict())
        checkpoint.unlink(missing_ok=True)
    fabric.barrier()


@torch.inference_mode()
def accuracy(
    classifier: Classifier, pixels: Tensor, labels: Tensor, views: Views, seed: int
) -> dict[str, float]:
    """Per cent of uint8 images (N, C, S, S) that each reading of the classifier gets right."""
    classifier.eval()
    weight = next(classifier.heads.parameters())
    torch.manual_seed(training.number(seed))
    right: Counter[str] = Counter()
    for batch, truth in zip(pixels.split(512), labels.split(512), strict=True):
        images = eval_view(batch.to(weight.device), views).to(weight, memory_format=torch.channels_last)
        for name, scores in classifier.readings(images).items():
            right[name] += int((scores.argmax(1).cpu() == truth).sum())
    return {name: round(100 * count / len(labels), 2) for name, count in right.items()}


def _check(
    epochs: Sequence[int], lr: Sequence[float], weight_decay: Sequence[float], crop: tuple[float, float]
) -> None:
    if not epochs or min(epochs) < 1:
        raise ValueError(f"epochs is {list(epochs)}; it must be one or more numbers of at least 1")
    if not lr or min(lr) <= 0:
        raise ValueError(f"lr is {list(lr)}; it must be one or more numbers above 0")
    if not weight_decay or min(weight_decay) < 0:
        raise ValueError(
            f"weight_decay is {list(weight_decay)}; it must be one or more numbers of at least 0"
        )
    if not 0 < crop[0] <= crop[1] <= 1:
        raise ValueError(f"crop is {list(crop)}; it must be two shares of the area, 0 < low <= high <= 1")


def _source(source: Path | str, mode: Mode) -> tuple[Config, Path | None]:
    if mode.startswith("supervised") and str(source) in RECIPES:
        return recipe(str(source)), None
    return runs.read_config(Path(source)), Path(source)


def _origin(config: Config, mode: Mode, directory: Path | None, ids: list[str], targets: Tensor) -> str:
    """A digest of what a training begins with: the images, their labels and the pretrained network."""
    parts = [config.model_dump_json(), *ids, *map(str, targets.tolist())]
    if directory and not mode.startswith("supervised"):
        load_model(directory)  # says what is wrong with a run that is not finished
        parts.append(sha256((directory / runs.MODEL).read_bytes()).hexdigest())
    return sha256("\n".join(parts).encode()).hexdigest()


def _labelled(config: Data, split: Split) -> tuple[Images, Tensor]:
    images = data.load(config, split)
    if images.labels is None:
        raise ValueError(
            f"{config.root} has no class folders, so there is nothing to classify: put images into root/class/"
        )
    return images, images.labels
