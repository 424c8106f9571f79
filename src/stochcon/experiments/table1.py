"""Table 1: top-1, fine-tuned and frozen, of StochCon, SimCLR and supervised training; with few labels too."""

from __future__ import annotations

from collections.abc import Iterator

from matplotlib.figure import Figure

from stochcon.experiments import drawing
from stochcon.experiments.grid import Cell
from stochcon.experiments.intervals import cell
from stochcon.experiments.plan import BySeed, Plan
from stochcon.experiments.tiers import EXTENDED, SIMCLR, Model, bernoulli, gaussian
from stochcon.train.classifier import Mode

TITLE = "Table 1: test top-1 in per cent"

PUBLISHED = {
    "StochCon Bernoulli": ("96.42 / 91.96", "77.49 / 67.00", "80.24 / 64.25"),
    "StochCon Gaussian": ("96.08 / 92.40", "–", "–"),
    "Supervised": ("95.00", "76.13", "78.34"),
    "SimCLR": ("94.35 / 91.67", "76.37 / 71.34", "79.82 / 73.52"),
}
"""The paper's: CIFAR-10 with ResNet-50, ImageNet with ResNet-50 and with ResNet-200; fine-tuned / frozen."""

NAMES = {
    bernoulli(): "StochCon Bernoulli",
    gaussian(): "StochCon Gaussian",
    SIMCLR: "SimCLR",
    EXTENDED: "StochCon Bernoulli, with our extensions",
}
SUPERVISED: dict[str, Mode] = {
    "Supervised": "supervised",
    "Supervised with a Bernoulli layer": "supervised-bernoulli",
}


def cells(plan: Plan) -> list[Cell]:
    def of(model: Model, mode: Mode) -> Iterator[Cell]:
        for labels in plan.tier.lengths:
            for epochs in plan.lengths(mode, labels):
                yield from plan.classify(model, mode, labels, epochs)

    modes: tuple[Mode, ...] = ("finetune", "frozen")
    pretrained = [c for model in plan.tier.models[plan.data] for mode in modes for c in of(model, mode)]
    return pretrained + [c for mode in SUPERVISED.values() for c in of(SIMCLR, mode)]


def lines(plan: Plan) -> dict[str, dict[Mode, list[BySeed]]]:
    """By row, fine-tuned and frozen, one column a share of the labels. A supervised row has been tuned throughout."""
    shares = plan.tier.lengths
    rows: dict[str, dict[Mode, list[BySeed]]] = {}
    modes: tuple[Mode, ...] = ("finetune", "frozen")
    for model in plan.tier.models[plan.data]:
        rows[NAMES[model]] = {mode: [plan.best(model, mode, share) for share in shares] for mode in modes}
        if model.latent.kind == "bernoulli":
            rows[f"{NAMES[model]}, rounded to bits"] = {
                mode: [plan.best(model, mode, share, "bits") for share in shares] for mode in modes
            }
    for name, mode in SUPERVISED.items():
        rows[name] = {"finetune": [plan.best(SIMCLR, mode, share) for share in shares]}
    return rows


def markdown(plan: Plan) -> str:
    shares = plan.tier.lengths
    head = [plan.data, *(f"{mode}, {share:.0%}" for mode in ("fine-tuned", "frozen") for share in shares)]
    head += ["paper: CIFAR-10", "paper: ImageNet, R50", "paper: ImageNet, R200"]
    rows = []
    for name, columns in lines(plan).items():
        frozen = [cell(c.values()) for c in columns["frozen"]] if "frozen" in columns else ["–"] * len(shares)
        tuned = [cell(c.values()) for c in columns["finetune"]]
        rows.append([name, *tuned, *frozen, *PUBLISHED.get(name, ("–", "–", "–"))])
    return drawing.table(head, rows)


def draw(plan: Plan) -> Figure:
    shares = [100 * share for share in plan.tier.lengths]
    figure, axes = drawing.panels(2, height=4.2)
    modes: tuple[Mode, ...] = ("finetune", "frozen")
    shown = {name: columns for name, columns in lines(plan).items() if not name.endswith("bits")}
    for axis, mode, title in zip(axes, modes, ("fine-tuned", "frozen"), strict=True):
        for style, (name, columns) in enumerate(shown.items()):
            if mode in columns:
                drawing.line(axis, shares, columns[mode], style, name, nudge=0.05 * (style - 2))
        drawing.ticks(axis, shares)
        axis.set(xlabel="labels in use (%)", ylabel="test top-1 (%)", title=f"{title}, {plan.data}")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure
