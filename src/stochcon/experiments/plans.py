"""Plans of the paper's experiments on a data set: for a CPU, and at the paper's own size.

A plan says which images, how large a network and how long; the figures say which models. Each run that they ask
for is a cell, whose result is one JSON file below results/paper.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from stochcon.config import Backbone, Config, Data, Head, Latent, Optimizer, Rebit, Views
from stochcon.recipebook import cifar10, recipe
from stochcon.train.classifier import Mode

RESULTS, RUNS = Path("results/paper"), Path("runs/paper")


@dataclass(frozen=True)
class Cell:
    """One run: a pretraining, or a measurement of its model, or a classifier that starts from it."""

    model: str
    config: Config  # of the pretraining, with the seed
    task: Literal["pretrain", "probe"] | Mode = "pretrain"
    labels: float | None = None  # the share of the training labels that a classifier has
    epochs: int | None = None  # the length of classification
    batch_size: int | None = None  # of classification
    lr: tuple[float, ...] | None = None  # the best on validation is tested; None means A.3's
    head_lr: tuple[float, ...] | None = None  # how many times as high that of the head is; the best as above
    crop: tuple[float, float] | None = None  # the share that random crops cover; None means ImageNet's
    units: tuple[int, ...] | None = None  # how many the forests of a probe have
    images: int | None = None  # how many the forests of a probe have, or the pretraining

    @property
    def settings(self) -> dict[str, Any]:
        """All that a result depends on besides the configuration, as JSON has it."""
        return json.loads(json.dumps({k: v for k, v in asdict(self).items() if k not in ("model", "config")}))

    @property
    def path(self) -> Path:
        """The JSON file of the result: tier and data set / model / what was done, and the seed."""
        length = "" if self.labels is None else f"-{self.labels:g}-{self.epochs}epochs"
        return RESULTS / self.config.recipe / self.model / f"{self.task}{length}-seed{self.config.seed}.json"

    @property
    def directory(self) -> Path:
        """The run directory of the pretraining, which all cells of one configuration share."""
        said = self.config.model_dump_json(exclude_defaults=True)  # a new option changes no name
        return RUNS / f"{self.config.recipe}-{self.model}-{sha256(said.encode()).hexdigest()[:12]}"

    def work(self) -> float:
        """Estimate the work, counted in images of a global view's size that pass forward and backward.

        Example:
            >>> Cell("simclr", Config(), "frozen", labels=0.5, epochs=6, images=1000).work()  # forward alone
            1000.0
        """
        if self.task == "probe":
            return 20_000.0  # for its forests and regressions
        views, images = self.config.views, self.images or 0
        if self.task == "pretrain":
            share = (views.local_size / views.global_size) ** 2
            return images * self.config.epochs * (2 + views.local_views * share)
        trials = len(self.lr or "1") * len(self.head_lr or "1")
        passes = trials * images * (self.labels or 1) * (self.epochs or 1)
        return passes / 3 if self.task == "frozen" else passes

    def __str__(self) -> str:
        """Name the run for the progress of a grid."""
        return self.path.relative_to(RESULTS).with_suffix("").as_posix()


class Model(NamedTuple):
    """A row of a table or a line of a figure: the latent between the backbone and the head, and its name."""

    name: str
    latent: Latent


def bernoulli(dim: int | None = None, placement: str = "top", hard: bool = False) -> Model:
    """Name a Bernoulli latent; by default soft and on top, as the paper has it with a bottleneck."""
    latent = Latent.model_validate({"dim": dim, "placement": placement, "hard": hard})
    return Model(f"bernoulli-{'hard' if hard else 'soft'}-{placement}-{dim or 'full'}", latent)


def gaussian(dim: int | None = None, variance: str = "cross") -> Model:
    """Name a Gaussian latent, which reads its variance from the opposing view ("cross") or from its "own"."""
    latent = Latent.model_validate({"kind": "gaussian", "dim": dim, "placement": "top", "variance": variance})
    return Model(f"gaussian-{variance}-{dim or 'full'}", latent)


SIMCLR = Model("simclr", Latent(kind="deterministic"))
CENTRAL = SIMCLR.name, bernoulli().name, gaussian().name  # these have all seeds, and everything else FEWER
FEWER = 3
# Not the paper's: a Bernoulli with the two extensions of this project.
EXTENDED = Model("bernoulli-extended", Latent(placement="top", hard=False, logit_scale=4, decorrelation=0.05))


@dataclass(frozen=True)
class Plan:
    """The experiments on one data set. Methods that return cells return one for each seed."""

    config: Config  # of SimCLR's pretraining; the other models differ in the latent alone
    images: int  # how many it trains on
    models: tuple[Model, ...]  # the rows of table 1
    full: int  # the width of h, and so of a latent without a bottleneck
    widths: tuple[int | None, ...]  # the bottlenecks of figures 2 and 3, ascending; None is the full width
    own: tuple[int | None, ...]  # the widths at which figure 3 has own variance too
    narrow: int  # the bottleneck of figure 4
    lengths: dict[float, tuple[int, ...]]  # by share of the labels, the epochs that table 1 chooses from
    rates: tuple[float, ...]  # the learning rates that supervised training chooses from
    head_rates: dict[str, tuple[float, ...]]  # by mode, how many times as high a head's learning rate is tried
    longer: tuple[int, ...]  # the epochs for which figure 5 fine-tunes SimCLR
    batch_size: int  # of classification
    forest_images: int  # test images on which the forest is cross-validated
    looks: int  # how often the active bits are counted during pretraining
    crop: tuple[float, float] | None = None  # the share that random crops of classification cover
    units: tuple[int, ...] = (2, 4, 8, 11, 16, 32, 64)  # the numbers of units that figure 2 gives to a forest
    few: int = 11  # the number of units at which widths are compared
    seeds: tuple[int, ...] = ()

    def with_seeds(self, seeds: Iterable[int]) -> Self:
        """Return the same experiments with these seeds."""
        return replace(self, seeds=tuple(seeds))

    def cells(self, model: Model, **measured: Any) -> list[Cell]:
        """List the pretrainings of a model, or what is `measured` of them."""
        steps = self.images // self.config.batch_size * self.config.epochs
        changed = {"latent": model.latent, "checkpoint_every": max(1, steps // self.looks)}
        few = model.name not in CENTRAL or measured.get("task") == "supervised-bernoulli"
        seeds = [seed for seed in self.seeds if seed < FEWER or not few]
        configs = [self.config.model_copy(update=changed | {"seed": seed}) for seed in seeds]
        return [Cell(model.name, config, **({"images": self.images} | measured)) for config in configs]

    def probe(self, model: Model, forest: bool = True) -> list[Cell]:
        """List the measurements of a model's frozen features."""
        return self.cells(model, task="probe", units=self.units if forest else (), images=self.forest_images)

    def classify(self, model: Model, mode: Mode, labels: float, epochs: int) -> list[Cell]:
        """List the classifiers of one length that start from a model."""
        settings = {"labels": labels, "epochs": epochs, "batch_size": self.batch_size, "crop": self.crop}
        lr = self.rates if mode.startswith("supervised") else None
        return self.cells(model, task=mode, lr=lr, head_lr=self.head_rates[mode], **settings)

    def choices(self, model: Model, mode: Mode, labels: float) -> list[Cell]:
        """List the classifiers of all lengths, among which validation chooses."""
        return [c for epochs in self.lengths[labels] for c in self.classify(model, mode, labels, epochs)]

    def with_pretraining(self, cells: Iterable[Cell]) -> list[Cell]:
        """List the cells, each once, after the pretrainings that they need."""
        pairs = [(Cell(cell.model, cell.config, images=self.images), cell) for cell in cells]
        return list(dict.fromkeys(cell for column in zip(*pairs, strict=True) for cell in column))


