"""A finished run is scored beside the codes that one would have without it."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from rich.console import Console
from rich.status import Status
from torch import Tensor

from stochcon import atomic, report, runs
from stochcon.config import Data
from stochcon.data import sets as data
from stochcon.data.images import Images, Split, raw_bits
from stochcon.evaluation import probes
from stochcon.evaluation.baselines import Representation, codes_of_pixels, itq, pixel_floats
from stochcon.evaluation.features import Features, count_bits, extract
from stochcon.evaluation.retrieval import MOST_QUERIES, hashing_protocol, retrieval

Labelled = tuple[Images, Tensor, Images, Tensor]  # to learn from, their labels (N,); to classify, theirs
Pair = tuple[Features, Features]  # one model's, of the images to learn from and of those to classify
BITS_WITHOUT_LATENT = 64  # of the baselines beside a run whose configuration names no number
NAMES = {
    "pixels": "raw pixels",
    "pixels-pca-sign": "pixels, PCA signs",
    "pixels-itq": "pixels, ITQ",
    "pixels-random": "pixels, random projections",
    "simclr-h": "SimCLR's h",
    "simclr-h-itq": "SimCLR's h, ITQ",
    "simclr-h-median": "SimCLR's h, above median",
    "simclr-h-random": "SimCLR's h, random projections",
    "simclr-h-autoencoder": "SimCLR's h, binary autoencoder",
    "simclr-head": "SimCLR's h, learned bits (rebit)",
    "h": "h, the backbone's output",
    "h-itq": "h, ITQ",
    "h-median": "h, above median",
    "h-random": "h, random projections",
    "h-autoencoder": "h, binary autoencoder",
    "rebit": "h, learned bits of this length (rebit)",
    "z": "z, the latent's mean",
    "bits": "StochCon's bits",
}
"""The name of each representation in tables, in their order there."""
MEASURES = {"linear": "linear", "knn": "kNN", "map": "mAP", "p10": "P@10", "p100": "P@100"}
MEASURES |= {"map1000": "mAP@1000", "mapall": "mAP@All"}


def evaluate(run: Path | str, split: Split = "test", progress: bool = True, hashing: bool = False) -> dict[str, float]:
    """Score the features of a run and the baselines at classifying and retrieving images (sections 4.1, 4.3).

    Args:
        run: The directory of a finished run, into which metrics.json or metrics-validation.json is written.
        split: The images to classify. Make choices on validation, and read test once, at the end.
        progress: Whether to say in the terminal what is being done.
        hashing: Measure the codes by the protocol of the literature on hashing too, `map1000.NAME` and `mapall.NAME`.

    Returns:
        `linear.NAME`, `knn.NAME`, `map.NAME`, `p10.NAME` and `p100.NAME`, in per cent, for each representation;
        for a latent with bits `bits`, `active`, `dead` and `compression`; and `seed`.

    Raises:
        ValueError: If the run is not finished, or if the images have no labels.

    Example:
        >>> import tempfile, stochcon
        >>> tiny = stochcon.recipe("digits", epochs=1, rebit={"steps": 3})
        >>> run = stochcon.pretrain(tiny, tempfile.mkdtemp() + "/run", progress=False)
        >>> 0 < evaluate(run, "validation", progress=False)["knn.bits"] < 100
        True
    """
    model, config = runs.load_model(run)
    with Console(quiet=not progress).status("reading the images") as status:
        train, _, test, _ = images = labelled_images(config.data, split)
        status.update("computing features and baselines")
        features = extract(model, train.pixels, config.views), extract(model, test.pixels, config.views)
        width = config.latent.dim or BITS_WITHOUT_LATENT
        metrics = score(images, {"": features}, width, status, hashing=hashing) | {"seed": config.seed}
    atomic.write_json(file_of_split(run, runs.METRICS, split), metrics)
    return metrics


def described(run: Path | str) -> tuple[bool, bool]:
    """Tell of a run's images whether they are labelled, and whether they are a folder."""
    config = runs.read_config(Path(run)).data
    return bool(data.listed(config, "train")[0]), config.name == "folder"


