"""The paper's claims, and the verdict of our runs on each claim.

Every claim is one number a seed and a threshold that it should exceed. The rule is the same for all: *held*
if the 95 % t interval of the mean over seeds lies above the threshold, *not held* if it lies below, and *too
small to tell* if the threshold is inside, or if there is one seed only.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from stochcon.experiments import figure3, figure4, figure5
from stochcon.experiments.plans import SIMCLR, Plan, bernoulli, gaussian
from stochcon.experiments.results import best, interval, probed
from stochcon.train.classifier import Mode

COMPETITIVE = ROBUST = 2.0  # points of top-1 that may be lost where the paper says competitive, or robust
KEPT = 0.9  # the share of a full forest's F1 that few units must keep
STEADY = 0.02  # the loss of F1, between 0 and 1, that still counts as none
HALF = 5.0  # the per cent of ones off 50 that still counts as near a half
COLLAPSED = 1.0  # the factors of ten by which a collapsed variance is below that of the means
READ = {  # a reading of the head, how keys name it, and how a table does; A.3 keeps the distribution
    "top1": ("", "a sample, as in A.3"),
    "mean": ("-probabilities", "the probabilities"),
    "bits": ("-bits", "the bits"),
}
RIVALS: dict[str, tuple[Mode, str]] = {  # with the paper's numbers, of CIFAR-10 with all labels
    "SimCLR": ("finetune", " (96.42 to 94.35)"),
    "supervised": ("supervised", " (96.42 to 95.00)"),
}


class Claim(NamedTuple):
    """A claim of the paper."""

    key: str  # names it in results/paper/summary.json
    paper: str  # what the paper says
    measure: str  # the number that we measure, with its unit
    values: pd.Series  # by seed; empty if nothing has run
    threshold: float


def verdict(values: pd.Series, threshold: float) -> str:
    """Judge a claim by the interval of its values.

    Example:
        >>> [verdict(pd.Series(x), 0) for x in ([5, 6, 5], [-5, -6, -5], [-1, 2, 1], [5])]
        ['held', 'not held', 'too small to tell', 'too small to tell']
    """
    mean, half, n = interval(values)
    if n == 0:
        return "not run yet"
    if mean - half > threshold:
        return "held"
    return "not held" if mean + half < threshold else "too small to tell"


def claims(plan: Plan, results: pd.DataFrame) -> Iterator[Claim]:
    """List all claims, in the paper's order."""
    for part in (_table1, _figure2, _figure3, _figure4, _figure5):
        yield from part(plan, results)


def _table1(plan: Plan, results: pd.DataFrame) -> Iterator[Claim]:
    for share, (name, (mode, numbers)) in product(plan.lengths, RIVALS.items()):
        paper = f"Fine-tuned StochCon beats {name}{numbers if share == 1 else ''}"
        rival = best(plan, results, SIMCLR, mode, share)
        for reading, (key, read) in READ.items():
            lead = best(plan, results, bernoulli(), "finetune", share, reading) - rival
            measure = f"points of top-1 above {name}, {share:.0%} of the labels, by {read}"
            yield Claim(f"finetuned{key}-minus-{name.lower()}-{share}", paper, measure, lead, 0)
    for share in plan.lengths:
        paper = f"Frozen StochCon is competitive{' (91.96 to 91.67)' if share == 1 else ''}"
        simclr = best(plan, results, SIMCLR, "frozen", share)
        for reading, (key, read) in READ.items():
            lead = best(plan, results, bernoulli(), "frozen", share, reading) - simclr
            measure = f"points of top-1 above frozen SimCLR, {share:.0%} of the labels, by {read}"
            yield Claim(f"frozen{key}-minus-simclr-{share}", paper, measure, lead, -COMPETITIVE)


def _figure2(plan: Plan, results: pd.DataFrame) -> Iterator[Claim]:
    low, high, middle, few = plan.widths[0], plan.full, plan.narrow, plan.few
    for code in ("h", "bits"):
        narrow, wide = (probed(results, bernoulli(dim), f"linear.{code}") for dim in (low, None))
        measure = f"points of top-1 of {low} above {high} bits, linear on {code}"
        yield Claim(
            f"linear-{code}-{low}-minus-{high}",
            "Accuracy is robust to the bottleneck's width",
            measure,
            narrow - wide,
            -ROBUST,
        )
    whole = probed(results, bernoulli(middle), "forest.all")
    for count in (few, 16):
        share = probed(results, bernoulli(middle), f"forest.{count}") / whole
        measure = f"F1 on {count} of {middle} bits over F1 on all"
        yield Claim(f"forest-{count}-of-{middle}", "A forest needs few binary units (11 of 64)", measure, share, KEPT)
    narrow, wide = (probed(results, gaussian(dim), f"forest.{few}") for dim in (low, None))
    paper = "At a fixed number of units the Gaussian's F1 falls as its width grows"
    measure = f"F1 on {few} units, width {low} above width {high}"
    yield Claim(f"gaussian-forest-{low}-minus-{high}", paper, measure, narrow - wide, 0)
    narrow, wide = (probed(results, bernoulli(dim), f"forest.{few}") for dim in (low, None))
    measure = f"F1 on {few} units, width {high} above width {low}"
    yield Claim(f"bernoulli-forest-{high}-minus-{low}", "The Bernoulli's does not", measure, wide - narrow, -STEADY)


