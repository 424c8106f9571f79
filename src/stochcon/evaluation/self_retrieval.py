"""Codes are judged on images without labels: does a copy of an image find the image that it was made of?

It asks for the same picture, not for one of the same kind. Labels say more where there are any (`evaluate`).
"""

import math
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import imagehash
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from PIL import Image
from rich.console import Console
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from stochcon import atomic, report, runs
from stochcon.config import Data, Views
from stochcon.data.images import Split, canvas, read
from stochcon.data.sets import LISTS, listed
from stochcon.evaluation import probes
from stochcon.evaluation.baselines import itq, principal
from stochcon.evaluation.evaluate import BITS_WITHOUT_LATENT, file_of_split
from stochcon.evaluation.features import count_bits, extract
from stochcon.method.model import StochCon
from stochcon.train.monitor import count_faults

FILE = "self-retrieval.json"
MOST_QUERIES, MOST_HELD, MOST_IMAGES = 500, 1000, 5000
PLACES = (1, 10)
COPIES = {"crop": "a crop of half its area", "shade": "other light and colours", "jpeg": "half the size, JPEG 30"}
NAMES = {
    "bits": "these bits",
    "pca-sign": "pixels, PCA signs",
    "itq": "pixels, ITQ",
    "imagehash": "perceptual hash (64 bits)",
    "h": "h, the network's floats",
    "pixels": "pixels themselves",
}
RIVALS = {"pca-sign": "PCA signs of pixels", "itq": "ITQ of pixels", "imagehash": "perceptual hashes"}
MARGIN = 2  # points; less is within the error of MOST_QUERIES queries
ADVICE = "Try more training (--epochs) or larger images (--data.size, --views.global-size)."


