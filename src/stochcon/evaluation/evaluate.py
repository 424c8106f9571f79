"""A finished run is scored beside the codes that one would have without it."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from rich.console import Console
from torch import Tensor

from stochcon import atomic, report, runs
from stochcon.config import Data
from stochcon.data import sets as data
from stochcon.data.images import Images, Split, raw_bits
from stochcon.evaluation import probes
from stochcon.evaluation.baselines import Representation, codes_of_pixels, itq
from stochcon.evaluation.features import Features, count_bits, extract
from stochcon.evaluation.retrieval import MOST_QUERIES, retrieval

BITS_WITHOUT_LATENT = 64  # of the baselines beside a run whose configuration names no number
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
"""What tables call each representation, in their order there."""
MEASURES = {"linear": "linear", "knn": "kNN", "map": "mAP", "p10": "P@10", "p100": "P@100"}


def evaluate(run: Path | str, split: Split = "test", progress: bool = True) -> dict[str, float]:
    """Score the features of a run and the baselines at classifying and retrieving images (sections 4.1, 4.3).

    Args:
        run: The directory of a finished run, into which metrics.json or metrics-validation.json is written.
        split: The images to classify. Make choices on validation, and read test once, at the end.
        progress: Whether to say in the terminal what is being done.

    Returns:
        What `score` returns; for a latent with bits `bits`, `active`, `dead`, `compression`; and `seed`.

    Raises:
        ValueError: If the run is not finished, or if the images have no labels.

    Example:
        >>> import tempfile, stochcon
        >>> tiny = stochcon.recipe("digits").model_copy(update={"epochs": 1})
        >>> run = stochcon.pretrain(tiny, tempfile.mkdtemp() + "/run", progress=False)
        >>> 0 < evaluate(run, "validation", progress=False)["knn.bits"] < 100
        True
    """
    model, config = runs.load_model(run)
    with Console(quiet=not progress).status("reading the images") as status:
        train, labels, test, truth = labelled_images(config.data, split)
        status.update("computing features and baselines")
        a, b = (extract(model, images.pixels, config.views) for images in (train, test))
        width = config.latent.dim or BITS_WITHOUT_LATENT
        found = pixel_representations(train, test, width) | feature_representations(a, b, width)
        metrics = score(found, labels, truth, status.update)
    if b.bits is not None:
        metrics |= count_bits(b.bits) | {"compression": raw_bits(test) / b.bits.shape[1]}
    metrics["seed"] = config.seed
    atomic.write_json(file_of_split(run, runs.METRICS, split), metrics)
    return metrics


def labelled_images(config: Data, split: Split) -> tuple[Images, Tensor, Images, Tensor]:
    """Read the training images and those of a split, both with labels (N,); refuse images without labels.

    Validation images are never among the training images here, even where the network has learned from them.
    """
    if split == "validation":
        config = config.model_copy(update={"holdout": True})
    train, test = data.load_labelled(config, "train"), data.load_labelled(config, split)
    if not len(test[0]):
        raise ValueError(f"{config.root} has no {split} images")
    return *train, *test


def file_of_split(run: Path | str, name: str, split: Split) -> Path:
    """Name a file of a run: metrics.json for test, and metrics-validation.json for validation."""
    return Path(run) / (name if split == "test" else name.replace(".", f"-{split}."))


def pixel_floats(images: Images) -> Tensor:
    """Flatten images to (N, C * S * S) floats from 0 to 1."""
    return images.pixels.flatten(1).float() / 255


def pixel_representations(train: Images, test: Images, bits: int) -> dict[str, Representation]:
    """Represent images by their pixels, and by codes that are made of them without a network."""
    x, y = pixel_floats(train), pixel_floats(test)
    codes = codes_of_pixels(x, y, [bits])[bits]
    return {"pixels": (x, y)} | {name: codes[name] for name in ("pixels-pca-sign", "pixels-itq")}


def feature_representations(train: Features, test: Features, bits: int) -> dict[str, Representation]:
    """Represent images by h, a code that ITQ makes of h, and the latent's z and bits where it has them."""
    found = {"h": (train.h, test.h), "h-itq": itq(train.h, test.h, bits)}
    optional = {"z": (train.z, test.z), "bits": (train.bits, test.bits)}
    return found | {name: (x, y) for name, (x, y) in optional.items() if x is not None and y is not None}


def score(
    found: dict[str, Representation], labels: Tensor, truth: Tensor, say: Callable[[str], object]
) -> dict[str, float]:
    """Compute `linear.NAME`, `knn.NAME`, `map.NAME` and the rest of `retrieval`, in per cent, for each name.

    The labels (N,) are those of the training images; `say` is told what is being scored.
    """
    metrics: dict[str, float] = {}
    for name, (x, y) in found.items():
        say(f"scoring {NAMES.get(name, name)}")
        of_one = {
            "linear": probes.linear_top1(x, labels, y, truth),
            "knn": probes.knn_top1(x, labels, y, truth),
        }
        of_one |= retrieval(x, labels, y, truth)
        metrics |= {f"{measure}.{name}": round(value, 2) for measure, value in of_one.items()}
    return metrics


def table(metrics: dict[str, float]) -> pd.DataFrame:
    """Arrange metrics: a row for each representation, a column for each measure that there is."""
    there = {name: title for name, title in NAMES.items() if f"knn.{name}" in metrics}
    columns = {head: [metrics.get(f"{m}.{name}") for name in there] for m, head in MEASURES.items()}
    return pd.DataFrame({"representation": [*there.values()]} | columns).dropna(axis=1, how="all")


def show(metrics: dict[str, float], title: str) -> None:
    """Print metrics in the terminal, with a word on what they mean."""
    title = f"\nClassification and retrieval in per cent: {title}"
    report.show(table(metrics), title)
    notes = (
        "kNN: the majority of 10 neighbours, by cosine or Hamming distance. mAP, P@k: images of the "
        f"same class among training images, for at most {MOST_QUERIES:,} queries; expected over ties.\n"
    )
    if "bits" in metrics:
        counts = (
            "{bits} bits an image, {compression:.0f} times smaller than the raw image; {active:.0f} % of "
        )
        notes += (counts + "them are ones, {dead} never change.\n").format(**metrics)
    Console().print(notes, highlight=False, end="")
