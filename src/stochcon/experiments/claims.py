"""What the paper claims, and the verdict of our runs on each claim.

Every claim is turned into one number a seed and a threshold that it should exceed. The rule is the same
for all: *held* if the 95 % t interval of the mean over seeds lies above the threshold, *not held* if it
lies below, and *too small to tell* if the threshold is inside, or if there is one seed only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from stochcon.experiments import drawing, figure2, figure3, figure4, figure5
from stochcon.experiments.intervals import Interval, interval
from stochcon.experiments.plan import BySeed, Plan, combine, difference
from stochcon.experiments.tiers import SIMCLR, VARIANTS, bernoulli
from stochcon.train.classifier import Mode

COMPETITIVE, ROBUST = 2.0, 2.0
"""Points of top-1 that may be lost where the paper says competitive, or robust."""
KEPT = 0.9
"""Share of a full forest's F1 that few units must keep."""
STEADY = 0.02
"""Loss of F1, between 0 and 1, that still counts as none."""
HALF = 5.0
"""Per cent of ones off 50 that still counts as near a half."""
COLLAPSED = 1.0
"""Factors of ten by which a collapsed variance is below that of the means."""
RIVALS: tuple[tuple[str, Mode, str], ...] = (
    ("SimCLR", "finetune", "96.42 to 94.35"),
    ("supervised", "supervised", "96.42 to 95.00"),
)
"""And the paper's numbers, of CIFAR-10 with all labels."""


@dataclass(frozen=True)
class Claim:
    paper: str
    measure: str
    """What the number is, with its unit."""
    values: BySeed
    threshold: float


def verdict(found: Interval | None, threshold: float) -> str:
    """
    >>> verdict(Interval(1.0, 0.5, 3), 0.0), verdict(Interval(-1.0, 0.5, 3), 0.0), verdict(Interval(1.0, 2.0, 3), 0.0)
    ('held', 'not held', 'too small to tell')
    """
    if found is None:
        return "not run yet"
    if found.low > threshold:
        return "held"
    return "not held" if found.high < threshold else "too small to tell"


def claims(plan: Plan) -> Iterator[Claim]:
    """All of them, in the paper's order; those that have not run have no values."""
    yield from _table(plan)
    yield from _bottlenecks(plan)
    yield from _variance(plan)
    yield from _active(plan)
    yield from _longer(plan)


def _table(plan: Plan) -> Iterator[Claim]:
    for share in plan.tier.lengths:
        ours = plan.best(bernoulli(), "finetune", share)
        for name, mode, numbers in RIVALS:
            says = f"Fine-tuned StochCon beats {name}" + (f" ({numbers})" if share == 1 else "")
            measure = f"points of top-1 above {name}, {share:.0%} of the labels"
            yield Claim(says, measure, difference(ours, plan.best(SIMCLR, mode, share)), 0)
    for code, name in (("top1", "z"), ("bits", "bits")):
        lead = difference(plan.best(bernoulli(), "frozen", 1.0, code), plan.best(SIMCLR, "frozen", 1.0))
        says = "Frozen StochCon is competitive (91.96 to 91.67)"
        yield Claim(says, f"points of top-1 above frozen SimCLR, on {name}", lead, -COMPETITIVE)


def _bottlenecks(plan: Plan) -> Iterator[Claim]:
    narrow, wide, few = plan.tier.widths[0], plan.tier.full, plan.tier.few

    def bern(dim: int | None, metric: str) -> BySeed:
        return figure2.probed(plan, "Bernoulli", dim, metric)

    for metric, name in (("linear.h", "h"), ("linear.bits", "bits")):
        gain = difference(bern(narrow, metric), bern(None, metric))
        says = "Accuracy is robust to the bottleneck's width"
        yield Claim(says, f"points of top-1 of {narrow} above {wide} bits, linear on {name}", gain, -ROBUST)
    for count in (count for count in (few, 16) if count <= plan.tier.narrow):
        share = combine(
            lambda part, whole: part / whole,
            bern(plan.tier.narrow, f"forest.{count}"),
            bern(plan.tier.narrow, "forest.all"),
        )
        says = "A forest needs few binary units (11 of 64)"
        yield Claim(says, f"F1 on {count} of {plan.tier.narrow} bits over F1 on all", share, KEPT)
    metric = f"forest.{few}"
    fall = difference(
        figure2.probed(plan, "Gaussian", narrow, metric), figure2.probed(plan, "Gaussian", None, metric)
    )
    says = "At a fixed number of units the Gaussian's F1 falls as its width grows"
    yield Claim(says, f"F1 on {few} units, width {narrow} above width {wide}", fall, 0)
    kept = difference(bern(None, metric), bern(narrow, metric))
    says = "The Bernoulli's does not"
    yield Claim(says, f"F1 on {few} units, width {wide} above width {narrow}", kept, -STEADY)


