"""A short demonstration: a Bernoulli StochCon and SimCLR, its baseline, are trained, compared and drawn."""

import shutil
from pathlib import Path

import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor
from torchvision.utils import make_grid

from stochcon import atomic, report, runs
from stochcon.config import Config
from stochcon.data.images import Images
from stochcon.evaluation import evaluate as scoring
from stochcon.evaluation import probes
from stochcon.evaluation.baselines import codes_of_pixels, itq
from stochcon.evaluation.curve import panel, widths_up_to
from stochcon.evaluation.features import Features, extract
from stochcon.evaluation.learned import learn_widths
from stochcon.recipebook import recipe, simclr
from stochcon.train.pretrain import pretrain

BITS, PATCHES = 8, 7  # how many bits are drawn, and how many patches turn each on, and off


def demo(out: Path | str = Path("runs/demo"), epochs: int = 6) -> None:
    """Pretrain a Bernoulli StochCon and SimCLR on photographs, compare them, and draw what single bits see.

    This takes about five minutes on two cores, and needs no files.

    Args:
        out: A folder for both runs, metrics.json and bits.png; an earlier demo there is replaced.
        epochs: Passes over the images, at least 1.

    Raises:
        ValueError: If `out` holds something else, or `epochs` is too small.

    Example:
        >>> demo("runs/demo", epochs=2)  # doctest: +SKIP
    """
    short = {"rebit.steps": 300, "rebit.views": 4}  # nine times bits are learned again, in a minute
    compare(recipe("photographs", epochs=epochs, **short), Path(out))


def compare(config: Config, out: Path) -> None:
    """Pretrain a model with bits and its baseline; print a table of scores, and save it and a picture."""
    if out.exists() and any(out.iterdir()) and not (out / "bernoulli" / runs.CONFIG).exists():
        raise ValueError(f"{out} is not empty and holds no demo: choose another --out")
    train, labels, test, truth = images = scoring.labelled_images(config.data, "test")
    width = config.latent.dim or scoring.BITS_WITHOUT_LATENT
    print(f"{len(train):,} patches of {len(train.classes)} photographs: {width} bits each, without labels.")
    features: list[tuple[Features, Features]] = []
    for run in (
        config.model_copy(update={"recipe": "bernoulli"}),
        simclr(config).model_copy(update={"recipe": "simclr"}),
    ):
        shutil.rmtree(out / run.recipe, ignore_errors=True)
        model, _ = runs.load_model(pretrain(run, out / run.recipe))
        features.append((extract(model, train.pixels, run.views), extract(model, test.pixels, run.views)))
    ours, theirs = features
    widths = widths_up_to(width)
    with Console().status("learning bits of other lengths, and on SimCLR's h") as status:
        learned = learn_widths(out / "bernoulli", ours, widths)
        head = learn_widths(out / "simclr", theirs, widths)
        metrics = scoring.score(images, {"simclr-": theirs, "": ours}, width, status, {"simclr-head": head[width]})
        atomic.write_json(out / runs.METRICS, metrics)
        status.update("drawing")
        knn: dict[int, dict[str, float]] = {}
        for count, of_pixels in codes_of_pixels(train, test, widths).items():
            compared = {"bits": learned[count], "simclr-head": head[count]}
            compared |= {"simclr-h-itq": itq(theirs[0].h, theirs[1].h, count)} | of_pixels
            knn[count] = {name: probes.knn_top1(x, labels, y, truth) for name, (x, y) in compared.items()}
        picture = report.save(draw(test, ours[1], pd.DataFrame(knn).T), out / "bits.png")
    scoring.show(metrics, f"{len(test):,} test patches after {config.epochs} epochs")
    print(f"What single bits see, and accuracy against the number of bits: {picture}")


def draw(test: Images, features: Features, knn: pd.DataFrame) -> Figure:
    """Draw the patches that single bits see, and kNN top-1 (a column a code) against the number of bits."""
    with report.styled():
        figure = Figure(figsize=(13, 4.9))
        left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
        _draw_bits(left, test, features)
        panel(right, knn)
        right.set(xlabel="bits an image", ylabel="test top-1, kNN by Hamming distance (%)", ylim=(0, 100))
        right.set_title("Accuracy against the number of bits")
        figure.legend(loc="outside lower center", ncols=6)
    return figure


def _draw_bits(axis: Axes, test: Images, features: Features) -> None:
    assert features.z is not None and features.bits is not None and test.labels is not None
    chosen = informative(features.bits, BITS)
    patches, blank = [], torch.full_like(test.pixels[:1], 255)
    for bit in chosen:
        order = features.z[:, bit].argsort(descending=True)
        on, off = (test.pixels[distinct(each, test.labels, PATCHES)] for each in (order, order.flip(0)))
        patches += [on, blank, off]
    gap, size = 6, test.pixels.shape[-1]
    grid = make_grid(torch.cat(patches), 2 * PATCHES + 1, gap, pad_value=255)
    axis.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
    centres = [gap + size / 2 + i * (size + gap) for i in range(2 * PATCHES + 1)]
    axis.set_yticks(centres[: len(chosen)], [f"bit {bit}" for bit in chosen])
    axis.set_xticks([centres[PATCHES // 2], centres[-1 - PATCHES // 2]], ["on", "off"])
    axis.tick_params(length=0, labeltop=True, labelbottom=False)
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    axis.set_title("What single bits see: the most certain patches, at most one a photograph")


def informative(bits: Tensor, count: int) -> list[int]:
    """Choose bits (of (N, D) booleans) that are on for nearly half of the images, each unlike the others."""
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


def distinct(order: Tensor, labels: Tensor, count: int) -> list[int]:
    """Take the first images in an order, at most one of each label."""
    first: dict[int, int] = {}
    for index in order.tolist():
        first.setdefault(int(labels[index]), index)
    return list(first.values())[:count]
