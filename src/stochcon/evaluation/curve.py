"""How much a code keeps: scores against the number of bits, beside other codes of as many bits."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor

from stochcon import atomic
from stochcon.config import changes
from stochcon.data.images import Images, Split, stratified_subset
from stochcon.evaluation import probes
from stochcon.evaluation.evaluate import NAMES, Codes, labelled, of_split, pixels
from stochcon.evaluation.features import Features, extract
from stochcon.evaluation.regression import ridge_r2, targets
from stochcon.evaluation.retrieval import retrieval
from stochcon.runs import load_model

CURVE, PICTURE = "curve.json", "curve.png"
SUBSET = 5000
MEASURES = {
    "knn": "kNN top-1 (%)",
    "map": "retrieval, mean average precision (%)",
    "linear": "linear probe, top-1 (%)",
    "forest": "random forest, top-1 (%)",
    "ridge": "ridge regression, mean R²",
}
STYLES = {
    "bits": ("o-", "black"),
    "h": ("-", "0.75"),
    "h-itq": ("s--", "tab:blue"),
    "h-median": ("D:", "tab:green"),
    "pixels-pca-sign": ("v-.", "tab:red"),
    "pixels-itq": ("^--", "tab:orange"),
    "pixels-random": ("x:", "tab:gray"),
}
"""Marker with line, and colour, by code: the markers tell them apart without the colours."""

Values = dict[str, list[float | None]]
"""By code, for each width: none where the code has not so many bits."""


@dataclass(frozen=True)
class Curve:
    """What was measured at each number of bits."""

    split: Split
    runs: list[str]
    """One run, whose bits the smaller numbers are some of; or several, each with its own number."""
    twin: str | None
    """The run whose h the other codes quantise; none: the runs' own."""
    widths: list[int]
    scores: dict[str, Values]
    """By measure; the code `h` is the runs' h, as floats."""

    def kept(self) -> list[float]:
        """Per cent of the kNN top-1 of h that the bits keep, for each width.

        >>> Curve("test", ["a"], None, [8], {"knn": {"bits": [60.0], "h": [80.0]}}).kept()
        [75.0]
        """
        knn = self.scores["knn"]
        return [100 * (few or 0) / (whole or 100) for few, whole in zip(knn["bits"], knn["h"], strict=True)]


def curve(
    runs: Sequence[Path | str], twin: Path | str | None = None, split: Split = "test", progress: bool = True
) -> Curve:
    """Scores against the number of bits; also saved as curve.json and curve.png in the first run's directory.

    One run is scored on 8, 16, 32 ... of its bits and on all; several runs of different widths on all of
    theirs. Beside them are codes of as many bits from pixels, and from h of `twin` or of the run itself.
    kNN, the linear probe and retrieval use all training images; forest and ridge regression learn from at
    most SUBSET of them, drawn evenly over the classes.

    Raises ValueError without labels, for a run without bits, for two of one width, and for different data.
    """
    named = [str(run) for run in runs]
    models = {name: load_model(name) for name in [*named, *([] if twin is None else [str(twin)])]}
    config = models[named[0]][1]
    for name, (_, other) in models.items():
        for field, (ours, theirs) in changes(config.data, other.data).items():
            raise ValueError(
                f"{name} has data.{field} = {theirs}, but {named[0]} has {ours}: they must be equal"
            )
    with Console(quiet=not progress).status("reading the images") as status:
        train, labels, test, truth = labelled(config.data, split)
        status.update("computing features")
        features = {
            name: (extract(model, train.pixels, c.views), extract(model, test.pixels, c.views))
            for name, (model, c) in models.items()
        }
        asked = {name: widths(_bits(name, features[name][0])) for name in named}
        if len(named) > 1:
            asked = {name: own[-1:] for name, own in sorted(asked.items(), key=lambda item: item[1][-1])}
        every = [width for own in asked.values() for width in own]
        if len({*every}) < len(named):
            raise ValueError(f"{', '.join(named)}: each run must have another number of bits")
        status.update("projecting pixels")
        pixel_codes = of_pixels(train, test, max(every))
        score = scorer(train, labels, test, truth)
        rows: list[dict[str, dict[str, float]]] = []
        for name, own in asked.items():
            a, b = features[name]
            h = score(a.h, b.h)
            bits = of_bits(a, b)
            others = of_h(a, b) if twin is None else of_h(*features[str(twin)], "simclr-")
            for width in own:
                row = {}
                for code, (x, y) in (bits(width) | others(width) | pixel_codes(width)).items():
                    status.update(f"scoring {width} bits: {NAMES[code]}")
                    if x.shape[1] == width:
                        row[code] = score(x, y)
                rows.append(row | {"h": h})
    codes = dict.fromkeys(code for row in rows for code in row)
    scores = {m: {code: [row.get(code, {}).get(m) for row in rows] for code in codes} for m in MEASURES}
    result = Curve(split, named, None if twin is None else str(twin), every, scores)
    save(result)
    return result


