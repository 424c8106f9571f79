"""A short demonstration: bits are trained without labels, compared with other codes, and drawn."""

import math
import shutil
from collections.abc import Callable
from functools import partial
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
from stochcon.data.sets import load_data
from stochcon.data.survey import survey
from stochcon.evaluation import evaluate as scoring
from stochcon.evaluation import probes, self_retrieval
from stochcon.evaluation.baselines import codes_of_pixels, itq
from stochcon.evaluation.curve import panel, widths_up_to
from stochcon.evaluation.features import Features, extract
from stochcon.evaluation.learned import learn_widths
from stochcon.recipebook import recipe, suited
from stochcon.train.pretrain import pretrain

BITS, PATCHES = 8, 7  # how many bits are drawn, and how many images turn each on, and off
NEAREST = 6  # images that are drawn beside a query
GAP = 6  # pixels between images of 32
FOLDER_STEPS, FOLDER_IMAGES = 400, 20_000  # of the demo of a folder
PICTURE = "bits.png"


def demo(out: Path | str = Path("runs/demo"), epochs: int = 6, root: Path | str | None = None) -> None:
    """Pretrain bits on photographs, compare them with other codes, and draw what single bits see.

    This takes about three minutes on two cores, and needs no files. On a folder of images it says whether bits of these
    images are worth their training.

    Args:
        out: A folder for the runs, the scores and bits.png; an earlier demo there is replaced.
        epochs: Passes over the photographs, at least 1.
        root: A folder of images, with or without class folders, in place of the photographs.

    Raises:
        ValueError: If `out` holds something else, if `epochs` is too small, or if the folder has too few images.

    Example:
        >>> demo("runs/demo", epochs=2)  # doctest: +SKIP
    """
    if root is not None:
        judge(folder_recipe(Path(root)), Path(out))
    else:
        short = {"rebit.steps": 300, "rebit.views": 4}  # bits of other lengths are learned too
        compare(recipe("photographs", epochs=epochs, **short), Path(out))


def folder_recipe(root: Path) -> Config:
    """Configure a demo of a folder: the recipe, for fewer steps and images."""
    short = recipe("folder", epochs=1, min_steps=FOLDER_STEPS, **{"data.limit": FOLDER_IMAGES, "data.root": root})
    found = survey(short.data)
    config, reasons = suited(short, min(found.splits["train"], FOLDER_IMAGES), found.grey)
    print(*found.lines(), *reasons, sep="\n")
    return config


def judge(config: Config, out: Path) -> None:
    """Pretrain a model on images without labels, and say what its bits find; print, and save, scores and a picture."""
    _clear(out, "bernoulli")
    run = pretrain(config, out / "bernoulli")
    split = self_retrieval.held_out(config.data)
    metrics = self_retrieval.self_retrieval(run, split)
    images = load_data(config.data, split)
    features = extract(runs.load_model(run)[0], images.pixels, config.views)
    picture = report.save(draw(images, features, partial(self_retrieval.bars, metrics=metrics)), out / PICTURE)
    self_retrieval.show(metrics)
    print(f"What single bits see, what is near, and what copies find: {picture}")


def _clear(out: Path, *names: str) -> None:
    if out.exists() and any(out.iterdir()) and not (out / "bernoulli" / runs.CONFIG).exists():
        raise ValueError(f"{out} is not empty and holds no demo: choose another --out")
    for name in names:
        shutil.rmtree(out / name, ignore_errors=True)