def copies(images: Tensor) -> dict[str, Tensor]:
    """Make a copy of every image in each of three ways that no training saw: uint8 (N, C, S, S), the same always."""
    n, _, size, _ = images.shape
    side = max(1, round(size * math.sqrt(0.5)))
    generator = torch.Generator().manual_seed(0)
    corners = torch.randint(size - side + 1, (n, 2), generator=generator).tolist()
    cut = torch.stack([image[:, y : y + side, x : x + side] for image, (y, x) in zip(images, corners, strict=True)])
    gain = torch.empty(n, images.shape[1], 1, 1).uniform_(0.7, 1.3, generator=generator)
    return {
        "crop": resized(cut, size),
        "shade": (images * gain).round().clamp(max=255).byte(),
        "jpeg": torch.stack([_compressed(image, size) for image in resized(images, -(-size // 2))]),
    }


def _compressed(image: Tensor, size: int) -> Tensor:
    file = BytesIO()
    to_pil_image(image).save(file, "JPEG", quality=30)
    with Image.open(file) as again:
        return torch.tensor(canvas(again, size, len(image)))


def resized(images: Tensor, size: int) -> Tensor:
    """Bring uint8 images (N, C, H, W) to (N, C, size, size)."""
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)


def success_at(k: int, nearer: Tensor, tied: Tensor, right: Tensor) -> Tensor:
    """Compute how likely one of k answers is right, over all orders of equally near images.

    Args:
        k: The number of answers.
        nearer: How many answers, all wrong, are nearer than the nearest right one, (M,).
        tied: How many are exactly as near as it, with itself, (M,).
        right: How many of those are right, (M,).

    >>> success_at(1, torch.tensor([0, 0, 1]), torch.tensor([1, 4, 1]), torch.tensor([1, 2, 1]))
    tensor([1.0000, 0.5000, 0.0000], dtype=torch.float64)
    """
    places = (k - nearer).clamp_min(0).minimum(tied)
    tied, wrong, places = tied.double(), (tied - right).double(), places.double()

    def orders(n: Tensor) -> Tensor:  # of so many answers at the places
        return torch.lgamma(n + 1) - torch.lgamma((n - places).clamp_min(0) + 1)

    return 1 - torch.where(wrong >= places, (orders(wrong) - orders(tied)).exp(), 0.0)


def found(database: Tensor, queries: Tensor, answer: Tensor) -> list[float]:
    """Score how often image `answer` (M,) of a database (N, D) is nearest to its query (M, D), in per cent.

    Returns one share for each of PLACES. Images that are equally near, or the same, count by expectation.
    """
    parts = []
    for similarity, right in zip(probes.similarities(database, queries), answer.split(probes.CHUNK), strict=True):
        best = similarity.gather(1, right[:, None])
        nearer, tied = (similarity > best).sum(1), (similarity == best).sum(1)
        parts.append(torch.stack([success_at(k, nearer, tied, torch.ones_like(tied)) for k in PLACES]))
    return [100 * float(share) for share in torch.cat(parts, 1).mean(1)]


def self_retrieval(run: Path | str, split: Split = "test", progress: bool = True) -> dict[str, float]:
    """Score how often copies of images find their original among all images; no labels are needed.

    Args:
        run: The directory of a finished run, into which self-retrieval.json is written.
        split: The images whose copies search. Those of training are searched too.
        progress: Whether to say in the terminal what is being done.

    Returns:
        `top1.COPY.NAME` and `top10.COPY.NAME`, in per cent, of each of COPIES for each of NAMES that there is;
        `top1.NAME` and `top10.NAME`, their means over the copies; `images` and `queries`; and of a latent with bits
        `bits`, `active`, `dead` and `doubled`, and how many images share their code with another, `shared`.

    Raises:
        ValueError: If the run is not finished, or if there are too few images.

    Example:
        >>> import tempfile, stochcon
        >>> tiny = stochcon.recipe("digits", epochs=1, rebit={"steps": 3})
        >>> run = stochcon.pretrain(tiny, tempfile.mkdtemp() + "/run", progress=False)
        >>> 0 < self_retrieval(run, "validation", progress=False)["top1.bits"] <= 100
        True
    """
    model, config = runs.load_model(run)
    with Console(quiet=not progress).status("reading the images") as status:
        held = images = _some(config.data, split, MOST_HELD)
        if split != "train":  # images that are held out are never those of training here
            parted = config.data.model_copy(update={"holdout": True})
            images = torch.cat([held, _some(parted, "train", MOST_IMAGES - len(held))])
        asked = torch.arange(0, len(held), -(-len(held) // MOST_QUERIES))
        width = config.latent.dim or BITS_WITHOUT_LATENT
        status.update("computing codes")
        made = {"images": images} | copies(held[asked])
        metrics: dict[str, float] = {"images": len(images), "queries": len(asked)}
        totals: dict[str, list[list[float]]] = {}
        for name, codes in _codes(model, config.views, made, width):
            status.update(f"searching by {NAMES[name]}")
            for copy in COPIES:
                scores = found(codes["images"], codes[copy], asked)
                totals.setdefault(name, []).append(scores)
                metrics |= {f"top{k}.{copy}.{name}": round(s, 2) for k, s in zip(PLACES, scores, strict=True)}
            if name == "bits":
                bits = codes["images"]
                counts = bits.unique(dim=0, return_counts=True)[1]
                metrics |= count_bits(bits) | count_faults(bits) | {"shared": int(counts[counts > 1].sum())}
    for name, scores_of in totals.items():
        means = torch.tensor(scores_of).mean(0)
        metrics |= {f"top{k}.{name}": round(float(m), 2) for k, m in zip(PLACES, means, strict=True)}
    atomic.write_json(file_of_split(run, FILE, split), metrics)
    return metrics


def _some(config: Data, split: Split, most: int) -> Tensor:
    """Read at most so many images of a split, spread over their order: uint8 (N, C, S, S)."""
    sources = listed(config, split)[1]
    chosen = sources[:: -(-len(sources) // max(1, most))]
    return read(chosen, (), config.size, config.channels).pixels


def held_out(config: Data) -> Split:
    """Name the split whose images can judge a run: that of validation, or of training if there is none."""
    return "validation" if len(LISTS[config.name](config, "validation")[1]) else "train"


def _codes(
    model: StochCon, views: Views, images: dict[str, Tensor], width: int
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield each of NAMES that there is, and its codes of several sets of images, uint8 (N, C, S, S) each."""
    features = {name: extract(model, some, views) for name, some in images.items()}
    bits = {name: f.bits for name, f in features.items() if f.bits is not None}
    if bits:
        yield "bits", bits
    yield "h", {name: f.h for name, f in features.items()}
    pixels = {name: some.flatten(1).float() / 255 for name, some in images.items()}
    yield "pixels", pixels
    joined, sizes = torch.cat([*pixels.values()]), [len(some) for some in pixels.values()]
    projected = principal(pixels["images"], joined, width)
    yield "pca-sign", dict(zip(pixels, (projected[1] > 0).split(sizes), strict=True))
    yield "itq", dict(zip(pixels, itq(*projected, width)[1].split(sizes), strict=True))
    yield "imagehash", {name: torch.stack([*map(_hash, some)]) for name, some in images.items()}


def _hash(image: Tensor) -> Tensor:
    return torch.from_numpy(imagehash.phash(to_pil_image(image)).hash.flatten())


def verdict(metrics: dict[str, float]) -> str:
    """Say in a sentence or two whether the bits are worth their training.

    Example:
        >>> verdict({"bits": 64, "queries": 500, "top1.bits": 81.2, "top1.pca-sign": 64.1, "top1.imagehash": 70.0})
        'Your 64 bits find the right picture 81 % of the time, perceptual hashes 70 %: use the bits.'
    """
    rivals = {n: metrics[f"top1.{n}"] for n in ("pca-sign", "itq", "imagehash") if f"top1.{n}" in metrics}
    name = max(rivals, key=lambda n: rivals[n])
    best, title = rivals[name], RIVALS[name]
    ours = metrics.get("top1.bits")
    if ours is None:
        return f"The network has no bits; its floats find the right picture {metrics['top1.h']:.0f} % of the time."
    said = f"Your {metrics['bits']:.0f} bits find the right picture {ours:.0f} % of the time, {title} {best:.0f} %"
    if ours - best > MARGIN:
        return f"{said}: use the bits."
    if best - ours > MARGIN:
        return f"{said}: to find the same picture, {title} are better here. {ADVICE}"
    return f"{said}: for copies both are as good. {ADVICE}"


def table(metrics: dict[str, float]) -> pd.DataFrame:
    """Arrange metrics: a row for each code, a column for each copy, and the means over the copies."""
    there = {name: title for name, title in NAMES.items() if f"top1.{name}" in metrics}
    columns = {f"{copy}, top-1": [metrics[f"top1.{copy}.{name}"] for name in there] for copy in COPIES}
    columns |= {f"mean, top-{k}": [metrics[f"top{k}.{name}"] for name in there] for k in PLACES}
    return pd.DataFrame({"code": [*there.values()]} | columns)


def show(metrics: dict[str, float]) -> None:
    """Print the table, what its columns are, and the verdict."""
    report.show(table(metrics), "\nHow often a copy of an image finds it again, in per cent")
    ways = "; ".join(f"{copy}: {way}" for copy, way in COPIES.items())
    print(f"{metrics['queries']:,} images search among {metrics['images']:,}. {ways}.")
    if "bits" in metrics:
        faults = "Of {bits} bits {dead} never change, and {doubled} repeat another one. "
        print((faults + "{shared:,} images share their code with another.").format(**metrics))
    print(verdict(metrics))


def bars(axis: Axes, metrics: dict[str, float]) -> None:
    """Draw the mean top-1 of each code."""
    there = [name for name in NAMES if f"top1.{name}" in metrics][::-1]
    colours = ["C0" if name == "bits" else "0.75" for name in there]
    drawn = axis.barh([NAMES[name] for name in there], [metrics[f"top1.{name}"] for name in there], color=colours)
    axis.bar_label(drawn, fmt="%.0f", padding=3)
    axis.set(xlim=(0, 108), xlabel="copies that find their original first (%)")
    axis.grid(visible=False, axis="y")
    axis.set_title("What changed copies find")
