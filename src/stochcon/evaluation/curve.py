"""How much a code keeps: scores against the number of bits, beside other codes of as many bits."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor

from stochcon import atomic, report
from stochcon.config import changes
from stochcon.data.images import Split, stratified_subset
from stochcon.evaluation import probes
from stochcon.evaluation.baselines import (
    Representation,
    above_median,
    autoencoder,
    codes_of_pixels,
    itq_fits,
    random_projections,
)
from stochcon.evaluation.evaluate import NAMES, Labelled, Pair, file_of_split, labelled_images
from stochcon.evaluation.features import extract
from stochcon.evaluation.learned import learn_widths
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

    One run is scored on 8, 16, 32 ... of its bits and on all; several runs on all of theirs. Beside them are codes of
    as many bits of pixels and of h, and bits that `rebit` learns at each length on its own h and on the baseline's:
    what these two differ in is what the latent did for the network. ITQ is the mean of five fits. Forest and ridge
    regression learn from SUBSET images at most, drawn evenly over the classes.

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
        >>> tiny = stochcon.recipe("digits", epochs=1, rebit={"steps": 3})
        >>> run = stochcon.pretrain(tiny, tempfile.mkdtemp() + "/run", progress=False)
        >>> curve([run], split="validation", progress=False)["bits"].unique().tolist()
        [8, 16]
    """
    names, other = [str(run) for run in runs], None if baseline is None else str(baseline)
    models = {name: load_model(name) for name in [*names, *([other] if other else [])]}
    first = names[0]
    data = models[first][1].data
    for name, (_, config) in models.items():
        for field, (wanted, got) in changes(data, config.data).items():
            raise ValueError(f"{name} has data.{field} = {got}, but {first} has {wanted}: they must be equal")
    for name in names:
        if not models[name][0].latent.binary:
            raise ValueError(f"{name} has no bits: a curve needs runs with --latent.kind bernoulli")
    steps = dict(sorted((models[name][0].latent.dim, name) for name in names))
    if len(steps) < len(names):
        raise ValueError(f"{', '.join(names)}: each run must have another number of bits")
    if len(steps) == 1:
        steps = dict.fromkeys(widths_up_to(*steps), first)
    with Console(quiet=not progress).status("reading the images") as status:
        train, _, test, _ = images = labelled_images(data, split)
        score = _scorer(images)
        status.update("computing features")
        features = {
            name: (extract(model, train.pixels, config.views), extract(model, test.pixels, config.views))
            for name, (model, config) in models.items()
        }
        simclr = features[other] if other else None
        pixels = codes_of_pixels(train, test, [*steps])
        status.update("learning bits of every length")
        of_run = {name: [width for width, run in steps.items() if run == name] for name in names}
        learned = {name: learn_widths(name, features[name], widths) for name, widths in of_run.items()}
        head = learn_widths(other, simclr, [*steps]) if other and simclr else {}
        of_h = {name: score(features[name][0].h, features[name][1].h) for name in names}
        scores: dict[tuple[int, str], dict[str, float]] = {}
        for width, name in steps.items():
            status.update(f"scoring codes of {width} bits")
            codes = {code: [both] for code, both in (codes_of_features(features[name], width, simclr)).items()}
            codes |= {"rebit": [learned[name][width]]} | ({"simclr-head": [head[width]]} if head else {})
            x, y = simclr or features[name]
            codes[f"{'simclr-' if simclr else ''}h-itq"] = itq_fits(x.h, y.h, width)
            codes |= {code: [both] for code, both in pixels[width].items()}
            for code, fits in codes.items():
                if fits[0][0].shape[1] == width:
                    values = pd.DataFrame([score(*fit) for fit in fits])
                    scores[width, code] = values.mean().round(4).to_dict()
            scores[width, "h"] = of_h[name]
    frame = pd.DataFrame(scores).unstack().rename_axis(["bits", "code", "measure"]).reset_index(name="score")
    scored = {name: by_width(frame, name).replace({np.nan: None}).to_dict("list") for name in MEASURES}
    content = {"split": split, "runs": names, "baseline": other, "widths": [*steps], "scores": scored}
    atomic.write_json(file_of_split(first, CURVE, split), content | {"kept": kept(frame).tolist()})
    title = f"{', '.join(Path(name).name for name in names)}: {split} images"
    report.save(draw(frame, title), file_of_split(first, PICTURE, split))
    return frame


def _scorer(images: Labelled) -> Callable[[Tensor, Tensor], dict[str, float]]:
    train, labels, test, truth = images
    some = stratified_subset(labels.numpy(), SUBSET)
    asked, answers = probes.targets(train.pixels[some]), probes.targets(test.pixels)

    def score(x: Tensor, y: Tensor) -> dict[str, float]:
        values = {
            "knn": probes.knn_top1(x, labels, y, truth),
            "map": retrieval(x, labels, y, truth)["map"],
            "linear": probes.linear_top1(x, labels, y, truth),
            "forest": probes.forest_top1(x[some], labels[some], y, truth),
            "ridge": probes.ridge_r2(x[some], asked, y, answers),
        }
        return {name: round(value, 4) for name, value in values.items()}

    return score


def widths_up_to(most: int) -> list[int]:
    """List the powers of two from 8 that are below a number, and the number itself."""
    return [2**i for i in range(3, most.bit_length()) if 2**i < most] + [most]


def codes_of_features(ours: Pair, count: int, simclr: Pair | None = None) -> dict[str, Representation]:
    """Take a run's bits of the lowest entropy over the training images; make codes of SimCLR's h, or its own."""
    train, test = ours
    assert train.bits is not None and test.bits is not None
    chosen = train.uncertainty.mean(0).argsort()[:count]
    prefix, (x, y) = ("simclr-", simclr) if simclr else ("", ours)
    makers = {"median": above_median, "random": random_projections, "autoencoder": autoencoder}
    codes = {f"{prefix}h-{name}": make(x.h, y.h, count) for name, make in makers.items()}
    return {"bits": (train.bits[:, chosen], test.bits[:, chosen])} | codes


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
        report.show(table, f"\n{title}", digits=2 if measure == "ridge" else 1)


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
