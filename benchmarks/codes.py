"""Bits against their rivals at equal numbers of bits: ranking (mAP), nearest neighbours and a linear probe.

    python -m benchmarks.codes RECIPE STOCHCON SIMCLR [--bernoulli RUN] [--split test] [--widths 16 32 64 128]

STOCHCON and SIMCLR are finished runs of one data set and one seed. `ours` are bits that `stochcon rebit` learns on the
first one's h as the recipe says, and `simclr-head` those that it learns on the second one's: the fair rival. With
`rebit.alone` both have the same network, and may be the same run; then `bernoulli-head` and `bernoulli-h` can be those
of a run whose latent was there from the start (`--rebit.no-alone`). ITQ is the mean of five fits. The linear probe
learns from LINEAR images at most. The scores of the seed are put into results/codes/summary.json, beside those of the
others: {data set: {bits: {code: {measure: [a score a seed]}}}}.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from stochcon import atomic, report, runs
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
from stochcon.evaluation.evaluate import NAMES, labelled_images
from stochcon.evaluation.features import Features, extract
from stochcon.evaluation.learned import learn_codes
from stochcon.evaluation.retrieval import retrieval
from stochcon.recipebook import RECIPES, recipe

OUT = Path(__file__).parents[1] / "results" / "codes"
LINEAR = 11_000
Summary = dict[str, dict[str, dict[str, dict[str, list[float]]]]]
TITLES = {"map": "mean average precision (%)", "knn": "kNN top-1 (%)"}
DRAWN: dict[str, dict[str, Any]] = {
    "ours": {"label": NAMES["bits"], "linewidth": 2.6, "zorder": 3},
    "simclr-head": {"label": NAMES["simclr-head"], "linewidth": 1.8},
    "simclr-itq": {"label": NAMES["simclr-h-itq"]},
    "simclr-autoencoder": {"label": NAMES["simclr-h-autoencoder"]},
    "pixels-itq": {"label": NAMES["pixels-itq"]},
    "pixels-pca-sign": {"label": NAMES["pixels-pca-sign"]},
    "simclr-h": {"label": "SimCLR's h, 256 floats", "color": "0.45", "linestyle": "--"},
}


def compare(
    name: str,
    stochcon: Path,
    simclr: Path,
    widths: list[int],
    split: Split,
    bernoulli: Path | None = None,
) -> dict[int, dict[str, dict[str, float]]]:
    """Score every code at every width."""
    train, labels, test, truth = labelled_images(runs.read_config(simclr).data, split)

    some = stratified_subset(labels.numpy(), LINEAR)

    def score(x: Tensor, y: Tensor) -> dict[str, float]:
        return {
            "map": retrieval(x, labels, y, truth)["map"],
            "knn": probes.knn_top1(x, labels, y, truth),
            "linear": probes.linear_top1(x[some], labels[some], y, truth),
        }

    def features(run: Path) -> tuple[Features, Features]:
        model, config = runs.load_model(run)
        return extract(model, train.pixels, config.views), extract(model, test.pixels, config.views)

    own, theirs = features(stochcon), features(simclr)
    h = theirs[0].h, theirs[1].h
    floats = {"h": score(own[0].h, own[1].h), "simclr-h": score(*h)}
    wanted = recipe(name).rebit
    same = {"rebit.temperature": wanted.temperature, "rebit.decorrelation": wanted.decorrelation}
    settings = [{"latent.dim": width} | same for width in widths]
    ours = dict(zip(widths, learn_codes(stochcon, own, settings), strict=True))
    head = ours if simclr == stochcon else dict(zip(widths, learn_codes(simclr, theirs, settings), strict=True))
    start: dict[int, Representation] = {}
    if bernoulli:
        noisy = features(bernoulli)
        floats["bernoulli-h"] = score(noisy[0].h, noisy[1].h)
        start = dict(zip(widths, learn_codes(bernoulli, noisy, settings), strict=True))
    pixels = codes_of_pixels(train, test, widths)
    scores = {}
    for width in widths:
        codes = {"ours": ours[width], "simclr-head": head[width]} | pixels[width]
        codes |= {"simclr-median": above_median(*h, width), "simclr-random": random_projections(*h, width)}
        codes |= {"simclr-autoencoder": autoencoder(*h, width)}
        codes |= {"bernoulli-head": start[width]} if bernoulli else {}
        scores[width] = floats | {name: score(*code) for name, code in codes.items()}
        fits = [score(*fit) for fit in itq_fits(*h, width)]
        scores[width]["simclr-itq"] = {m: sum(fit[m] for fit in fits) / len(fits) for m in fits[0]}
        for name, values in sorted(scores[width].items(), key=lambda item: -item[1]["map"]):
            print(f"{width:4d} {name:20s}" + "".join(f"{m} {v:6.2f}  " for m, v in values.items()), flush=True)
    return scores


def main() -> None:
    """Add one seed to the summary of its split."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("stochcon", type=Path)
    parser.add_argument("simclr", type=Path)
    parser.add_argument("--split", default="test", choices=["test", "validation"])
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--bernoulli", type=Path)
    options = parser.parse_args()
    scores = compare(options.recipe, options.stochcon, options.simclr, options.widths, options.split, options.bernoulli)
    OUT.mkdir(parents=True, exist_ok=True)
    seed = runs.read_config(options.simclr).seed
    name = f"{options.recipe}-{seed}{'' if options.split == 'test' else '-validation'}.json"
    atomic.write_json(OUT / name, {str(width): scores[width] for width in scores})
    if options.split == "test":
        summarise()


def summarise() -> None:
    """Collect the seeds of every data set."""
    summary: Summary = {}
    for path in sorted(OUT.glob("*-[0-9].json")):
        of_set = summary.setdefault(path.stem.rpartition("-")[0], {})
        for width, codes in json.loads(path.read_text()).items():
            for code, values in codes.items():
                for measure, value in values.items():
                    of_set.setdefault(width, {}).setdefault(code, {}).setdefault(measure, []).append(round(value, 2))
    atomic.write_json(OUT / "summary.json", summary)
    report.save(draw(summary), OUT.parents[1] / "docs" / "codes.png")


def draw(summary: Summary) -> Figure:
    """Draw each seed as a dot and the mean as a line: a row for each measure, a column for each data set."""
    with report.styled():
        figure = Figure(figsize=(6.2 * len(summary), 8.2))
        axes = figure.subplots(2, len(summary), squeeze=False)
        for column, (name, of_width) in enumerate(summary.items()):
            widths = sorted(map(int, of_width))
            for axis, (measure, title) in zip(axes[:, column], TITLES.items(), strict=True):
                for code, style in DRAWN.items():
                    means = [
                        sum(of_width[str(w)][code][measure]) / len(of_width[str(w)][code][measure]) for w in widths
                    ]
                    (line,) = axis.plot(widths, means, **style)
                    for width in widths:
                        seeds = of_width[str(width)][code][measure]
                        axis.plot([width] * len(seeds), seeds, ".", ms=4, color=line.get_color(), alpha=0.6)
                axis.set_xscale("log", base=2)
                axis.set_xticks(widths, [str(width) for width in widths])
                axis.minorticks_off()
                axis.set(title=f"{name}: {title}", xlabel="bits an image")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


if __name__ == "__main__":
    main()
