"""Appendix A.3 and A.2: a pretrained network fine-tuned or frozen, and the same network trained from nothing."""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from pydantic import Field, ValidationError
from torch import Tensor

from stochcon import atomic, runs
from stochcon.config import Config, Count, Frozen, NotNegative, Optimizer, Positive, Views, explain
from stochcon.data.few_labels import choose, list_path
from stochcon.data.sets import load_labelled
from stochcon.parallel import rank, synchronise_batch_norm, world_size
from stochcon.recipebook import RECIPES, recipe
from stochcon.train.classifier import Classifier, Mode, start
from stochcon.train.loop import Loop, Schedule, build_optimizer, derive_seed, launch
from stochcon.views import eval_view, global_view

LEARNING_RATE = 3e-4
CROP = (0.08, 1.0)
"""Share of the area that a random resized crop covers, as is standard on ImageNet."""


class Trial(Frozen):
    """One training: what is tried on validation, and what the trials of a result have in common."""

    mode: Mode
    labels: Annotated[float, Field(gt=0, le=1)]
    epochs: Count
    lr: Positive
    head_lr: Positive = 1.0
    weight_decay: NotNegative
    batch_size: Count
    crop: tuple[Positive, Annotated[float, Field(le=1)]]
    seed: int

    def folder(self, origin: str) -> str:
        """Name its folder so that the name differs if anything does; origin: of the images and the network."""
        key = sha256((self.model_dump_json() + origin).encode()).hexdigest()[:12]
        return f"{self.mode}-{self.labels:g}-{self.epochs}-epochs-{key}"