def labelled_images(config: Data, split: Split) -> Labelled:
    """Read the training images and those of a split, both with labels (N,); refuse images without labels.

    Validation images are never among the training images here, even where the network has learned from them.
    """
    if split == "validation":
        config = config.model_copy(update={"holdout": True})
    return *data.load_labelled(config, "train"), *data.load_labelled(config, split)


def file_of_split(run: Path | str, name: str, split: Split) -> Path:
    """Name a file of a run: metrics.json for test, and metrics-validation.json for validation."""
    return Path(run) / (name if split == "test" else name.replace(".", f"-{split}."))


def score(
    images: Labelled,
    features: dict[str, Pair],
    width: int,
    status: Status,
    more: Mapping[str, Representation] | None = None,
    hashing: bool = False,
) -> dict[str, float]:
    """Compute `linear.NAME`, `knn.NAME`, `map.NAME` and the rest of `retrieval`, in per cent, for each name.

    The names are those of pixels, of codes of `width` bits, and of h, z and bits of each model. `features` has
    each model's by the prefix of its names; the bits of the one without a prefix are also counted. `more` are scored
    too, and with `hashing` all codes by `hashing_protocol`.
    """
    train, labels, test, truth = images
    codes = codes_of_pixels(train, test, [width])[width]
    found = {"pixels": (pixel_floats(train), pixel_floats(test))}
    found |= {name: codes[name] for name in ("pixels-pca-sign", "pixels-itq")}
    for prefix, (a, b) in features.items():
        found |= {f"{prefix}h": (a.h, b.h), f"{prefix}h-itq": itq(a.h, b.h, width)}
        optional = {"z": (a.z, b.z), "bits": (a.bits, b.bits)}
        found |= {f"{prefix}{n}": (x, y) for n, (x, y) in optional.items() if x is not None and y is not None}
    found |= more or {}
    metrics: dict[str, float] = {}
    for name, (x, y) in found.items():
        status.update(f"scoring {NAMES[name]}")
        linear, knn = (probe(x, labels, y, truth) for probe in (probes.linear_top1, probes.knn_top1))
        scores = {"linear": linear, "knn": knn} | retrieval(x, labels, y, truth)
        if hashing and x.dtype == torch.bool:
            scores |= hashing_protocol(x, labels, y, truth)
        metrics |= {f"{measure}.{name}": round(value, 2) for measure, value in scores.items()}
    bits = features[""][1].bits
    if bits is None:
        return metrics
    return metrics | count_bits(bits) | {"compression": raw_bits(test) / bits.shape[1]}


def table(metrics: dict[str, float]) -> pd.DataFrame:
    """Arrange metrics: a row for each representation, a column for each measure that there is."""
    there = {name: title for name, title in NAMES.items() if f"knn.{name}" in metrics}
    columns = {head: [metrics.get(f"{m}.{name}") for name in there] for m, head in MEASURES.items()}
    return pd.DataFrame({"representation": [*there.values()]} | columns).dropna(axis=1, how="all")


def show(metrics: dict[str, float], title: str) -> None:
    """Print metrics in the terminal, with a word on what they mean."""
    report.show(table(metrics), f"\nClassification and retrieval in per cent: {title}")
    notes = (
        "kNN: the majority of 10 neighbours, by cosine or Hamming distance. mAP, P@k: images of the "
        f"same class among training images, for at most {MOST_QUERIES:,} queries; expected over ties.\n"
    )
    if "bits" in metrics:
        counts = (
            "{bits} bits an image, {compression:.0f} times smaller than the raw image; "
            "{active:.0f} % of them are ones, {dead} never change.\n"
        )
        notes += counts.format(**metrics)
    print(notes, end="")
