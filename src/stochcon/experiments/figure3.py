"""Figure 3: accuracy and aggregate variance by the width of a Gaussian bottleneck."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stochcon.experiments.plans import Cell, Model, Plan, gaussian
from stochcon.experiments.results import dots, line, log_ticks, probed, shown

TITLE = "Figure 3: the Gaussian's variance"
PUBLISHED = (
    "The paper (CIFAR-10, ResNet-50): own variance trivially collapses to 0; with the opposing view's, the "
    "narrower the bottleneck the larger the aggregate variance. Curves only, no numbers."
)
LABELS = {"cross": "cross: variance from the opposing view", "own": "own: variance from the same view"}


def models(plan: Plan, variance: str) -> dict[int, Model]:
    """Name the points of a line by their width."""
    dims = plan.own if variance == "own" else plan.widths
    return {dim or plan.full: gaussian(dim, variance) for dim in dims}


def cells(plan: Plan) -> list[Cell]:
    """List the runs of the figure: of cross variance those of figure 2; own variance needs no forest."""
    cross = [cell for model in models(plan, "cross").values() for cell in plan.probe(model)]
    return cross + [c for model in models(plan, "own").values() for c in plan.probe(model, forest=False)]


def relative(results: pd.DataFrame, model: Model) -> pd.Series:
    """Divide the aggregate variance by that of the means from image to image: the scale of z cancels."""
    return probed(results, model, "variance") / probed(results, model, "spread")


def table(plan: Plan, results: pd.DataFrame) -> pd.DataFrame:
    """Make a table with a row for each variance and width."""

    def by_seed(values: pd.Series) -> str | None:
        return ", ".join(f"{value:.2g}" for value in values) or None

    return pd.DataFrame(
        {
            "variance, width": f"{variance}, {width}",
            "linear on z (%)": shown(probed(results, model, "linear.z")),
            "aggregate variance, by seed": by_seed(probed(results, model, "variance")),
            "over that of the means": by_seed(relative(results, model)),
        }
        for variance in LABELS
        for width, model in models(plan, variance).items()
    )


def draw(plan: Plan, results: pd.DataFrame) -> Figure:
    """Draw accuracy, aggregate variance, and its ratio to the variance of the means, by width."""
    figure = Figure(figsize=(13.2, 4))
    axes = figure.subplots(1, 3)
    for i, (variance, label) in enumerate(LABELS.items()):
        points = models(plan, variance)
        x = [width * (1 + 0.03 * i) for width in points]
        line(axes[0], x, [probed(results, model, "linear.z") for model in points.values()], label)
        _draw_seeds(axes[1], x, [probed(results, model, "variance") for model in points.values()])
        _draw_seeds(axes[2], x, [relative(results, model) for model in points.values()])
    names = ("linear probe on z, test top-1 (%)", "aggregate variance of q(z|x)", "variance over that of the means")
    for axis, name in zip(axes, names, strict=True):
        log_ticks(axis, models(plan, "cross"))
        axis.set(xlabel="width of the Gaussian bottleneck (dimensions)", ylabel=name)
    for axis in axes[1:]:
        axis.set_yscale("log")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _draw_seeds(axis: Axes, x: list[float], columns: list[pd.Series]) -> None:
    """Draw every seed, and a line through the geometric means: the numbers span orders of magnitude."""
    (means,) = axis.plot(x, [np.exp(np.log(column).mean()) for column in columns])
    dots(axis, x, columns, means)