def _small(name: str, epochs: int) -> Config:
    """Shorten a recipe; validation images are held out, because lengths are chosen on them."""
    base = recipe(name, rebit=Rebit())  # which is off: no part of the paper
    data = base.data.model_copy(update={"limit": 6000, "holdout": True})
    changed = {"recipe": f"cpu-{name}", "data": data, "epochs": epochs, "batch_size": 128}
    return base.model_copy(update=changed)


# Two trials each, but a frozen head may need a hundred times the rate to converge. What starts from nothing has two
# rates for the whole network instead.
HEAD_RATES: dict[str, tuple[float, ...]] = {
    "finetune": (1.0, 10.0),
    "finetune-h": (1.0, 10.0),
    "frozen": (1.0, 10.0, 100.0),
    "supervised": (1.0,),
    "supervised-bernoulli": (1.0,),
}

PHOTOGRAPHS = Plan(
    config=_small("photographs", 32),
    images=6000,
    models=(bernoulli(), bernoulli(placement="bottom"), gaussian(), SIMCLR, EXTENDED),
    full=256,
    widths=(16, 64, None),
    own=(16, None),
    narrow=64,  # a quarter of the full width, as in the paper
    lengths={1.0: (36,), 0.1: (240,), 0.01: (1000,)},
    rates=(3e-4, 1e-3),
    head_rates=HEAD_RATES,
    longer=(12, 24, 36, 54, 72),
    batch_size=64,
    forest_images=1800,
    looks=10,
)

CIFAR10 = Plan(
    config=cifar10().model_copy(update={"recipe": "paper-cifar10", "precision": "bf16-mixed"}),
    images=45_000,
    models=(bernoulli(), gaussian(), SIMCLR),
    full=2048,
    widths=(16, 64, 128, 256, 512, 1024, None),
    own=(64, 512, None),
    narrow=512,
    lengths={1.0: (20, 60, 100), 0.1: (100,), 0.01: (200,)},  # the paper says figure 5's alone
    rates=(3e-4, 1e-3),
    head_rates=HEAD_RATES,
    longer=(20, 40, 60, 80, 100),
    batch_size=1024,
    forest_images=10_000,
    looks=50,
)


def _imagenet(backbone: str) -> Plan:
    """Plan ImageNet as SimCLR and DINO have it: 2 views of 224 and 8 of 96 pixels, 1000 epochs."""
    config = Config(
        recipe=f"paper-imagenet-{backbone}",
        data=Data(name="folder", root=Path("data/imagenet"), size=256),
        views=Views(global_size=224, local_size=96),
        backbone=Backbone(name=backbone, stem="standard"),
        head=Head(hidden=2048, dim=128),
        optimizer=Optimizer(name="lars", lr=4.8, weight_decay=1e-6, warmup=10),
        temperature=0.1,
        batch_size=4096,
        epochs=1000,
        precision="bf16-mixed",
    )
    return replace(CIFAR10, config=config, images=1_281_167, models=(bernoulli(), SIMCLR))


# By tier and data set. Table 1 has every data set of a tier; figures have the first, unless told otherwise.
TIERS: dict[str, dict[str, Plan]] = {
    "cpu": {
        "photographs": PHOTOGRAPHS,
        "fashion-mnist": replace(  # which has two views, so that top and bottom are the same
            PHOTOGRAPHS,
            config=_small("fashion-mnist", 48),
            models=(bernoulli(), gaussian(), SIMCLR, EXTENDED),
            crop=(0.6, 1.0),
        ),
    },
    "gpu": {  # ten minutes of an H100 by a guess: it has not run
        "fashion-mnist-gpu": replace(
            PHOTOGRAPHS,
            config=_small("fashion-mnist", 10).model_copy(
                update={
                    "recipe": "gpu-fashion-mnist",
                    "data": Data(name="fashion-mnist", size=28, channels=1),
                    "backbone": Backbone(name="resnet18"),
                    "batch_size": 512,
                    "precision": "bf16-mixed",
                }
            ),
            images=55_000,
            models=(bernoulli(), gaussian(), SIMCLR),
            full=512,
            lengths={1.0: (10,), 0.1: (60,), 0.01: (200,)},
            batch_size=256,
            crop=(0.6, 1.0),
        ),
    },
    "paper": {
        "cifar10": CIFAR10,
        "imagenet-resnet50": _imagenet("resnet50"),
        "imagenet-resnet200": _imagenet("resnet200"),
    },
}
