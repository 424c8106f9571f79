"""What the three distances of `stochcon search` are worth as a ranking: mean average precision and kNN top-1.

    python -m benchmarks.distances RUN [--split validation]

RUN is a finished run with bits. Queries are the images of the split, each with its own probabilities, and the stored
codes are those of the training images. The result is added to results/codes/distances.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from stochcon import atomic, runs
from stochcon.codes.packed import Codes
from stochcon.codes.weighted import bit_weights, shares_of_ones
from stochcon.evaluation.evaluate import labelled_images
from stochcon.evaluation.features import extract
from stochcon.evaluation.retrieval import MOST_QUERIES, average_precision, histograms, sample

OUT = Path(__file__).parents[1] / "results" / "codes" / "distances.json"


def score(distances: Tensor, labels: Tensor, truth: Tensor) -> dict[str, float]:
    """Rank by (M, N) distances."""
    precision = average_precision(*histograms(-distances, truth[:, None] == labels))
    nearest = labels[distances.topk(10, largest=False).indices]
    votes = F.one_hot(nearest, int(labels.max()) + 1).sum(1).argmax(1)
    return {"map": 100 * precision.mean().item(), "knn": 100 * (votes == truth).double().mean().item()}


def main() -> None:
    """Measure one run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", default="test", choices=["test", "validation"])
    options = parser.parse_args()
    model, config = runs.load_model(options.run)
    train, labels, test, truth = labelled_images(config.data, options.split)
    stored, asked = (extract(model, images.pixels, config.views) for images in (train, test))
    assert stored.bits is not None and asked.bits is not None and asked.probabilities is not None
    some = sample(truth, MOST_QUERIES)
    c, q, p = stored.bits.float(), asked.bits[some].float(), asked.probabilities[some]
    packed = Codes.pack(stored.bits.numpy(), train.ids).packed
    flips = torch.minimum(p, 1 - p).numpy()
    weights = torch.from_numpy(bit_weights(shares_of_ones(packed, c.shape[1]), flips))
    distances = {
        "hamming": q.sum(1, keepdim=True) + (1 - 2 * q) @ c.T,
        "weighted": (weights * q).sum(1, keepdim=True) + (weights * (1 - 2 * q)) @ c.T,
        "asymmetric": p.sum(1, keepdim=True) + (1 - 2 * p) @ c.T,
    }
    scores = {name: score(each, labels, truth[some]) for name, each in distances.items()}
    for name, values in scores.items():
        print(f"{name:12s} mAP {values['map']:.2f}  kNN {values['knn']:.2f}")
    name = f"{config.recipe}, {c.shape[1]} bits, seed {config.seed}, {options.split}"
    OUT.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(OUT.read_text()) if OUT.exists() else {}
    atomic.write_json(OUT, known | {name: scores})


if __name__ == "__main__":
    main()
