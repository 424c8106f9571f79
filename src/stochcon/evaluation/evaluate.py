"""A finished run, evaluated beside the codes that one would have without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import Tensor

from stochcon import atomic, runs
from stochcon.config import Data
from stochcon.data import sets as data
from stochcon.data.images import Images, Split, raw_bits
from stochcon.evaluation import probes
from stochcon.evaluation.features import Features, extract
from stochcon.evaluation.retrieval import MOST_QUERIES, retrieval
from stochcon.runs import load_model

BITS_WITHOUT_LATENT = 64

Say = Callable[[str], object]
"""Told what is being done, for whoever waits."""


def silently(what: str) -> None:
    """Tells nobody."""


def evaluate(directory: Path | str, split: Split = "test", progress: bool = True) -> dict[str, float]:
    """What a run's features and the baselines are worth for classifying and retrieving the images of `split`.

    The result, also written to metrics.json, is that of `score` for each code, with counts of the bits. Choose
    on split="validation" (written to metrics-validation.json), and read the test images once, at the end.
    Keys with no meaning for the run's latent are absent. Raises ValueError without labels.
    """
    directory = Path(directory)
    model, config = load_model(directory)
    with Console(quiet=not progress).status("reading the images") as status:
        train, labels, test, truth = labelled(config.data, split)
        status.update("computing features and baselines")
        a, b = extract(model, train.pixels, config.views), extract(model, test.pixels, config.views)
        bits = config.latent.dim or BITS_WITHOUT_LATENT
        codes = pixel_codes(train, test, bits) | feature_codes(a, b, bits)
        metrics = score(codes, labels, truth, status.update)
    if b.bits is not None:
        metrics |= probes.count_bits(b.bits) | {"compression": raw_bits(test) / b.bits.shape[1]}
    metrics["seed"] = config.seed
    atomic.write_json(directory / of_split(runs.METRICS, split), metrics)
    return metrics


def labelled(config: Data, split: Split) -> tuple[Images, Tensor, Images, Tensor]:
    """The training images and those of `split`, each with its labels (N,). Raises ValueError without labels.

    Validation images are never among the training images here, even where the network has learned from them.
    """
    if split == "validation":
        config = config.model_copy(update={"holdout": True})
    train, test = data.load_labelled(config, "train"), data.load_labelled(config, split)
    if not len(test[0]):
        raise ValueError(f"{config.root} has no {split} images")
    return *train, *test


def of_split(name: str, split: Split) -> str:
    """A file's name, with the split in it unless that is test.

    >>> of_split("metrics.json", "test"), of_split("metrics.json", "validation")
    ('metrics.json', 'metrics-validation.json')
    """
    path = Path(name)
    return name if split == "test" else f"{path.stem}-{split}{path.suffix}"


Pair = tuple[Tensor, Tensor]
"""(N, D) of the training images, (M, D) of those to classify."""
Codes = dict[str, Pair]
"""By name."""


def pixels(train: Images, test: Images) -> Pair:
    """Images as they are: real features from 0 to 1."""
    return train.pixels.flatten(1).float() / 255, test.pixels.flatten(1).float() / 255


def pixel_codes(train: Images, test: Images, bits: int) -> Codes:
    """Raw pixels, and the codes of as many bits that can be had of them without training a network."""
    x, y = pixels(train, test)
    components = probes.principal(x, y, bits)
    return {
        "pixels": (x, y),
        "pixels-pca-sign": probes.signs(*components),
        "pixels-itq": probes.signs(*probes.rotated(*components)),
    }


def feature_codes(a: Features, b: Features, bits: int) -> Codes:
    """h, as many bits of it from ITQ, and the latent's z and bits where it has them."""
    codes: Codes = {"h": (a.h, b.h), "h-itq": probes.itq(a.h, b.h, bits)}
    if a.z is not None and b.z is not None:
        codes["z"] = a.z, b.z
    if a.bits is not None and b.bits is not None:
        codes["bits"] = a.bits, b.bits
    return codes


def score(codes: Codes, train_labels: Tensor, test_labels: Tensor, say: Say = silently) -> dict[str, float]:
    """`linear.NAME` and `knn.NAME` of every code, and `map.NAME` and the rest of `retrieval`, in per cent."""
    metrics: dict[str, float] = {}
    for name, (x, y) in codes.items():
        say(f"scoring {NAMES.get(name, name)}")
        metrics[f"linear.{name}"] = round(probes.linear_top1(x, train_labels, y, test_labels), 2)
        metrics[f"knn.{name}"] = round(probes.knn_top1(x, train_labels, y, test_labels), 2)
        for measure, value in retrieval(x, train_labels, y, test_labels).items():
            metrics[f"{measure}.{name}"] = round(value, 2)
    return metrics


NAMES = {
    "pixels": "raw pixels",
    "pixels-pca-sign": "pixels, PCA signs",
    "pixels-itq": "pixels, ITQ",
    "pixels-random": "pixels, random projections",
    "simclr-h": "SimCLR's h",
    "simclr-h-itq": "SimCLR's h, ITQ",
    "simclr-h-median": "SimCLR's h, above median",
    "h": "h, the backbone's output",
    "h-itq": "h, ITQ",
    "h-median": "h, above median",
    "z": "z, the latent's mean",
    "bits": "StochCon's bits",
}


def show(metrics: dict[str, float], title: str, console: Console | None = None) -> None:
    """Print the metrics as a table."""
    columns = {"linear": "linear", "knn": "kNN", "map": "mAP", "p10": "P@10", "p100": "P@100"}
    table = Table("representation")
    for heading in columns.values():
        table.add_column(heading, justify="right")
    for key, name in NAMES.items():
        if f"knn.{key}" in metrics:
            values = [f"{metrics[f'{measure}.{key}']:.1f}" for measure in columns]
            table.add_row(name, *values, style="bold" if key == "bits" else None)
    console = console or Console()
    console.print(f"\nClassification and retrieval in per cent: {title}", highlight=False)
    console.print(table)
    console.print(
        "kNN: majority of 10 neighbours by cosine, for codes by Hamming distance. mAP, P@k: images of the same "
        f"class found in the training images by at most {MOST_QUERIES:,} queries, expected over orders of ties.",
        highlight=False,
    )
    if "bits" in metrics:
        console.print(
            f"{metrics['bits']} bits an image, {metrics['compression']:.0f} times smaller than the raw image; "
            f"{metrics['active']:.0f} % of them are ones, {metrics['dead']} never change.",
            highlight=False,
        )
