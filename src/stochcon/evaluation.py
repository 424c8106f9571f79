"""A finished run, evaluated beside the codes that one would have without it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import Tensor

from stochcon import data, probes, rundir
from stochcon.features import Features, extract, load_model
from stochcon.images import Images, Split, raw_bits

BITS_WITHOUT_LATENT = 64


def evaluate(directory: Path | str, split: Split = "test") -> dict[str, float]:
    """Linear and kNN top-1 of a run's features and of the baselines, on `split`; written to metrics.json.

    Choose on split="validation" (written to metrics-validation.json), and read the test images once, at
    the end. Keys with no meaning for the run's latent are absent. Raises ValueError without labels.
    """
    directory = Path(directory)
    model, config = load_model(directory)
    train, test = data.load(config.data, "train"), data.load(config.data, split)
    if train.labels is None or test.labels is None:
        raise ValueError(
            f"{config.data.root} has no class folders, so there is nothing to classify: put images into root/class/"
        )
    if not len(test):
        raise ValueError(f"{config.data.root} has no {split} images")
    a, b = extract(model, train.pixels, config.views), extract(model, test.pixels, config.views)
    bits = config.latent.dim or BITS_WITHOUT_LATENT
    codes = pixel_codes(train, test, bits) | feature_codes(a, b, bits)
    metrics = score(codes, train.labels, test.labels)
    if b.bits is not None:
        metrics |= probes.count_bits(b.bits) | {"compression": raw_bits(test) / b.bits.shape[1]}
    metrics["seed"] = config.seed
    rundir.write_json(directory / (rundir.METRICS if split == "test" else f"metrics-{split}.json"), metrics)
    return metrics


Codes = dict[str, tuple[Tensor, Tensor]]
"""By name: (N, D) of the training images, (M, D) of those to classify."""


def pixel_codes(train: Images, test: Images, bits: int) -> Codes:
    """Raw pixels, and the codes of as many bits that can be had of them without training a network."""
    x, y = train.pixels.flatten(1).float() / 255, test.pixels.flatten(1).float() / 255
    return {
        "pixels": (x, y),
        "pixels-pca-sign": probes.pca_sign(x, y, bits),
        "pixels-itq": probes.itq(x, y, bits),
    }


def feature_codes(a: Features, b: Features, bits: int) -> Codes:
    """h, as many bits of it from ITQ, and the latent's z and bits where it has them."""
    codes: Codes = {"h": (a.h, b.h), "h-itq": probes.itq(a.h, b.h, bits)}
    if a.z is not None and b.z is not None:
        codes["z"] = a.z, b.z
    if a.bits is not None and b.bits is not None:
        codes["bits"] = a.bits, b.bits
    return codes


def score(codes: Codes, train_labels: Tensor, test_labels: Tensor) -> dict[str, float]:
    """`linear.NAME` and `knn.NAME` of every code, in per cent."""
    metrics: dict[str, float] = {}
    for name, (x, y) in codes.items():
        metrics[f"linear.{name}"] = round(probes.linear_top1(x, train_labels, y, test_labels), 2)
        metrics[f"knn.{name}"] = round(probes.knn_top1(x, train_labels, y, test_labels), 2)
    return metrics


NAMES = {
    "pixels": "raw pixels",
    "pixels-pca-sign": "pixels, PCA signs",
    "pixels-itq": "pixels, ITQ",
    "simclr-h": "SimCLR's h",
    "simclr-h-itq": "SimCLR's h, ITQ",
    "h": "h, the backbone's output",
    "h-itq": "h, ITQ",
    "z": "z, the latent's mean",
    "bits": "bits",
}


def show(metrics: dict[str, float], title: str, console: Console | None = None) -> None:
    """Print the metrics as a table."""
    table = Table()
    table.add_column("representation")
    table.add_column("linear", justify="right")
    table.add_column("kNN", justify="right")
    for key, name in NAMES.items():
        if f"knn.{key}" in metrics:
            style = "bold" if key == "bits" else None
            table.add_row(
                name, f"{metrics[f'linear.{key}']:.1f}", f"{metrics[f'knn.{key}']:.1f}", style=style
            )
    console = console or Console()
    console.print(f"\nTop-1 accuracy in per cent: {title}", highlight=False)
    console.print(table)
    console.print("kNN: majority of 10 neighbours by cosine, for codes by Hamming distance.", highlight=False)
    if "bits" in metrics:
        console.print(
            f"{metrics['bits']} bits an image, {metrics['compression']:.0f} times smaller than the raw image; "
            f"{metrics['active']:.0f} % of them are ones, {metrics['dead']} never change.",
            highlight=False,
        )