def classify(
    source: Path | str,
    mode: Mode,
    *,
    labels: float = 1.0,
    epochs: Sequence[int] = (10,),
    lr: Sequence[float] = (LEARNING_RATE,),
    head_lr: Sequence[float] = (1.0,),
    weight_decay: Sequence[float] = (0.0,),
    crop: tuple[float, float] = CROP,
    batch_size: int | None = None,
    seed: int | None = None,
    out: Path | str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train a classifier for each length, learning rate and decay, choose on validation, and read test once.

    It writes classify-MODE-LABELS.json to `out`, and each trial below `out`/classify. After an interruption the same
    call goes on, to the same bits; finished trials are not run again. Validation images are held out even if the run
    pretrained on them.

    Args:
        source: A finished run, whose configuration says which images and which backbone. Supervised modes need
            nothing else of it, so they take a recipe's name too.
        mode: Which part is trained; supervised-bernoulli has appendix A.2's layer.
        labels: Share of the training labels in use, above 0 and at most 1.
        epochs: Lengths to try.
        lr: Learning rates to try; each is divided by ten from 80 % of training on.
        head_lr: How many times as high the head's learning rate is, to try with each of these.
        weight_decay: Weight decays to try.
        crop: Smallest and largest share of the area that a random crop covers.
        batch_size: Images in a step; by default the run's.
        seed: By default the run's.
        out: By default the run's directory.
        progress: Whether to show progress bars.

    Returns:
        The result, with accuracies in per cent: `top1` reads what A.3 trains on (h of SimCLR, a Gaussian's mean, a
        sample of a Bernoulli), `mean` and `bits` a Bernoulli's probabilities and deterministic bits through the same
        head, and `h` is a second head's beside it, which the network does not learn from.

    Raises:
        ValueError: Without labels, or with a class that has too few of them.
        FloatingPointError: When the loss is no longer finite.

    Example:
        >>> import tempfile
        >>> directory = tempfile.mkdtemp()
        >>> result = classify("digits", "supervised", labels=0.1, epochs=[1, 2], out=directory, progress=False)
        >>> result["images"], [trial["epochs"] for trial in result["validation"]], list(result["test"])
        (108, [1, 2], ['top1'])
    """
    of_recipe = mode.startswith("supervised") and str(source) in RECIPES
    directory = None if of_recipe else Path(source)
    config = recipe(str(source)) if directory is None else runs.read_config(directory)
    seed = config.seed if seed is None else seed
    out = Path(out or directory or Path("runs") / f"{config.recipe}-supervised-{seed}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; --out must name a folder, or one that is not there yet")

    fabric = launch(config.precision)
    held_out = config.data.model_copy(update={"holdout": True})
    train, train_labels = load_labelled(held_out, "train")
    validation, validation_labels = load_labelled(held_out, "validation")
    chosen = choose(train, held_out, labels)
    pixels, targets = train.pixels[chosen], train_labels[chosen]
    batch_size = min(batch_size or config.batch_size, len(chosen)) // world_size() * world_size()
    if batch_size < 2 * world_size():
        raise ValueError(f"batch_size is {batch_size}; batch norm needs at least 2 images on each process")
    origin = _origin(config, mode, directory, [train.ids[i] for i in chosen.tolist()], targets)
    same: dict[str, Any] = {"labels": labels, "batch_size": batch_size, "crop": crop, "seed": seed}
    try:
        trials = [
            Trial(mode=mode, **same, epochs=length, lr=rate, head_lr=factor, weight_decay=decay)
            for length, rate, factor, decay in product(epochs, lr, head_lr, weight_decay)
        ]
    except ValidationError as error:
        raise ValueError(explain(error)) from None
    if not trials:
        raise ValueError("epochs, lr, head_lr and weight_decay: each must have one or more numbers to try")

    def trained(trial: Trial) -> Classifier:
        folder = out / "classify" / trial.folder(origin)
        torch.manual_seed(derive_seed(seed))
        classifier = start(config, directory, mode, len(train.classes)).to(fabric.device)
        if not (folder / runs.MODEL).exists():
            fit(fabric, classifier, pixels, targets, config, trial, folder, progress)
        classifier.trained.load_state_dict(runs.read_tensors(folder / runs.MODEL)[0])
        return classifier

    with torch.random.fork_rng([fabric.device] if fabric.device.type == "cuda" else []):
        scores = [
            accuracy(trained(trial), validation.pixels, validation_labels, config.views, seed) for trial in trials
        ]
        best = max(range(len(trials)), key=lambda i: scores[i]["top1"])
        classifier = trained(trials[best])
        test, test_labels = load_labelled(held_out, "test")
        on_test = accuracy(classifier, test.pixels, test_labels, config.views, seed)
    label_list, tried = list_path(held_out, labels), {"epochs", "lr", "head_lr", "weight_decay"}
    result = {
        "recipe": config.recipe,
        "latent": repr(classifier.latent),
        "mode": mode,
        "label_list": label_list and label_list.name,
        "images": len(chosen),
        **trials[best].model_dump(include={*same}, mode="json"),
        "epochs": list(epochs),
        "validation": [t.model_dump(include=tried) | score for t, score in zip(trials, scores, strict=True)],
        "chosen": trials[best].epochs,
        "chosen_lr": trials[best].lr,
        "chosen_head_lr": trials[best].head_lr,
        "chosen_weight_decay": trials[best].weight_decay,
        "test": on_test,
    }
    if rank() == 0:
        atomic.write_json(out / f"classify-{mode}-{float(labels)}.json", result)
    return result


def learning_rate(step: int, steps: int, first: float = LEARNING_RATE) -> float:
    """Return 3e-4, or what is tried for it, and a tenth of it from 80 % of training on (A.3).

    >>> [f"{learning_rate(t, 10):.0e}" for t in (0, 7, 8, 9)]
    ['3e-04', '3e-04', '3e-05', '3e-05']
    """
    return first * (0.1 if 5 * step >= 4 * steps else 1.0)


def augmentation(views: Views, crop: tuple[float, float]) -> Views:
    """Keep the random flip, as often as in pretraining (digits are not flipped), and the random resized crop."""
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
    """Train a classifier on uint8 images (N, C, S, S) and labels (N,), in place, and leave its weights in the folder.

    It goes on from a checkpoint there. The configuration says views, precision and how often to log.
    """
    views = augmentation(config.views, trial.crop)
    schedule = Schedule(
        len(pixels), trial.batch_size, trial.epochs, trial.seed, config.log_every, config.checkpoint_every
    )
    classifier.train()
    if config.sync_batch_norm and world_size() > 1:
        synchronise_batch_norm(classifier)
    # AdamW without decay is Adam
    options = Optimizer(name="adamw", lr=trial.lr, weight_decay=trial.weight_decay)
    trained = classifier.trained

    def factor(name: str) -> float:
        return trial.head_lr if classifier.frozen or name.startswith("heads.") else 1.0

    network, optimizer = fabric.setup(classifier, build_optimizer(trained, options, factor))
    if rank() == 0:
        atomic.write_json(folder / "trial.json", trial.model_dump(mode="json"))

    def batches(order: Iterator[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        return ((pixels[i].to(fabric.device), labels[i].to(fabric.device)) for i in order)

    about = {"digest": folder.name, "title": f"{trial.mode}, {trial.epochs} epochs"}
    loop = Loop(classifier.trained, optimizer, folder, schedule, **about, advice="try a lower --lr", progress=progress)
    for step, (images, truth) in loop.steps(batches, lambda t: learning_rate(t, schedule.steps, trial.lr)):
        torch.manual_seed(derive_seed(trial.seed, step, rank()))
        scores = network(global_view(images, views))
        losses = {name: F.cross_entropy(x, truth) for name, x in scores.items()}
        optimizer.zero_grad()
        fabric.backward(torch.stack([*losses.values()]).sum())
        optimizer.step()
        loop.record(losses["top1"])
    if rank() == 0:
        runs.write_tensors(folder / runs.MODEL, classifier.trained.state_dict())
        shutil.rmtree((folder / runs.CHECKPOINT).parent)
    fabric.barrier()


@torch.inference_mode()
def accuracy(classifier: Classifier, pixels: Tensor, labels: Tensor, views: Views, seed: int) -> dict[str, float]:
    """Return the per cent of uint8 images (N, C, S, S) that each reading of the classifier gets right."""
    classifier.eval()
    weight = next(classifier.heads.parameters())
    torch.manual_seed(derive_seed(seed))
    right: Counter[str] = Counter()
    for batch, truth in zip(pixels.split(512), labels.split(512), strict=True):
        images = eval_view(batch.to(weight.device), views).to(weight, memory_format=torch.channels_last)
        for name, scores in classifier(images).items():
            right[name] += int((scores.argmax(1).cpu() == truth).sum())
    return {name: round(100 * count / len(labels), 2) for name, count in right.items()}


def _origin(config: Config, mode: Mode, directory: Path | None, ids: list[str], targets: Tensor) -> str:
    """Hash what a training begins with: the images, their labels and the pretrained network."""
    parts = [config.model_dump_json(), *ids, *map(str, targets.tolist())]
    if directory and not mode.startswith("supervised"):
        runs.load_model(directory)  # says what is wrong with a run that is not finished
        parts.append(sha256((directory / runs.MODEL).read_bytes()).hexdigest())
    return sha256("\n".join(parts).encode()).hexdigest()
