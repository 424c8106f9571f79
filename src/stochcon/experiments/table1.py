"""Table 1: top-1, fine-tuned and frozen, of StochCon, SimCLR and supervised training; with few labels too."""

import pandas as pd
from matplotlib.figure import Figure

from stochcon.experiments.plans import EXTENDED, SIMCLR, Cell, Model, Plan, bernoulli, gaussian
from stochcon.experiments.results import best, line, log_ticks, probed, shown
from stochcon.method.latents import LATENTS
from stochcon.train.classifier import Mode

TITLE = "Table 1: test top-1 in per cent"
PUBLISHED = "The paper's numbers are fine-tuned / frozen."
PAPERS = ("paper: CIFAR-10", "paper: ImageNet, R50", "paper: ImageNet, R200")
TOP1 = {
    "StochCon Bernoulli": ("96.42 / 91.96", "77.49 / 67.00", "80.24 / 64.25"),
    "StochCon Gaussian": ("96.08 / 92.40", None, None),
    "SimCLR": ("94.35 / 91.67", "76.37 / 71.34", "79.82 / 73.52"),
    "Supervised": ("95.00", "76.13", "78.34"),
}
NAMES = {
    bernoulli(): "StochCon Bernoulli",
    bernoulli(placement="bottom"): "StochCon Bernoulli, bottom",
    gaussian(): "StochCon Gaussian",
    SIMCLR: "SimCLR",
    EXTENDED: "StochCon Bernoulli, with our extensions",
}
MODES: dict[Mode, str] = {"finetune": "fine-tuned", "frozen": "frozen"}
READINGS = {"mean": "probabilities", "bits": "bits", "h": "h, by a second head"}
"""The other readings of a head that learned, as A.3 has it, from a Bernoulli's samples or a Gaussian's means."""
END_TO_END = "StochCon Bernoulli, h and no latent"
SUPERVISED: dict[str, Mode] = {"Supervised": "supervised", "Supervised with a Bernoulli layer": "supervised-bernoulli"}


def rows(plan: Plan, mode: Mode) -> dict[str, tuple[Model, Mode, str]]:
    """Name the rows of one half of the table: model, mode, and the reading of the head, `top1` or another.

    Supervised training belongs to the fine-tuned half.
    """
    named: dict[str, tuple[Model, Mode, str]] = {}
    for model in plan.models:
        latent = LATENTS[model.latent.kind]
        named[NAMES[model]] = model, mode, "top1"
        for reading, what in READINGS.items():
            if latent.binary or (latent.has_code and reading == "h"):
                named[f"{NAMES[model]}: {what}"] = model, mode, reading
        if mode == "finetune" and model == bernoulli():
            named[END_TO_END] = model, "finetune-h", "top1"
    if mode == "finetune":
        named |= {name: (SIMCLR, each, "top1") for name, each in SUPERVISED.items()}
    return named


def cells(plan: Plan) -> list[Cell]:
    """List the runs of the table."""
    asked = [(row, share) for mode in MODES for row in rows(plan, mode).values() for share in plan.lengths]
    classifiers = [cell for (model, mode, _), share in asked for cell in plan.choices(model, mode, share)]
    return classifiers + [cell for model in plan.models for cell in plan.probe(model)]


def logistic(results: pd.DataFrame, model: Model, reading: str) -> pd.Series:
    """Select top-1 of logistic regression on what a frozen head reads; there is none on samples."""
    latent = LATENTS[model.latent.kind]
    read = {"top1": "" if latent.binary else "z" if latent.has_code else "h", "mean": "z"}.get(reading, reading)
    return probed(results, model, f"linear.{read}")


def table(plan: Plan, results: pd.DataFrame) -> pd.DataFrame:
    """Make the table, with the paper's numbers on the right."""
    columns = {
        f"{heading}, {share:.0%}": {
            name: shown(best(plan, results, model, each, share, reading))
            for name, (model, each, reading) in rows(plan, mode).items()
        }
        for mode, heading in MODES.items()
        for share in plan.lengths
    }
    columns["logistic regression, 100%"] = {
        name: shown(logistic(results, model, reading)) for name, (model, _, reading) in rows(plan, "frozen").items()
    }
    published = pd.DataFrame.from_dict(TOP1, orient="index", columns=PAPERS)
    return pd.DataFrame(columns).join(published).rename_axis("model").reset_index()


def draw(plan: Plan, results: pd.DataFrame) -> Figure:
    """Draw top-1 against the share of labels."""
    figure = Figure(figsize=(8.8, 4.2))
    axes = figure.subplots(1, 2)
    percents = [100 * share for share in plan.lengths]
    for axis, (half, title) in zip(axes, MODES.items(), strict=True):
        drawn = {name: row for name, row in rows(plan, half).items() if row[-1] == "top1"}
        for i, (name, (model, mode, _)) in enumerate(drawn.items()):
            top1 = [best(plan, results, model, mode, share) for share in plan.lengths]
            line(axis, [x * (1 + 0.05 * (i - 2)) for x in percents], top1, name)
        log_ticks(axis, percents)
        axis.set(xlabel="labels in use (%)", ylabel="test top-1 (%)", title=title)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
