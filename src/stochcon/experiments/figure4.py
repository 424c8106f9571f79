"""Figure 4: how many bits of an image are ones, along training, of the train and of the test images."""

import pandas as pd
from matplotlib.figure import Figure

from stochcon.experiments.plans import Cell, Model, Plan, bernoulli
from stochcon.experiments.results import line, shown, values

TITLE = "Figure 4: active bits along training"
PUBLISHED = (
    "The paper (CIFAR-10, ResNet-50, 2048 bits): near a half at first, then fewer; of a bottleneck of 512, "
    "soft top, a half to the end. Curves only, no numbers."
)
VARIANTS = {
    f"{'hard' if hard else 'soft'} {placement}": bernoulli(None, placement, hard)
    for hard in (True, False)
    for placement in ("bottom", "top")
}


def models(plan: Plan) -> dict[str, Model]:
    """Name the lines: the four variants, and one with a bottleneck."""
    return VARIANTS | {f"soft top, {plan.narrow} bits": bernoulli(plan.narrow)}


def cells(plan: Plan) -> list[Cell]:
    """List the runs of the figure, which are pretrainings."""
    return [cell for model in models(plan).values() for cell in plan.cells(model)]


def counts(results: pd.DataFrame, model: Model, split: str) -> list[tuple[float, pd.Series]]:
    """Select the per cent of ones, one number a seed, for each epoch at which they were counted."""
    some = results[(results["model"] == model.name) & (results["metric"] == f"active.{split}")]
    return [(float(epoch), values(rows)) for epoch, rows in some.groupby("epochs")]


def ends(results: pd.DataFrame, model: Model, split: str) -> tuple[pd.Series, pd.Series]:
    """Select the first and the last count."""
    found = [column for _, column in counts(results, model, split)] or [pd.Series(dtype=float)]
    return found[0], found[-1]


def table(plan: Plan, results: pd.DataFrame) -> pd.DataFrame:
    """Make a table of the first and the last count of each line."""
    rows = []
    for name, model in models(plan).items():
        row: dict[str, str | None] = {"ones (%)": name}
        for split in ("train", "test"):
            start, end = ends(results, model, split)
            row |= {f"{split}: after one step": shown(start), f"{split}: at the end": shown(end)}
        rows.append(row)
    return pd.DataFrame(rows)


def draw(plan: Plan, results: pd.DataFrame) -> Figure:
    """Draw the per cent of ones by epoch."""
    figure = Figure(figsize=(8.8, 4.2))
    axes = figure.subplots(1, 2, sharey=True)
    for axis, split in zip(axes, ("train", "test"), strict=True):
        axis.axhline(50, color="0.6", linewidth=0.8, linestyle="-")
        for i, (name, model) in enumerate(models(plan).items()):
            points = counts(results, model, split)
            shift = 0.006 * plan.config.epochs * (i - 2)
            line(axis, [epoch + shift for epoch, _ in points], [column for _, column in points], name)
        axis.set(xlabel="epochs of pretraining", title=f"{split} images")
    axes[0].set_ylabel("ones among an image's bits (%)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure
