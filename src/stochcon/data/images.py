"""Images of any size, opened and brought to one tensor of uint8 canvases."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True, eq=False)
class Images:
    """One split of a data set: N square canvases that views are cut from."""

    pixels: Tensor
    """uint8 (N, C, S, S), contiguous, on the CPU."""
    labels: Tensor | None
    """int64 (N,), an index into `classes`; none where nothing is labelled."""
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    """A stable name for each image: `cat/x/y/side` for a patch, `train/17`, or the path below the folder."""
    skipped: tuple[tuple[str, str], ...] = ()
    """Path below the folder of each image that cannot be read, and why."""

    def __len__(self) -> int:
        return len(self.ids)


class Unreadable(ValueError):
    """An image that cannot be read; the text says why in a few words."""


@dataclass(frozen=True)
class Source:
    """An image that is not open yet."""

    id: str
    label: int | None
    open: Callable[[], Image.Image]
    """Gives an image in one of Pillow's 8-bit modes, or raises Unreadable."""


def canvas(image: Image.Image, size: int, channels: int) -> NDArray[np.uint8]:
    """The largest centred square of an image as (C, S, S): grey with one channel, colour with three.

    Pillow filters over all pixels that fall into one (antialiasing). Grey is ITU-R 601 luma.

    >>> canvas(Image.new("RGB", (30, 20), "white"), size=8, channels=1).shape
    (1, 8, 8)
    """
    image = image.convert("RGB" if channels == 3 else "L")
    pixels = np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR))
    return pixels.reshape(size, size, channels).transpose(2, 0, 1)


def read(sources: Sequence[Source], classes: tuple[str, ...], size: int, channels: int) -> Images:
    """Opens every source, in threads, and keeps the order; what cannot be read is listed in `skipped`."""
    pixels = torch.empty(len(sources), channels, size, size, dtype=torch.uint8)
    canvases = pixels.numpy()

    def fill(start: int) -> list[tuple[int, str]]:
        bad = []
        for i in range(start, min(start + chunk, len(sources))):
            try:
                canvases[i] = canvas(sources[i].open(), size, channels)
            except Unreadable as reason:
                bad.append((i, str(reason)))
        return bad

    chunk = 64  # a task for every image would cost more than decoding a small one
    with ThreadPoolExecutor() as pool, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # listed as skipped, not decoded
        bad = dict(pair for pairs in pool.map(fill, range(0, len(sources), chunk)) for pair in pairs)

    good = [i for i in range(len(sources)) if i not in bad]
    labels = [sources[i].label for i in good]
    return Images(
        pixels=pixels[good] if bad else pixels,
        labels=None if None in labels else torch.tensor(labels, dtype=torch.int64),
        classes=classes,
        ids=tuple(sources[i].id for i in good),
        skipped=tuple((sources[i].id, reason) for i, reason in bad.items()),
    )


def evenly(labels: Sequence[int] | NDArray[np.integer], count: int) -> list[int]:
    """Indices, ascending, of `count` images drawn at random and evenly over the classes.

    Always the same ones; those of a smaller count are among those of a larger. All if there are fewer.

    >>> evenly([0, 0, 0, 0, 1, 1], 4)
    [2, 3, 4, 5]
    """
    _, classes = np.unique(labels, return_inverse=True)
    order = np.random.default_rng(0).permutation(len(classes))
    rank = np.empty(len(classes), dtype=np.int64)
    for c in range(classes.max(initial=-1) + 1):
        members = order[classes[order] == c]
        rank[members] = np.arange(len(members))
    return sorted(np.lexsort((classes, rank))[:count].tolist())


def raw_bits(images: Images) -> int:
    """Bits of one uncompressed canvas, 8 a pixel and channel: what a code's length is compared with.

    >>> raw_bits(Images(torch.zeros(1, 3, 224, 224, dtype=torch.uint8), None, (), ("x",))) // 2048
    588
    """
    return 8 * images.pixels.shape[1:].numel()