def save(curve: Curve) -> None:
    """curve.json and curve.png in the first run's directory, with the split in their names unless that is test."""
    out = Path(curve.runs[0])
    atomic.write_json(out / of_split(CURVE, curve.split), asdict(curve) | {"kept": curve.kept()})
    picture = io.BytesIO()
    draw(curve).savefig(picture, dpi=150, format="png")
    atomic.write(out / of_split(PICTURE, curve.split), picture.getvalue())


def _bits(run: str, features: Features) -> int:
    if features.bits is None:
        raise ValueError(f"{run} has no bits: a curve needs runs with --latent.kind bernoulli")
    return features.bits.shape[1]


def widths(most: int) -> list[int]:
    """Powers of two from 8 up to, and `most` itself.

    >>> widths(48)
    [8, 16, 32, 48]
    """
    return [2**i for i in range(3, most.bit_length()) if 2**i < most] + [most]


OfBits = Callable[[int], Codes]
"""Codes of a number of bits; of fewer if there are no more."""


def of_bits(a: Features, b: Features) -> OfBits:
    """The bits of a run that are surest, on average over the training images."""
    assert a.bits is not None and b.bits is not None
    bits, more, order = a.bits, b.bits, a.uncertainty.mean(0).argsort()
    return lambda count: {"bits": (bits[:, order[:count]], more[:, order[:count]])}


def of_h(a: Features, b: Features, prefix: str = "") -> OfBits:
    """What can be had of the features h without training for bits."""
    return lambda count: {
        f"{prefix}h-itq": probes.itq(a.h, b.h, count),
        f"{prefix}h-median": probes.above_median(a.h, b.h, count),
    }


def of_pixels(train: Images, test: Images, most: int) -> OfBits:
    """What can be had of pixels, which are projected once, to `most` dimensions."""
    x, y = pixels(train, test)
    a, b = probes.principal(x, y, most)
    c, d = probes.random_projections(x, y, most)
    return lambda count: {
        "pixels-pca-sign": probes.signs(a[:, :count], b[:, :count]),
        "pixels-itq": probes.signs(*probes.rotated(a[:, :count], b[:, :count])),
        "pixels-random": (c[:, :count], d[:, :count]),
    }


def scorer(
    train: Images, labels: Tensor, test: Images, truth: Tensor
) -> Callable[[Tensor, Tensor], dict[str, float]]:
    """Every one of MEASURES, of the features of both."""
    some = stratified_subset(labels.numpy(), SUBSET)
    asked, answers = targets(train.pixels[some]), targets(test.pixels)

    def score(x: Tensor, y: Tensor) -> dict[str, float]:
        r2 = ridge_r2(x[some], asked, y, answers)
        values = {
            "knn": probes.knn_top1(x, labels, y, truth),
            "map": retrieval(x, labels, y, truth)["map"],
            "linear": probes.linear_top1(x, labels, y, truth),
            "forest": probes.forest_top1(x[some], labels[some], y, truth),
            "ridge": sum(r2.values()) / len(r2),
        }
        return {name: round(value, 4) for name, value in values.items()}

    return score


def table(curve: Curve) -> str:
    """Markdown: for each measure the widths down and the codes across."""
    parts = []
    for measure, values in curve.scores.items():
        digits = 2 if measure == "ridge" else 1
        columns = {NAMES[code]: line for code, line in values.items()}
        if measure == "knn":
            columns["% of h's that bits keep"] = [*curve.kept()]
        lines = [["bits", *columns]]
        for width, *row in zip(curve.widths, *columns.values(), strict=True):
            lines.append([str(width), *("–" if v is None else f"{v:.{digits}f}" for v in row)])
        lines.insert(1, ["--:"] * len(lines[0]))
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"{MEASURES[measure]}\n\n{body}")
    return "\n\n".join(parts)


def draw(curve: Curve) -> Figure:
    """A panel for each measure, the legend in a place of its own."""
    figure = Figure(figsize=(12.5, 7), layout="constrained")
    *axes, last = figure.subplots(2, 3).flat
    for axis, (measure, values) in zip(axes, curve.scores.items(), strict=True):
        panel(axis, curve.widths, values)
        axis.set(title=MEASURES[measure], xlabel="bits an image")
    last.axis("off")
    last.legend(*axes[0].get_legend_handles_labels(), loc="center", frameon=False, fontsize=11)
    figure.suptitle(f"{', '.join(Path(run).name for run in curve.runs)}: {curve.split} images")
    return figure


def panel(axis: Axes, widths: Sequence[int], values: Values) -> None:
    """A line for each code against the number of bits."""
    for code, line in values.items():
        style, colour = STYLES[code.removeprefix("simclr-")]
        heights = [float("nan") if value is None else value for value in line]
        width, layer = (2.2, 3) if code == "bits" else (1.4, 2)
        axis.plot(
            widths,
            heights,
            style,
            color=colour,
            label=NAMES[code],
            markersize=5,
            linewidth=width,
            zorder=layer,
        )
    axis.set_xscale("log", base=2)
    axis.set_xticks(widths, [str(width) for width in widths])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