def _variance(plan: Plan) -> Iterator[Claim]:
    logarithm = "factors of ten"
    own, cross = (figure3.relative(plan, variance, None) for variance in ("own", "cross"))
    below = combine(lambda ratio: -math.log10(ratio), own)
    yield Claim("Own variance collapses", f"{logarithm} below the means' variance", below, COLLAPSED)
    above = combine(lambda a, b: math.log10(a / b), cross, own)
    says = "The opposing view's variance does not collapse"
    yield Claim(says, f"{logarithm} above own variance, each over that of the means", above, COLLAPSED)
    narrow = plan.tier.widths[0]
    columns = (figure3.probed(plan, "cross", dim, "variance") for dim in (narrow, None))
    more = combine(lambda a, b: math.log10(a / b), *columns)
    says = "A narrow bottleneck leans on the variance more"
    yield Claim(says, f"{logarithm} of variance, width {narrow} above {plan.tier.full}", more, 0)
    ratios = (figure3.relative(plan, "cross", dim) for dim in (narrow, None))
    more = combine(lambda a, b: math.log10(a / b), *ratios)
    yield Claim(says, "the same over the variance of the means", more, 0)


def _active(plan: Plan) -> Iterator[Claim]:
    columns = [figure4.ends(plan, model, "test") for model in VARIANTS.values()]
    near = combine(lambda *active: -max(abs(a - 50) for a in active), *(start for start, _ in columns))
    says = "Active bits start near a half"
    yield Claim(says, "per cent off 50, the worst of four variants, negative", near, -HALF)
    for name, (start, end) in zip(VARIANTS, columns, strict=True):
        yield Claim("… and fall", f"per cent of ones lost, {name}", difference(start, end), 0)
    end = figure4.ends(plan, bernoulli(plan.tier.narrow), "test")[1]
    steady = combine(lambda active: -abs(active - 50), end)
    says = "… but stay at a half in a narrow bottleneck"
    yield Claim(says, f"per cent off 50 of {plan.tier.narrow} bits, negative", steady, -HALF)


def _longer(plan: Plan) -> Iterator[Claim]:
    ours = figure5.stochcon(plan)
    best = combine(max, *figure5.longer(plan))
    says = "SimCLR does not catch up with more fine-tuning (77.49 to 76.37)"
    yield Claim(says, "points of top-1 above SimCLR's best length on test", difference(ours, best), 0)
    lead = difference(ours, figure5.supervised(plan, "supervised-bernoulli"))
    says = "The Bernoulli layer alone does not explain it (1.78 points)"
    yield Claim(says, "points of top-1 above supervised with that layer", lead, 0)


def markdown(plan: Plan) -> str:
    """One row a claim."""
    rows = []
    for claim in claims(plan):
        found = interval(claim.values.values())
        shown = ["", "0", ""]
        if found:
            digits = 2 if abs(found.mean) < 10 else 1
            bounds = f"{found.low:.{digits}f} to {found.high:.{digits}f}" if found.n > 1 else "–"
            shown = [f"{found.mean:.{digits}f}", str(found.n), bounds]
        rows.append(
            [claim.paper, claim.measure, *shown, f"> {claim.threshold:g}", verdict(found, claim.threshold)]
        )
    head = ["the paper says", "what is measured", "mean", "n", "95 % interval", "must be", "verdict"]
    return drawing.table(head, rows)
