"""Figure 4: how many bits of an image are ones, along training, of the train and of the test images."""

from __future__ import annotations

from itertools import chain

from matplotlib.figure import Figure

from stochcon.experiments import drawing
from stochcon.experiments.grid import Cell, read
from stochcon.experiments.intervals import cell
from stochcon.experiments.plan import BySeed, Plan
from stochcon.experiments.tiers import VARIANTS, Model, bernoulli

TITLE = "Figure 4: active bits along training"
PUBLISHED = (
    "The paper (CIFAR-10, ResNet-50, 2048 bits): near a half at first, then fewer; of a bottleneck of 512, soft top, "
    "a half to the end. Curves only, no numbers."
)
SPLITS = ("train", "test")


def models(plan: Plan) -> dict[str, Model]:
    narrow = plan.tier.narrow
    return VARIANTS | {f"soft top, {narrow} bits": bernoulli(narrow)}


def cells(plan: Plan) -> list[Cell]:
    return list(chain.from_iterable(plan.cells(model) for model in models(plan).values()))


def curve(plan: Plan, model: Model, split: str) -> dict[float, BySeed]:
    """By epoch, by seed: the per cent of ones."""
    points: dict[float, BySeed] = {}
    for run in plan.cells(model):
        for look in (read(run) or {"active": []})["active"]:
            points.setdefault(look["epoch"], {})[run.config.seed] = look[split]
    return points


def ends(plan: Plan, model: Model, split: str) -> tuple[BySeed, BySeed]:
    """The first and the last look."""
    points = curve(plan, model, split)
    return (points[min(points)], points[max(points)]) if points else ({}, {})


def markdown(plan: Plan) -> str:
    rows = [
        [name, *(cell(column.values()) for split in SPLITS for column in ends(plan, model, split))]
        for name, model in models(plan).items()
    ]
    head = ["ones (%)", "train: after one step", "at the end", "test: after one step", "at the end"]
    return f"{drawing.table(head, rows)}\n\n{PUBLISHED}"


def draw(plan: Plan) -> Figure:
    figure, axes = drawing.panels(2)
    for axis, split in zip(axes, SPLITS, strict=True):
        axis.axhline(50, color="0.6", linewidth=0.8)
        for style, (name, model) in enumerate(models(plan).items()):
            points = curve(plan, model, split)
            drawing.line(axis, list(points), list(points.values()), style, name)
        axis.set(xlabel="epoch", ylabel="ones among an image's bits (%)", title=f"{split} images")
    drawing.legend(axes[0])
    return figure
