"""Figure 3: accuracy and aggregate variance by the width of a Gaussian bottleneck, with cross and own variance."""

from __future__ import annotations

from matplotlib.figure import Figure

from stochcon.experiments import drawing
from stochcon.experiments.grid import Cell, values
from stochcon.experiments.intervals import cell
from stochcon.experiments.plan import BySeed, Plan, combine
from stochcon.experiments.tiers import gaussian

TITLE = "Figure 3: the Gaussian's variance"
PUBLISHED = (
    "The paper (CIFAR-10, ResNet-50): own variance trivially collapses to 0; with the opposing view's, the narrower "
    "the bottleneck the larger the aggregate variance. Curves only, no numbers."
)
LABELS = {"cross": "cross: the opposing view's", "own": "own"}


def _dims(plan: Plan, variance: str) -> tuple[int | None, ...]:
    return plan.tier.own if variance == "own" else plan.tier.bottlenecks()


def cells(plan: Plan) -> list[Cell]:
    return [
        cell for variance in LABELS for dim in _dims(plan, variance) for cell in _probe(plan, variance, dim)
    ]


def _probe(plan: Plan, variance: str, dim: int | None) -> list[Cell]:
    """Of cross variance the runs that figure 2 has; own variance needs no forest."""
    return plan.probe(gaussian(dim, variance), forest=variance == "cross")


def probed(plan: Plan, variance: str, dim: int | None, metric: str) -> BySeed:
    return values(_probe(plan, variance, dim), metric)


def relative(plan: Plan, variance: str, dim: int | None) -> BySeed:
    """The noise's variance over that of the means from image to image, which the scale of z cancels from."""
    columns = (probed(plan, variance, dim, metric) for metric in ("variance", "spread"))
    return combine(lambda noise, spread: noise / spread, *columns)


def _significant(column: BySeed) -> str:
    return ", ".join(f"{value:.2g}" for value in column.values()) or "not run yet"


def markdown(plan: Plan) -> str:
    rows = [
        [
            f"{variance}, {plan.width(dim)}",
            cell(probed(plan, variance, dim, "linear.z").values()),
            _significant(probed(plan, variance, dim, "variance")),
            _significant(relative(plan, variance, dim)),
        ]
        for variance in LABELS
        for dim in _dims(plan, variance)
    ]
    head = ["variance, width", "linear on z (%)", "aggregate variance, by seed", "over that of the means"]
    return f"{drawing.table(head, rows)}\n\n{PUBLISHED}"


def draw(plan: Plan) -> Figure:
    figure, axes = drawing.panels(3)
    names = (
        "frozen, linear on z, test top-1 (%)",
        "aggregate variance of q(z|x)",
        "variance over that of the means",
    )
    for style, (variance, label) in enumerate(LABELS.items()):
        dims = _dims(plan, variance)
        widths = sorted(plan.width(dim) for dim in dims)
        columns = (
            [probed(plan, variance, dim, "linear.z") for dim in dims],
            [probed(plan, variance, dim, "variance") for dim in dims],
            [relative(plan, variance, dim) for dim in dims],
        )
        drawing.line(axes[0], widths, columns[0], style, label, nudge=0.03 * style)
        for axis, column in zip(axes[1:], columns[1:], strict=True):
            drawing.scatter(axis, widths, column, style, label)
    for axis, name in zip(axes, names, strict=True):
        drawing.ticks(axis, [plan.width(dim) for dim in plan.tier.bottlenecks()])
        axis.set(xlabel="width of the Gaussian bottleneck", ylabel=name)
    for axis in axes[1:]:
        axis.set_yscale("log")
    drawing.legend(axes[1], loc="best")
    return figure
