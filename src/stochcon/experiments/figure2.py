"""Figure 2: accuracy by the bottleneck's width, and a forest's F1 by its number of units."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from stochcon.experiments import drawing
from stochcon.experiments.grid import Cell, values
from stochcon.experiments.intervals import cell
from stochcon.experiments.plan import BySeed, Plan
from stochcon.experiments.tiers import Model, bernoulli, gaussian

TITLE = "Figure 2: bottlenecks, and a forest on few units"
PUBLISHED = (
    "The paper (CIFAR-10, ResNet-50): robust to the width; a forest on 11 units of 64 bits is accurate; at a fixed "
    "number of units the Gaussian's F1 falls as its width grows, the Bernoulli's does not. Curves only, no numbers."
)
SHOWN = (2, 4, 8, 11, 16)
"""Numbers of units in the table; the picture has all."""
FAMILIES: dict[str, Callable[[int | None], Model]] = {"Bernoulli": bernoulli, "Gaussian": gaussian}


def cells(plan: Plan) -> list[Cell]:
    models = [make(dim) for make in FAMILIES.values() for dim in plan.tier.bottlenecks()]
    return [cell for model in models for cell in plan.probe(model)]


def probed(plan: Plan, family: str, dim: int | None, metric: str) -> BySeed:
    return values(plan.probe(FAMILIES[family](dim)), metric)


def _units(plan: Plan, dim: int | None) -> list[int]:
    width = plan.width(dim)
    return [count for count in plan.tier.units if count < width] + [width]


def markdown(plan: Plan) -> str:
    shown = [count for count in SHOWN if count in plan.tier.units]
    rows = []
    for family in FAMILIES:
        for dim in plan.tier.bottlenecks():
            row = [f"{family}, {plan.width(dim)}"]
            for metric in ("linear.h", "linear.z", "linear.bits"):
                has = family == "Bernoulli" or metric != "linear.bits"
                row.append(cell(probed(plan, family, dim, metric).values()) if has else "–")
            for count in (*shown, "all"):
                has = count == "all" or count in _units(plan, dim)
                row.append(cell(probed(plan, family, dim, f"forest.{count}").values(), 3) if has else "–")
            rows.append(row)
    head = ["latent, width", "linear on h (%)", "on z (%)", "on bits (%)"]
    head += [f"F1, {count} units" for count in (*shown, "all")]
    return f"{drawing.table(head, rows)}\n\n{PUBLISHED}"


def draw(plan: Plan) -> Figure:
    figure, (left, *right) = drawing.panels(3)
    dims = plan.tier.bottlenecks()
    widths = [plan.width(dim) for dim in dims]
    for style, (metric, name) in enumerate({"linear.h": "h", "linear.z": "z", "linear.bits": "bits"}.items()):
        columns = [probed(plan, "Bernoulli", dim, metric) for dim in dims]
        drawing.line(left, widths, columns, style, f"on {name}", nudge=0.04 * (style - 1))
    drawing.ticks(left, widths)
    left.set(
        xlabel="width of the Bernoulli bottleneck (bits)",
        ylabel="frozen, linear, test top-1 (%)",
        title="Accuracy by width",
    )
    drawing.legend(left)
    for axis, family in zip(right, FAMILIES, strict=True):
        for style, dim in enumerate(dims):
            counts = _units(plan, dim)
            columns = [probed(plan, family, dim, f"forest.{count}") for count in counts]
            drawing.line(axis, counts, columns, style, f"width {plan.width(dim)}")
        drawing.ticks(axis, sorted({*plan.tier.units, plan.tier.full} - {plan.tier.few}))
        axis.set(
            xlabel="feature units of the forest", ylabel="mean F1 over classes", ylim=(0, 1), title=family
        )
        drawing.legend(axis, loc="lower right")
    return figure
