"""Figure 2: accuracy by the bottleneck's width, and a forest's F1 by its number of units."""

from collections.abc import Callable

import pandas as pd
from matplotlib.figure import Figure

from stochcon.experiments.plans import Cell, Model, Plan, bernoulli, gaussian
from stochcon.experiments.results import line, log_ticks, probed, shown

TITLE = "Figure 2: bottlenecks, and a forest on few units"
PUBLISHED = (
    "The paper (CIFAR-10, ResNet-50): robust to the width; a forest on 11 units of 64 bits is accurate; at "
    "a fixed number of units the Gaussian's F1 falls as its width grows, the Bernoulli's does not. Curves "
    "only, no numbers."
)
SHOWN = (2, 4, 8, 11, 16, "all")  # numbers of units in the table; the picture has all that were tried
FAMILIES: dict[str, Callable[[int | None], Model]] = {"Bernoulli": bernoulli, "Gaussian": gaussian}


def cells(plan: Plan) -> list[Cell]:
    """List the runs of the figure."""
    return [c for make in FAMILIES.values() for dim in plan.widths for c in plan.probe(make(dim))]


def table(plan: Plan, results: pd.DataFrame) -> pd.DataFrame:
    """Make a table of all panels: a row for each family and width."""
    metrics = {"linear on h (%)": "linear.h", "on z (%)": "linear.z", "on bits (%)": "linear.bits"}
    metrics |= {f"F1, {count} units": f"forest.{count}" for count in SHOWN}
    return pd.DataFrame(
        {
            "latent, width": f"{family}, {dim or plan.full}",
            **{h: shown(probed(results, make(dim), m), 3 if "F1" in h else 1) for h, m in metrics.items()},
        }
        for family, make in FAMILIES.items()
        for dim in plan.widths
    )


def draw(plan: Plan, results: pd.DataFrame) -> Figure:
    """Draw the Bernoulli's accuracy by width, and F1 by units of each family."""
    figure = Figure(figsize=(13.2, 3.9))
    left, *right = figure.subplots(1, 3)
    widths = [dim or plan.full for dim in plan.widths]
    for i, name in enumerate(("h", "z", "bits")):
        top1 = [probed(results, bernoulli(dim), f"linear.{name}") for dim in plan.widths]
        line(left, [width * (1 + 0.04 * (i - 1)) for width in widths], top1, f"on {name}")
    log_ticks(left, widths)
    left.set(xlabel="width of the Bernoulli bottleneck (bits)", ylabel="linear probe, test top-1 (%)")
    left.set_title("Accuracy by width")
    for axis, (family, make) in zip(right, FAMILIES.items(), strict=True):
        for i, (dim, width) in enumerate(zip(plan.widths, widths, strict=True)):
            counts = [*(count for count in plan.units if count < width), width]
            f1 = [probed(results, make(dim), f"forest.{count}") for count in counts]
            line(axis, [count * (1 + 0.03 * (i - 1)) for count in counts], f1, f"width {width}")
        log_ticks(axis, sorted({*plan.units, plan.full} - {plan.few}))
        axis.set(xlabel="units of the forest", ylabel="mean F1 over classes", ylim=(0, 1.02), title=family)
    for axis in (left, *right):
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=4)
    return figure
