"""Images that are not open yet, and images as one tensor of uint8 canvases."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from stochcon.data.decode import Unreadable, canvas

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
CHUNK = 64
"""Images that one task reads: a task for each would cost more than decoding a small image."""


@dataclass(frozen=True)
class Source:
    """An image that is not open yet."""

    id: str
    label: int | None
    open: Callable[[], Image.Image]
    """Gives an 8-bit grey or RGB image. Raises what `decode.open_image` raises."""


class Sources(Sequence[Source]):
    """A long list of images that are not open yet. Each is made when it is asked for.

    Args:
        make: Gives the image that has a place.
        places: The places of the images in this list, int64.
    """

    def __init__(self, make: Callable[[int], Source], places: NDArray[np.int64]):
        self.make, self.places = make, places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, i: int) -> Source: ...
    @overload
    def __getitem__(self, i: slice) -> Sources: ...
    def __getitem__(self, i: int | slice) -> Source | Sources:
        chosen = self.places[i]
        return Sources(self.make, chosen) if isinstance(chosen, np.ndarray) else self.make(int(chosen))


def chained(first: Sequence[Source], second: Sequence[Source]) -> Sources:
    """Join two lists of images."""
    n = len(first)
    return Sources(lambda i: first[i] if i < n else second[i - n], np.arange(n + len(second)))


@dataclass(frozen=True, eq=False)
class Images:
    """One split of a data set: N square canvases that views are cut from."""

    pixels: Tensor
    """uint8 (N, C, S, S), contiguous, on the CPU."""
    labels: Tensor | None
    """int64 (N,), an index into `classes`; None where nothing is labelled."""
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    """A stable name for each image: `cat/x/y/side` for a patch, `train/17`, or the path below the folder."""
    skipped: tuple[tuple[str, str], ...] = ()
    """The id of each image that cannot be read, and the reason."""

    def __len__(self) -> int:
        return len(self.ids)


def read(sources: Sequence[Source], classes: tuple[str, ...], size: int, channels: int) -> Images:
    """Open all images, in threads, and bring them to canvases.

    Args:
        sources: The images; their order is kept.
        classes: The names of the classes, () without labels.
        size: The side S of a canvas in pixels.
        channels: 1 for grey, 3 for colour.

    Returns:
        The images that can be read; `skipped` lists the others.

    Raises:
        OSError: If the disk refuses for a reason that may pass.
    """
    pixels = torch.empty(len(sources), channels, size, size, dtype=torch.uint8)
    canvases = pixels.numpy()

    def fill(start: int) -> dict[int, str]:
        bad = {}
        for i in range(start, min(start + CHUNK, len(sources))):
            try:
                canvases[i] = canvas(sources[i].open(), size, channels)
            except Unreadable as reason:
                bad[i] = str(reason)
        return bad

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(fill, range(0, len(sources), CHUNK)))
    bad = {i: reason for part in found for i, reason in part.items()}
    good = [i for i in range(len(sources)) if i not in bad]
    labels = [sources[i].label for i in good]
    return Images(
        pixels=pixels[good] if bad else pixels,
        labels=None if None in labels else torch.tensor(labels, dtype=torch.int64),
        classes=classes,
        ids=tuple(sources[i].id for i in good),
        skipped=tuple((sources[i].id, reason) for i, reason in bad.items()),
    )


def refuse_too_many(skipped: Collection[tuple[str, str]], total: int, max_bad: float, what: str) -> None:
    """Refuse a data set of which too many images cannot be read.

    Args:
        skipped: The id and the reason of each image that cannot be read.
        total: The number of images tried, those that can be read included.
        max_bad: The share that may be unreadable, `data.max_bad`.
        what: Which images these are, for the message: "images of my-folder".

    Raises:
        ValueError: If there are more.
    """
    if len(skipped) > max_bad * total:
        name, reason = min(skipped)
        raise ValueError(
            f"{len(skipped)} of {total} {what} cannot be read, more than data.max_bad = {max_bad:g} allows; "
            f"the first is {name}: {reason}"
        )


def stratified_subset(labels: Sequence[int] | NDArray[np.integer], count: int) -> list[int]:
    """Draw `count` images at random and evenly over the classes; all of them if there are fewer.

    Always draws the same images. A smaller draw is part of a larger one.

    Args:
        labels: The class of each image, (N,).
        count: How many images to draw.

    Returns:
        The indices of the images, ascending.

    Example:
        >>> stratified_subset([0, 0, 0, 0, 1, 1], 4)
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
    """Count the bits of one uncompressed canvas, 8 a pixel and channel, to compare a code's length with.

    >>> raw_bits(Images(torch.zeros(1, 3, 224, 224, dtype=torch.uint8), None, (), ("x",))) // 2048
    588
    """
    return 8 * images.pixels.shape[1:].numel()
