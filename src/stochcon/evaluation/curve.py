"""How much a code keeps: scores against the number of bits, beside other codes of as many bits."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor

from stochcon import atomic, report
from stochcon.config import changes
from stochcon.data.images import Images, Split, stratified_subset
from stochcon.evaluation import probes
from stochcon.evaluation.baselines import Representation, above_median, codes_of_pixels, itq
from stochcon.evaluation.evaluate import NAMES, file_of_split, labelled_images, pixel_floats
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


def curve(
    runs: Sequence[Path | str],
    baseline: Path | str | None = None,
    split: Split = "test",
    progress: bool = True,
) -> pd.DataFrame:
    """Score codes against their number of bits (sections 4.1, 4.3); write curve.json and curve.png.

    One run is scored on 8, 16, 32 ... of its bits and on all; several runs on all of theirs. Beside them are
    codes of as many bits of pixels and of h. Forest and ridge regression learn from SUBSET images at most,
    drawn evenly over the classes.

    Args:
        runs: Directories of finished runs, all with the same data; both files are written into the first.
        baseline: The run whose h the other codes quantise, say of SimCLR; by default each run's own h.
        split: The images to classify.
        progress: Whether to say in the terminal what is being done.

    Returns:
        A row for each number of `bits`, `code` and `measure`, with the `score`. The code "h" is h itself.

    Raises:
        ValueError: If there are no labels, a run has no bits, two have equally many, or the data differ.

    Example:
        >>> import tempfile, stochcon
        >>> tiny = stochcon.recipe("digits").model_copy(update={"epochs": 1})
        >>> run = stochcon.pretrain(tiny, tempfile.mkdtemp() + "/run", progress=False)
        >>> curve([run], split="validation", progress=False)["bits"].unique().tolist()
        [8, 16]
    """
    names, other = [str(run) for run in runs], None if baseline is None else str(baseline)
    models = {name: load_model(name) for name in [*names, *([other] if other else [])]}
    first = models[names[0]][1].data
    for name, (_, config) in models.items():
        for field, (ours, theirs) in changes(first, config.data).items():
            raise ValueError(
                f"{name} has data.{field} = {theirs}, but {names[0]} has {ours}: they must be equal"
            )
    with Console(quiet=not progress).status("reading the images") as status:
        train, labels, test, truth = labelled_images(first, split)
        score = _scorer(train, labels, test, truth)
        status.update("computing features")
        features = {
            name: (extract(model, train.pixels, config.views), extract(model, test.pixels, config.views))
            for name, (model, config) in models.items()
        }
        steps = _steps([(name, features[name][0]) for name in names])
        widths = [width for width, _ in steps]
        pixels = codes_of_pixels(pixel_floats(train), pixel_floats(test), widths)
        of_h = {name: score(features[name][0].h, features[name][1].h) for name in names}
        rows: list[tuple[int, str, str, float]] = []
        for width, name in steps:
            status.update(f"scoring codes of {width} bits")
            codes = {"bits": lowest_entropy_bits(*features[name], width)}
            codes |= codes_of_h(*features[other or name], width, "simclr-" if other else "") | pixels[width]
            scores = {code: score(*pair) for code, pair in codes.items() if pair[0].shape[1] == width}
            for code, values in (scores | {"h": of_h[name]}).items():
                rows += [(width, code, measure, value) for measure, value in values.items()]
    frame = pd.DataFrame(rows, columns=["bits", "code", "measure", "score"])
    wide = {measure: by_width(frame, measure).astype(object) for measure in MEASURES}
    scored = {measure: table.where(table.notna(), None).to_dict("list") for measure, table in wide.items()}
    content: dict[str, Any] = {"split": split, "runs": names, "baseline": other, "widths": widths}
    content |= {"scores": scored, "kept": kept(frame).tolist()}
    atomic.write_json(file_of_split(names[0], CURVE, split), content)
    title = f"{', '.join(Path(name).name for name in names)}: {split} images"
    report.save(draw(frame, title), file_of_split(names[0], PICTURE, split))
    return frame


def _scorer(train: Images, labels: Tensor, test: Images, truth: Tensor) -> Callable[..., dict[str, float]]:
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


def _steps(runs: list[tuple[str, Features]]) -> list[tuple[int, str]]:
    """List the numbers of bits to score, ascending, each with its run."""
    for name, features in runs:
        if features.bits is None:
            raise ValueError(f"{name} has no bits: a curve needs runs with --latent.kind bernoulli")
    steps = sorted((features.uncertainty.shape[1], name) for name, features in runs)
    if len({width for width, _ in steps}) < len(steps):
        raise ValueError(f"{', '.join(name for name, _ in runs)}: each run must have another number of bits")
    return steps if len(steps) > 1 else [(width, steps[0][1]) for width in widths_up_to(steps[0][0])]


def widths_up_to(most: int) -> list[int]:
    """List the powers of two from 8 that are below a number, and the number itself."""
    return [2**i for i in range(3, most.bit_length()) if 2**i < most] + [most]


def lowest_entropy_bits(train: Features, test: Features, count: int) -> Representation:
    """Take the bits of a run whose entropy is lowest, on average over the training images."""
    assert train.bits is not None and test.bits is not None
    chosen = train.uncertainty.mean(0).argsort()[:count]
    return train.bits[:, chosen], test.bits[:, chosen]


def codes_of_h(train: Features, test: Features, count: int, prefix: str = "") -> dict[str, Representation]:
    """Make the codes of h that need no training for bits; `prefix` says whose h it is."""
    codes = {"h-itq": itq, "h-median": above_median}
    return {f"{prefix}{name}": make(train.h, test.h, count) for name, make in codes.items()}


def by_width(scores: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Arrange a curve's scores by one measure: a row for each number of bits, a column for each code."""
    rows = scores[scores["measure"] == measure]
    return rows.pivot(index="bits", columns="code", values="score")[rows["code"].unique()]


def kept(scores: pd.DataFrame) -> pd.Series:
    """Compute how much of h's kNN top-1 the bits keep at each width, in per cent."""
    knn = by_width(scores, "knn")
    return 100 * knn["bits"] / knn["h"].replace(0, 100)


def show(scores: pd.DataFrame) -> None:
    """Print a table for each measure: a row for each code, a column for each number of bits."""
    for measure, title in MEASURES.items():
        wide = by_width(scores, measure).rename(columns=NAMES)
        if measure == "knn":
            wide["% of h's that bits keep"] = kept(scores)
        table = wide.T.rename_axis("bits").reset_index()
        digits = 2 if measure == "ridge" else 1
        report.show(table, f"\n{title}", digits)


def draw(scores: pd.DataFrame, title: str) -> Figure:
    """Draw a panel for each measure, and the legend in a place of its own."""
    with report.styled():
        figure = Figure(figsize=(12.5, 7))
        *axes, last = figure.subplots(2, 3).flat
        for axis, (measure, name) in zip(axes, MEASURES.items(), strict=True):
            panel(axis, by_width(scores, measure))
            axis.set(title=name, xlabel="bits an image")
        last.axis("off")
        last.legend(*axes[0].get_legend_handles_labels(), loc="center", fontsize=11)
        figure.suptitle(title)
    return figure


def panel(axis: Axes, scores: pd.DataFrame) -> None:
    """Draw a line for each code, a column of the frame, against the number of bits, its index."""
    first, *_ = axis.plot(scores.index, scores, label=[NAMES[code] for code in scores])
    first.set(linewidth=2.2, zorder=3)
    axis.set_xscale("log", base=2)
    axis.set_xticks(scores.index, [str(width) for width in scores.index])
    axis.minorticks_off()
