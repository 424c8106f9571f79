"""The dial of `rebit`: better nearest neighbours or a better ranking, at equal numbers of bits.

    python -m benchmarks.dial RUN [RUN ...] [--bits 64] [--split validation]

Learns the bits of each finished run again with more and more decorrelation, and with several temperatures, and draws
kNN top-1 against mean average precision: results/codes/dial.json and docs/dial.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from stochcon import atomic, report, runs
from stochcon.data.images import Split
from stochcon.evaluation import probes
from stochcon.evaluation.baselines import Representation, itq_fits
from stochcon.evaluation.evaluate import labelled_images
from stochcon.evaluation.features import extract
from stochcon.evaluation.learned import learn_codes
from stochcon.evaluation.retrieval import retrieval

ROOT = Path(__file__).parents[1]
DECORRELATION = (0.0, 0.01, 0.02, 0.05, 0.1, 0.5)
TEMPERATURE = (0.2, 0.3, 0.4, 0.5)


def dial(run: Path, bits: int, split: Split) -> dict[str, Any]:
    """Score each setting of one run."""
    model, config = runs.load_model(run)
    train, labels, test, truth = labelled_images(config.data, split)
    features = extract(model, train.pixels, config.views), extract(model, test.pixels, config.views)
    named = {f"decorrelation {value}": {"rebit.decorrelation": value} for value in DECORRELATION}
    named |= {f"temperature {value}": {"rebit.temperature": value} for value in TEMPERATURE}

    def score(code: Representation) -> dict[str, float]:
        knn = probes.knn_top1(code[0], labels, code[1], truth)
        return {"knn": knn, "map": retrieval(code[0], labels, code[1], truth)["map"]}

    codes = learn_codes(run, features, [{"latent.dim": bits} | fields for fields in named.values()])
    scores = {name: score(code) for name, code in zip(named, codes, strict=True)}
    h = features[0].h, features[1].h
    fits = [score(fit) for fit in itq_fits(*h, bits)]
    scores |= {"h": score(h), "ITQ of h": {key: sum(fit[key] for fit in fits) / len(fits) for key in fits[0]}}
    for name, values in scores.items():
        print(f"{config.recipe:15s} {name:20s} kNN {values['knn']:.2f}  mAP {values['map']:.2f}", flush=True)
    return scores


def draw(scores: dict[str, dict[str, dict[str, float]]], bits: int) -> Figure:
    """Draw a panel for each run."""
    with report.styled():
        figure = Figure(figsize=(5.6 * len(scores), 4.4))
        for axis, (name, points) in zip(figure.subplots(1, len(scores), squeeze=False)[0], scores.items(), strict=True):
            for kind in ("decorrelation", "temperature"):
                of_kind = {key.split()[1]: value for key, value in points.items() if key.startswith(kind)}
                axis.plot([v["map"] for v in of_kind.values()], [v["knn"] for v in of_kind.values()], "o-", label=kind)
                for label, value in of_kind.items():
                    axis.annotate(label, (value["map"], value["knn"]), xytext=(4, 4), textcoords="offset points")
            for key, marker in (("h", "*"), ("ITQ of h", "s")):
                axis.plot(points[key]["map"], points[key]["knn"], marker, ms=9, label=key, color="0.35")
            axis.set(title=f"{name}, {bits} bits", xlabel="mean average precision (%)", ylabel="kNN top-1 (%)")
            axis.legend()
    return figure


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--split", default="validation", choices=["test", "validation"])
    options = parser.parse_args()
    scores = {runs.read_config(run).recipe: dial(run, options.bits, options.split) for run in options.runs}
    (ROOT / "results" / "codes").mkdir(parents=True, exist_ok=True)
    content = {"split": options.split, "bits": options.bits, "scores": scores}
    atomic.write_json(ROOT / "results" / "codes" / "dial.json", content)
    report.save(draw(scores, options.bits), ROOT / "docs" / "dial.png")


if __name__ == "__main__":
    main()
