"""Figure 5: SimCLR fine-tuned for longer, and the Bernoulli layer alone in supervised training (A.2)."""

from __future__ import annotations

from matplotlib.figure import Figure

from stochcon.experiments import drawing, table1
from stochcon.experiments.grid import Cell, values
from stochcon.experiments.intervals import cell, interval
from stochcon.experiments.plan import BySeed, Plan
from stochcon.experiments.tiers import SIMCLR, bernoulli
from stochcon.train.classifier import Mode

TITLE = "Figure 5: more fine-tuning of SimCLR, and a supervised Bernoulli layer"
PUBLISHED = (
    "The paper: SimCLR, fine-tuned on ImageNet for 20, 40, 60, 80 or 100 epochs, does not exceed 76.37 (StochCon: "
    "77.49). On CIFAR-10 StochCon (96.42) is 1.78 above a supervised ResNet-50 with a Bernoulli layer."
)


def cells(plan: Plan) -> list[Cell]:
    simclr = [c for epochs in plan.tier.longer for c in plan.classify(SIMCLR, "finetune", 1.0, epochs)]
    tuned = plan.lengths("finetune", 1.0)
    stochcon = [c for epochs in tuned for c in plan.classify(bernoulli(), "finetune", 1.0, epochs)]
    supervised = [
        c
        for mode in table1.SUPERVISED.values()
        for epochs in plan.lengths(mode, 1.0)
        for c in plan.classify(SIMCLR, mode, 1.0, epochs)
    ]
    return simclr + stochcon + supervised


def longer(plan: Plan) -> list[BySeed]:
    """SimCLR's test top-1 of each length."""
    return [
        values(plan.classify(SIMCLR, "finetune", 1.0, epochs), "test.top1") for epochs in plan.tier.longer
    ]


def stochcon(plan: Plan) -> BySeed:
    return plan.best(bernoulli(), "finetune", 1.0)


def supervised(plan: Plan, mode: Mode) -> BySeed:
    return plan.best(SIMCLR, mode, 1.0)


def markdown(plan: Plan) -> str:
    rows = [
        [f"SimCLR, fine-tuned for {epochs} epochs", cell(column.values())]
        for epochs, column in zip(plan.tier.longer, longer(plan), strict=True)
    ]
    rows += [["StochCon Bernoulli, fine-tuned", cell(stochcon(plan).values())]]
    rows += [[name, cell(supervised(plan, mode).values())] for name, mode in table1.SUPERVISED.items()]
    return f"{drawing.table([plan.data, 'test top-1 (%)'], rows)}\n\n{PUBLISHED}"


def draw(plan: Plan) -> Figure:
    figure, (left, right) = drawing.panels(2)
    drawing.line(left, list(plan.tier.longer), longer(plan), 1, "SimCLR")
    ours = interval(stochcon(plan).values())
    if ours:
        left.axhline(ours.mean, color="black", linewidth=1.4, label="StochCon, chosen on validation")
        if ours.n > 1:
            left.axhspan(ours.low, ours.high, color="black", alpha=0.12, linewidth=0)
    left.set(xlabel="epochs of fine-tuning", ylabel="test top-1 (%)", title=f"All labels, {plan.data}")
    left.set_xticks(plan.tier.longer)
    drawing.legend(left)
    bars = {name: supervised(plan, mode) for name, mode in table1.SUPERVISED.items()}
    bars["StochCon, fine-tuned"] = stochcon(plan)
    for place, (name, column) in enumerate(bars.items()):
        drawing.line(right, [place], [column], place, name)
    right.set_xticks(
        range(len(bars)), [name.replace(" with ", "\nwith ").replace(", ", ",\n") for name in bars]
    )
    right.set(ylabel="test top-1 (%)", title="The Bernoulli layer alone", xlim=(-0.5, len(bars) - 0.5))
    return figure
