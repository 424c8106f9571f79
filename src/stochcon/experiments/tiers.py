"""Two sizes of the paper's experiments: one that a CPU can run, and the paper's own.

A tier says which data, how large a network, how long; the figures say which models. Both tiers share every
line of the figures' code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from stochcon import recipebook as recipes
from stochcon.config import Backbone, Config, Data, Head, Latent, Optimizer, Views


class Model(NamedTuple):
    """A row of a table, a line of a figure: what is between the backbone and the head."""

    name: str
    latent: Latent


SIMCLR = Model("simclr", Latent(kind="deterministic"))
EXTENDED = Model(
    "bernoulli-extended",
    Latent(placement="top", hard=False, logit_scale=4, decorrelation=0.05),
)
"""Not the paper's: with this project's two extensions."""


def bernoulli(dim: int | None = None, placement: str = "top", hard: bool = False) -> Model:
    """Soft and on the top branch unless figure 4 says otherwise: the variant that the paper has with a bottleneck."""
    variant = f"{'hard' if hard else 'soft'}-{placement}"
    latent = Latent.model_validate({"dim": dim, "placement": placement, "hard": hard})
    return Model("-".join(["bernoulli", variant, str(dim or "full")]), latent)


def gaussian(dim: int | None = None, variance: str = "cross") -> Model:
    latent = Latent.model_validate({"kind": "gaussian", "dim": dim, "placement": "top", "variance": variance})
    return Model(f"gaussian-{variance}-{dim or 'full'}", latent)


VARIANTS = {
    f"{'hard' if hard else 'soft'} {placement}": bernoulli(None, placement, hard)
    for hard in (True, False)
    for placement in ("bottom", "top")
}
"""Figure 4's four."""


@dataclass(frozen=True)
class Tier:
    """A size of the experiments. Lengths are in epochs of the labelled images."""

    name: str
    table: dict[str, Config]
    """By data set, SimCLR's configuration: those of table 1."""
    figures: tuple[str, ...]
    """The data sets that the figures are drawn of unless told otherwise."""
    images: dict[str, int]
    """By data set, how many images are trained on (for the arithmetic of time)."""
    models: dict[str, tuple[Model, ...]]
    """By data set, table 1's rows."""
    full: int
    """The width of h, which a latent without bottleneck has."""
    widths: tuple[int, ...]
    """Bottlenecks, ascending, for figures 2 and 3; the full width is added to them."""
    own: tuple[int | None, ...]
    """Those of them at which figure 3 also has own variance."""
    narrow: int
    """Figure 4's bottleneck."""
    lengths: dict[float, tuple[int, ...]]
    """By share of the labels, the lengths that table 1 chooses from; supervised training has twice the longest."""
    rates: dict[float, tuple[float, ...]]
    """By share of the labels, the learning rates that supervised training chooses from."""
    longer: tuple[int, ...]
    """Figure 5's lengths of SimCLR's fine-tuning."""
    batch_size: int
    """Of classifying."""
    units: tuple[int, ...]
    """Figure 2: numbers of a forest's units."""
    few: int
    """The number of units at which widths are compared."""
    forest_images: int
    """Test images on which the forest is cross-validated."""
    looks: int
    """How often the active bits are counted during a pretraining."""
    crops: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By data set, the share of the image that random crops of classifying cover, where it is not ImageNet's."""
    speed: float = field(default=0.0)
    """Forward and backward passes of a global view in a second on one worker; 0: by the arithmetic of GPUs."""

    def bottlenecks(self) -> tuple[int | None, ...]:
        return (*self.widths, None)

    def config(self, data: str, model: Model, seed: int) -> Config:
        """The pretraining of a model."""
        base = self.table[data].model_copy(update={"recipe": f"{self.name}-{data}", "latent": model.latent})
        steps = self.images[data] // base.batch_size * base.epochs
        return base.model_copy(update={"seed": seed, "checkpoint_every": max(1, steps // self.looks)})


def _small(name: str, limit: int, epochs: int) -> Config:
    """A recipe shortened; its validation images are held out, since lengths are chosen on them."""
    base = recipes.recipe(name)
    data = base.data.model_copy(update={"limit": limit, "holdout": True})
    return base.model_copy(update={"data": data, "epochs": epochs, "batch_size": 128})


CPU = Tier(
    name="cpu",
    table={"photographs": _small("photographs", 6000, 8), "fashion-mnist": _small("fashion-mnist", 6000, 12)},
    figures=("photographs",),
    images={"photographs": 6000, "fashion-mnist": 6000},
    models=dict.fromkeys(("photographs", "fashion-mnist"), (bernoulli(), gaussian(), SIMCLR, EXTENDED)),
    full=256,
    widths=(16, 64),
    own=(16, None),
    narrow=64,
    lengths={1.0: (4, 12), 0.1: (60,), 0.01: (200,)},
    rates={1.0: (3e-4,), 0.1: (3e-4,), 0.01: (3e-4, 1e-3)},
    longer=(4, 8, 12, 18, 24),
    batch_size=64,
    units=(2, 4, 8, 11, 16, 32, 64),
    few=11,
    forest_images=1800,
    looks=10,
    crops={"fashion-mnist": (0.6, 1.0)},
    speed=1500,
)
"""Some three hours of two cores at 3 seeds, both data sets and all figures. Figure 4's bottleneck is a quarter of the width, as the paper's is."""


def _imagenet(backbone: str) -> Config:
    """ImageNet as SimCLR and DINO have it: 2 views of 224 and 8 of 96 pixels, 1000 epochs."""
    return Config(
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


PAPER = Tier(
    name="paper",
    table={
        "cifar10": recipes.cifar10().model_copy(update={"precision": "bf16-mixed"}),
        "imagenet-resnet50": _imagenet("resnet50"),
        "imagenet-resnet200": _imagenet("resnet200"),
    },
    figures=("cifar10",),
    images={"cifar10": 45_000, "imagenet-resnet50": 1_281_167, "imagenet-resnet200": 1_281_167},
    models={
        "cifar10": (bernoulli(), gaussian(), SIMCLR),
        "imagenet-resnet50": (bernoulli(), SIMCLR),
        "imagenet-resnet200": (bernoulli(), SIMCLR),
    },
    full=2048,
    widths=(16, 64, 128, 256, 512, 1024),
    own=(64, 512, None),
    narrow=512,
    lengths={1.0: (20, 60, 100), 0.1: (100,), 0.01: (200,)},
    rates={labels: (3e-4, 1e-3) for labels in (1.0, 0.1, 0.01)},
    longer=(20, 40, 60, 80, 100),
    batch_size=1024,
    units=(2, 4, 8, 11, 16, 32, 64),
    few=11,
    forest_images=10_000,
    looks=50,
)
"""Lengths of pretraining are SimCLR's, since the paper does not say; of fine-tuning, figure 5's."""

TIERS = {tier.name: tier for tier in (CPU, PAPER)}


def tier(name: str) -> Tier:
    """The named tier. Raises ValueError with the names there are."""
    if name not in TIERS:
        raise ValueError(f"--tier: there is no {name!r}; there are {', '.join(TIERS)}")
    return TIERS[name]