def compare(config: Config, out: Path) -> None:
    """Pretrain a model with bits; print a table of scores beside other codes, and save it and a picture."""
    _clear(out, "bernoulli")
    train, labels, test, truth = images = scoring.labelled_images(config.data, "test")
    width = config.latent.dim or scoring.BITS_WITHOUT_LATENT
    print(f"{len(train):,} patches of {len(train.classes)} photographs: {width} bits each, without labels.")
    run = pretrain(config, out / "bernoulli")
    model, _ = runs.load_model(run)
    ours = extract(model, train.pixels, config.views), extract(model, test.pixels, config.views)
    widths = widths_up_to(width)
    with Console().status("learning bits of other lengths") as status:
        learned = learn_widths(run, ours, widths)
        metrics = scoring.score(images, {"": ours}, width, status)
        atomic.write_json(out / runs.METRICS, metrics)
        status.update("drawing")
        knn: dict[int, dict[str, float]] = {}
        for count, of_pixels in codes_of_pixels(train, test, widths).items():
            compared = {"bits": learned[count], "h-itq": itq(ours[0].h, ours[1].h, count)} | of_pixels
            knn[count] = {name: probes.knn_top1(x, labels, y, truth) for name, (x, y) in compared.items()}
        picture = report.save(draw(test, ours[1], partial(_curve, knn=pd.DataFrame(knn).T)), out / PICTURE)
    scoring.show(metrics, f"{len(test):,} test patches after {config.epochs} epochs")
    print(self_retrieval.verdict(self_retrieval.self_retrieval(run, "validation")))
    print(f"What single bits see, what is near, and accuracy against the number of bits: {picture}")


def draw(images: Images, features: Features, scores: Callable[[Axes], None]) -> Figure:
    """Draw what single bits see, the nearest images of some, and the scores."""
    with report.styled():
        figure = Figure(figsize=(17, 4.7))
        left, middle, right = figure.subplots(1, 3, width_ratios=(1.35, 0.75, 1))
        _draw_bits(left, images, features)
        _draw_nearest(middle, images, features)
        scores(right)
    return figure


def _curve(axis: Axes, knn: pd.DataFrame) -> None:
    panel(axis, knn)
    axis.set(xlabel="bits an image", ylabel="test top-1, kNN by Hamming distance (%)", ylim=(0, 100))
    axis.set_title("Accuracy against the number of bits")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3, fontsize="small")


def _draw_nearest(axis: Axes, images: Images, features: Features) -> None:
    assert features.bits is not None
    queries = torch.arange(BITS) * len(images) // BITS
    similarity = next(probes.similarities(features.bits, features.bits[queries]))
    similarity[torch.arange(BITS), queries] = math.inf  # each query before all others
    order = similarity.topk(1 + NEAREST).indices
    blank = torch.full_like(images.pixels[:1], 255)
    rows = [image for near in order for image in (images.pixels[near[:1]], blank, images.pixels[near[1:]])]
    centres = _grid(axis, torch.cat(rows), 2 + NEAREST)
    axis.set_xticks([centres[0], centres[2 + (NEAREST - 1) // 2]], ["query", "nearest by their bits"])
    axis.set_yticks([])
    axis.set_title("Search: the nearest images")


def _draw_bits(axis: Axes, test: Images, features: Features) -> None:
    assert features.z is not None and features.bits is not None
    labels = torch.arange(len(test)) if test.labels is None else test.labels
    chosen = informative(features.bits, BITS)
    patches, blank = [], torch.full_like(test.pixels[:1], 255)
    for bit in chosen:
        order = features.z[:, bit].argsort(descending=True)
        on, off = (test.pixels[distinct(each, labels, PATCHES)] for each in (order, order.flip(0)))
        patches += [on, blank, off]
    centres = _grid(axis, torch.cat(patches), 2 * PATCHES + 1)
    axis.set_yticks(centres[: len(chosen)], [f"bit {bit}" for bit in chosen])
    axis.set_xticks([centres[PATCHES // 2], centres[-1 - PATCHES // 2]], ["on", "off"])
    axis.set_title("What single bits see: the images that are surest on and off")


def _grid(axis: Axes, images: Tensor, columns: int) -> list[float]:
    """Draw images (N, C, S, S) in rows; return the centres of the columns, and of as many rows."""
    gap, size = GAP * images.shape[-1] // 32, images.shape[-1]
    axis.imshow(make_grid(images, columns, gap, pad_value=255).permute(1, 2, 0).numpy(), interpolation="nearest")
    axis.tick_params(length=0, labeltop=True, labelbottom=False)
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    return [gap + size / 2 + i * (size + gap) for i in range(columns)]


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