def _figure3(plan: Plan, results: pd.DataFrame) -> Iterator[Claim]:
    tens, narrow = "factors of ten", gaussian(plan.widths[0])
    own, cross = figure3.relative(results, gaussian(None, "own")), figure3.relative(results, gaussian())
    measure = f"{tens} below the means' variance"
    yield Claim("own-variance", "Own variance collapses", measure, -np.log10(own), COLLAPSED)
    paper, more = "The opposing view's variance does not collapse", np.log10(cross / own)
    measure = f"{tens} above own variance, each over that of the means"
    yield Claim("cross-over-own-variance", paper, measure, more, COLLAPSED)
    paper = "A narrow bottleneck leans on the variance more"
    more = np.log10(probed(results, narrow, "variance") / probed(results, gaussian(), "variance"))
    measure = f"{tens} of variance, width {plan.widths[0]} above {plan.full}"
    yield Claim("narrow-over-wide-variance", paper, measure, more, 0)
    more = np.log10(figure3.relative(results, narrow) / cross)
    measure = "the same over the variance of the means"
    yield Claim("narrow-over-wide-relative-variance", paper, measure, more, 0)


def _figure4(plan: Plan, results: pd.DataFrame) -> Iterator[Claim]:
    ends = {name: figure4.ends(results, model, "test") for name, model in figure4.models(plan).items()}
    starts = pd.DataFrame({name: ends[name][0] for name in figure4.VARIANTS}).dropna()
    measure = "per cent off 50, the worst of four variants, negative"
    yield Claim(
        "active-at-the-start", "Active bits start near a half", measure, -(starts - 50).abs().max(axis=1), -HALF
    )
    *variants, (_, narrow) = ends.values()
    for name, (start, end) in zip(figure4.VARIANTS, variants, strict=True):
        yield Claim(f"active-{name.replace(' ', '-')}", "… and fall", f"per cent of ones lost, {name}", start - end, 0)
    measure = f"per cent off 50 of {plan.narrow} bits, negative"
    paper = "… but stay at a half in a narrow bottleneck"
    yield Claim("active-in-a-bottleneck", paper, measure, -(narrow - 50).abs(), -HALF)


def _figure5(plan: Plan, results: pd.DataFrame) -> Iterator[Claim]:
    ours, _, with_layer = figure5.others(plan, results).values()
    simclr = pd.DataFrame(figure5.longer(plan, results)).dropna().max(axis=1)
    paper = "SimCLR does not catch up with more fine-tuning (77.49 to 76.37)"
    yield Claim("minus-simclr-longer", paper, "points of top-1 above SimCLR's best length on test", ours - simclr, 0)
    paper = "The Bernoulli layer alone does not explain it (1.78 points)"
    measure = "points of top-1 above supervised with that layer"
    yield Claim("minus-supervised-bernoulli", paper, measure, ours - with_layer, 0)


def table(plan: Plan, results: pd.DataFrame) -> pd.DataFrame:
    """Make a table with one row for each claim."""
    rows = []
    for claim in claims(plan, results):
        found = claim.values.dropna()  # a difference is known for the seeds that have both numbers
        mean, half, n = interval(found)
        d = 2 if abs(mean) < 10 else 1
        rows.append(
            {
                "the paper says": claim.paper,
                "what is measured": claim.measure,
                "mean": f"{mean:.{d}f}" if n else None,
                "n": n,
                "95 % interval": f"{mean - half:.{d}f} to {mean + half:.{d}f}" if n > 1 else None,
                "must be": f"> {claim.threshold:g}",
                "verdict": verdict(found, claim.threshold),
            }
        )
    return pd.DataFrame(rows)


def summary(plan: Plan, results: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Give the values of each claim, one a seed, their interval and the verdict, by the claim's key."""
    found = {}
    for claim in claims(plan, results):
        values = claim.values.dropna()
        mean, half, n = interval(values)
        found[claim.key] = {
            "values": [round(value, 4) for value in values.tolist()],
            "interval": [round(mean - half, 4), round(mean + half, 4)] if n > 1 else None,
            "verdict": verdict(values, claim.threshold),
        }
    return found
