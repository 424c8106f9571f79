"""The main job, shortened: a Bernoulli StochCon and its SimCLR twin on photographs, compared and drawn."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure, SubFigure
from rich.console import Console
from torch import Tensor

from stochcon import atomic, runs
from stochcon.config import Config
from stochcon.data import sets as data
from stochcon.data.images import Images, raw_bits
from stochcon.evaluation import probes
from stochcon.evaluation.baselines import codes_of_pixels
from stochcon.evaluation.curve import codes_of_h, lowest_entropy_bits, panel, widths_up_to
from stochcon.evaluation.evaluate import (
    BITS_WITHOUT_LATENT,
    feature_representations,
    pixel_floats,
    pixel_representations,
    score,
    show,
)
from stochcon.evaluation.features import Features, count_bits, extract
from stochcon.recipebook import recipe
from stochcon.report import save, styled
from stochcon.runs import load_model
from stochcon.train.pretrain import pretrain

EPOCHS = 6
SHOWN_BITS, SHOWN_PATCHES = 8, 7


def twin(config: Config) -> Config:
    """SimCLR with the same backbone, views and budget: the deterministic latent."""
    return config.model_copy(update={"latent": config.latent.model_copy(update={"kind": "deterministic"})})


def demo(out: Path, config: Config | None = None) -> None:
    """Train both, print one table, and save `bits.png` and metrics.json in `out`, replacing an earlier demo there.

    config: of the Bernoulli model; by default the recipe `photographs`, shortened. Raises ValueError when
    `out` holds something else.
    """
    if out.exists() and any(out.iterdir()) and not (out / "bernoulli" / runs.CONFIG).exists():
        raise ValueError(f"{out} is not empty and holds no demo: choose another --out")
    console = Console()
    config = config or shortened()
    bits = config.latent.dim or BITS_WITHOUT_LATENT
    train, test = data.load(config.data, "train"), data.load(config.data, "test")
    console.print(
        f"{len(train):,} patches of {len(train.classes)} photographs; {bits} bits each, learned without labels."
    )
    features: dict[str, tuple[Features, Features]] = {}
    for name, run in {"bernoulli": config, "simclr": twin(config)}.items():
        shutil.rmtree(out / name, ignore_errors=True)
        pretrain(run.model_copy(update={"recipe": name}), out / name)
        model, _ = load_model(out / name)
        features[name] = extract(model, train.pixels, config.views), extract(model, test.pixels, config.views)
    assert train.labels is not None and test.labels is not None
    with console.status("comparing with the baselines") as status:
        theirs = feature_representations(*features["simclr"], bits)
        codes = pixel_representations(train, test, bits) | {f"simclr-{name}": x for name, x in theirs.items()}
        codes |= feature_representations(*features["bernoulli"], bits)
        metrics = score(codes, train.labels, test.labels, status.update)
        bits_of_test = features["bernoulli"][1].bits
        assert bits_of_test is not None
        metrics |= count_bits(bits_of_test) | {"compression": raw_bits(test) / bits}
        atomic.write_json(out / runs.METRICS, metrics)
        picture = out / "bits.png"
        with styled():
            figure = draw(train, test, features["bernoulli"], features["simclr"])
        save(figure, picture)
    show(metrics, f"{len(test):,} test patches after {config.epochs} epochs")
    console.print(f"What single bits see, and accuracy against the number of bits: {picture}")


def shortened(epochs: int = EPOCHS) -> Config:
    """The recipe `photographs`, made short."""
    return recipe("photographs").model_copy(update={"epochs": epochs})


Pair = tuple[Features, Features]
"""Of the training and of the test images."""


def draw(train: Images, test: Images, ours: Pair, simclr: Pair) -> Figure:
    """Left: test patches that turn single bits on and off. Right: accuracy of Hamming kNN against the number of bits."""
    figure = Figure(figsize=(13, 5.6))
    left, right = figure.subfigures(1, 2, width_ratios=(1.25, 1), squeeze=False)[0]
    _draw_bits(left, test, ours[1])
    _draw_curve(right, train, test, ours, simclr)
    return figure


def _draw_bits(figure: SubFigure, test: Images, features: Features) -> None:
    assert features.z is not None and features.bits is not None
    figure.suptitle("What single bits see: the surest patches, at most one a photograph")
    axes = figure.subplots(SHOWN_BITS, 2 * SHOWN_PATCHES + 1, squeeze=False)
    for row, bit in zip(axes, informative(features.bits, SHOWN_BITS), strict=True):
        for axis in row:
            axis.axis("off")
        order = features.z[:, bit].argsort()
        on, off = (
            distinct(order.flip(0), test.labels, SHOWN_PATCHES),
            distinct(order, test.labels, SHOWN_PATCHES),
        )
        for axis, index in zip(row, [*on, None, *off], strict=True):
            if index is not None:
                pixels = test.pixels[index].permute(1, 2, 0).squeeze(-1).numpy()
                axis.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        row[0].text(-0.25, 0.5, f"bit {bit}", transform=row[0].transAxes, ha="right", va="center", fontsize=9)
    axes[0, SHOWN_PATCHES // 2].set_title("on", fontsize=11)
    axes[0, SHOWN_PATCHES + 1 + SHOWN_PATCHES // 2].set_title("off", fontsize=11)


def informative(bits: Tensor, count: int) -> list[int]:
    """The bits nearest to half on, each unlike those already chosen: (N, D) booleans to `count` indices."""
    sign = bits.float() - bits.float().mean(0)
    sign = sign / sign.norm(dim=0).clamp_min(1e-6)
    balance = (bits.float().mean(0) - 0.5).abs()
    alike = (sign.T @ sign).abs()
    chosen = [int(balance.argmin())]
    while len(chosen) < min(count, bits.shape[1]):
        score = alike[:, chosen].amax(1) + balance
        score[chosen] = torch.inf
        chosen.append(int(score.argmin()))
    return chosen


def distinct(order: Tensor, labels: Tensor | None, count: int) -> list[int]:
    """The first images in an order, at most one of each label where there are labels enough."""
    chosen: list[int] = []
    seen: set[int] = set()
    for index in order.tolist():
        label = -1 - index if labels is None else int(labels[index])
        if label not in seen:
            seen.add(label)
            chosen.append(index)
        if len(chosen) == count:
            break
    return chosen


def _draw_curve(figure: SubFigure, train: Images, test: Images, ours: Pair, simclr: Pair) -> None:
    assert ours[0].bits is not None and train.labels is not None and test.labels is not None
    total = ours[0].bits.shape[1]
    widths = widths_up_to(total)
    pixels = codes_of_pixels(pixel_floats(train), pixel_floats(test), widths)
    values: dict[str, list[float]] = {}
    for width in widths:
        codes = {"bits": lowest_entropy_bits(*ours, width)}
        codes |= codes_of_h(*simclr, width, "simclr-") | pixels[width]
        for name, (x, y) in codes.items():
            values.setdefault(name, []).append(probes.knn_top1(x, train.labels, y, test.labels))
    axis = figure.subplots()
    panel(axis, pd.DataFrame(values, index=widths))
    axis.set(
        xlabel="bits an image",
        ylabel="test top-1, kNN by Hamming distance (%)",
        title="Accuracy against the number of bits",
        ylim=(0, 100),
    )
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
