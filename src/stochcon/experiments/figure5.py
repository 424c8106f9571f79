"""Figure 5: SimCLR fine-tuned for longer, and the Bernoulli layer alone in supervised training (A.2)."""

import pandas as pd
from matplotlib.figure import Figure

from stochcon.experiments.plans import SIMCLR, Cell, Plan, bernoulli
from stochcon.experiments.results import best, line, shown, values
from stochcon.experiments.table1 import SUPERVISED

TITLE = "Figure 5: more fine-tuning of SimCLR, and a supervised Bernoulli layer"
PUBLISHED = (
    "The paper: SimCLR, fine-tuned on ImageNet for 20, 40, 60, 80 or 100 epochs, does not exceed 76.37 "
    "(StochCon: 77.49). On CIFAR-10 StochCon (96.42) is 1.78 above a supervised ResNet-50 with a Bernoulli "
    "layer."
)
OURS = "StochCon Bernoulli, fine-tuned"


def cells(plan: Plan) -> list[Cell]:
    """List the runs of the figure."""
    simclr = [c for epochs in plan.longer for c in plan.classify(SIMCLR, "finetune", 1.0, epochs)]
    supervised = [c for mode in SUPERVISED.values() for c in plan.choices(SIMCLR, mode, 1.0)]
    return [*simclr, *plan.choices(bernoulli(), "finetune", 1.0), *supervised]


def longer(plan: Plan, results: pd.DataFrame) -> dict[int, pd.Series]:
    """Select SimCLR's test top-1 for each length of fine-tuning, one number a seed."""
    where = {"model": SIMCLR.name, "task": "finetune", "labels": 1.0, "metric": "test.top1"}
    return {epochs: values(results, epochs=epochs, **where) for epochs in plan.longer}


def others(plan: Plan, results: pd.DataFrame) -> dict[str, pd.Series]:
    """Select the test top-1 of StochCon and of supervised training, one number a seed."""
    ours = {OURS: best(plan, results, bernoulli(), "finetune", 1.0)}
    return ours | {name: best(plan, results, SIMCLR, mode, 1.0) for name, mode in SUPERVISED.items()}


def table(plan: Plan, results: pd.DataFrame) -> pd.DataFrame:
    """Make a table of both panels."""
    rows = {f"SimCLR, fine-tuned for {epochs} epochs": top1 for epochs, top1 in longer(plan, results).items()}
    rows |= others(plan, results)
    return pd.DataFrame({"training": rows.keys(), "test top-1 (%)": [shown(top1) for top1 in rows.values()]})


def draw(plan: Plan, results: pd.DataFrame) -> Figure:
    """Draw SimCLR's top-1 by length against StochCon's, and beside it the two ways of supervised training."""
    figure = Figure(figsize=(8.8, 4))
    left, right = figure.subplots(1, 2, sharey=True)
    tuned, rest = longer(plan, results), others(plan, results)
    ours = rest[OURS]
    left.plot(plan.longer, [ours.mean()] * len(plan.longer), marker="none", label=OURS)
    for top1 in ours:
        left.axhline(top1, color="C0", alpha=0.3, linewidth=0.8)
    line(left, list(tuned), tuned.values(), "SimCLR")
    left.set(xlabel="epochs of fine-tuning", ylabel="test top-1 (%)", title="All labels; thin lines are seeds")
    left.set_xticks(plan.longer)
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
    for place, (name, top1) in enumerate(rest.items()):
        line(right, [place], [top1], name)
    right.set_xticks(range(len(rest)), ["StochCon,\nfine-tuned", "Supervised", "Supervised with\na Bernoulli layer"])
    right.set(title="The Bernoulli layer alone", xlim=(-0.5, len(rest) - 0.5))
    return figure
