"""Bits against their rivals at equal numbers of bits: ranking (mAP), nearest neighbours and a linear probe.

    python -m benchmarks.codes DATASET STOCHCON SIMCLR [--split test] [--widths 16 32 64 128]

STOCHCON and SIMCLR are finished runs of one data set and one seed. `ours` are bits that `stochcon rebit` learns on the
first one's h, and `simclr-head` those that it learns on the second one's: the fair rival. ITQ is the mean of five
fits. The scores of the seed are put into results/codes/summary.json, beside those of the others:
{data set: {bits: {code: {measure: [a score a seed]}}}}.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from stochcon import atomic, runs
from stochcon.data.images import Images, Split
from stochcon.data.sets import load_training
from stochcon.evaluation import probes
from stochcon.evaluation.baselines import (
    Representation,
    above_median,
    autoencoder,
    codes_of_pixels,
    itq,
    random_projections,
)
from stochcon.evaluation.evaluate import labelled_images
from stochcon.evaluation.features import extract
from stochcon.evaluation.retrieval import retrieval
from stochcon.method.algorithm1 import Algorithm1
from stochcon.train.loop import launch
from stochcon.train.rebit import finish, rebit_config, relearn, store

OUT = Path(__file__).parents[1] / "results" / "codes"
FITS = 5


def learned(run: Path, widths: list[int], train: Images, test: Images) -> dict[int, Representation]:
    """Learn the code of a run again at each width, and make its bits of the images."""
    trained, config = runs.load_model(run)
    images, fabric = load_training(config.data), launch()
    stored = store(trained, images, rebit_config(run))
    codes = {}
    for width in widths:
        wanted = rebit_config(run, **{"latent.dim": width})
        model = Algorithm1(wanted)
        model.backbone.load_state_dict(trained.backbone.state_dict())
        with tempfile.TemporaryDirectory() as folder:
            relearn(model, stored, wanted, fabric, Path(folder), progress=False)
            finish(model, images, wanted, Path(folder))
        parts = [extract(model, x.pixels, config.views).bits for x in (train, test)]
        codes[width] = (parts[0], parts[1])
    return codes  # type: ignore[return-value]


def compare(stochcon: Path, simclr: Path, widths: list[int], split: Split) -> dict[int, dict[str, dict[str, float]]]:
    """Score every code at every width."""
    train, labels, test, truth = labelled_images(runs.read_config(simclr).data, split)

    def score(x: Tensor, y: Tensor) -> dict[str, float]:
        return {
            "map": retrieval(x, labels, y, truth)["map"],
            "knn": probes.knn_top1(x, labels, y, truth),
            "linear": probes.linear_top1(x, labels, y, truth),
        }

    def features(run: Path) -> Representation:
        model, config = runs.load_model(run)
        return extract(model, train.pixels, config.views).h, extract(model, test.pixels, config.views).h

    h, own = features(simclr), features(stochcon)
    floats = {"h": score(*own), "simclr-h": score(*h)}
    ours, head = learned(stochcon, widths, train, test), learned(simclr, widths, train, test)
    pixels = codes_of_pixels(train, test, widths)
    scores = {}
    for width in widths:
        codes = {"ours": ours[width], "simclr-head": head[width]} | pixels[width]
        codes |= {"simclr-median": above_median(*h, width), "simclr-random": random_projections(*h, width)}
        codes |= {"simclr-autoencoder": autoencoder(*h, width)}
        scores[width] = floats | {name: score(*code) for name, code in codes.items()}
        fits = [score(*itq(*h, width, seed)) for seed in range(FITS)]
        scores[width]["simclr-itq"] = {m: sum(fit[m] for fit in fits) / FITS for m in fits[0]}
        for name, values in sorted(scores[width].items(), key=lambda item: -item[1]["map"]):
            print(f"{width:4d} {name:20s}" + "".join(f"{m} {v:6.2f}  " for m, v in values.items()), flush=True)
    return scores


def main() -> None:
    """Add one seed to the summary of its split."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset")
    parser.add_argument("stochcon", type=Path)
    parser.add_argument("simclr", type=Path)
    parser.add_argument("--split", default="test", choices=["test", "validation"])
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64, 128])
    options = parser.parse_args()
    scores = compare(options.stochcon, options.simclr, options.widths, options.split)
    OUT.mkdir(parents=True, exist_ok=True)
    seed = runs.read_config(options.simclr).seed
    name = f"{options.dataset}-{seed}{'' if options.split == 'test' else '-validation'}.json"
    atomic.write_json(OUT / name, {str(width): scores[width] for width in scores})
    if options.split == "test":
        summarise()


def summarise() -> None:
    """Collect the seeds of every data set."""
    summary: dict[str, dict[str, dict[str, dict[str, list[float]]]]] = {}
    for path in sorted(OUT.glob("*-[0-9].json")):
        of_set = summary.setdefault(path.stem.rpartition("-")[0], {})
        for width, codes in json.loads(path.read_text()).items():
            for code, values in codes.items():
                for measure, value in values.items():
                    of_set.setdefault(width, {}).setdefault(code, {}).setdefault(measure, []).append(round(value, 2))
    atomic.write_json(OUT / "summary.json", summary)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
