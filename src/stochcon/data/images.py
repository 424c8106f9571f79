"""Images that are not open yet, and images as one tensor of uint8 canvases."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from stochcon.data.decode import Unreadable, canvas

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
CHUNK = 64  # images that one task reads: a task for each would cost more than decoding a small one


@dataclass(frozen=True)
class Source:
    """An image that is not open yet; `open` gives it in 8-bit grey or RGB, or raises as `open_image` does."""

    id: str
    label: int | None
    open: Callable[[], Image.Image]


class Sources(Sequence[Source]):
    """A long list of images that are not open yet: `make` gives each, by its place, when it is asked for."""

    def __init__(self, make: Callable[[int], Source], places: NDArray[np.int64]):
        self.make, self.places = make, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: Any) -> Any:
        chosen = self.places[i]
        return Sources(self.make, chosen) if isinstance(i, slice) else self.make(int(chosen))


def chained(first: Sequence[Source], second: Sequence[Source]) -> Sources:
    """Join two lists of images."""
    n = len(first)
    return Sources(lambda i: first[i] if i < n else second[i - n], np.arange(n + len(second)))


@dataclass(frozen=True, eq=False)
class Images:
    """One split of a data set: N square canvases that views are cut from."""

    pixels: Tensor  # uint8 (N, C, S, S), contiguous, on the CPU
    labels: Tensor | None  # int64 (N,), an index into `classes`; None where nothing is labelled
    classes: tuple[str, ...]
    ids: tuple[
        str, ...
    ]  # a stable name: `cat/x/y/side` for a patch, `train/17`, or the path below the folder
    skipped: tuple[tuple[str, str], ...] = ()  # the id of each image that cannot be read, and the reason

    def __len__(self) -> int:
        return len(self.ids)


def read(sources: Sequence[Source], classes: tuple[str, ...], size: int, channels: int) -> Images:
    """Bring all images to canvases, in threads and in their order; what cannot be read is in `skipped`."""
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
        found = pool.map(fill, range(0, len(sources), CHUNK))
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


def stratified_subset(labels: Sequence[int] | NDArray[np.integer], count: int) -> list[int]:
    """Draw `count` images (all if there are fewer) evenly over the classes; give their indices, ascending.

    The draw is always the same. That of a smaller count is part of that of a larger.

    >>> stratified_subset([0, 0, 0, 0, 1, 1], 4)
    [2, 3, 4, 5]
    """
    classes = np.asarray(labels)
    order = np.random.default_rng(0).permutation(len(classes))
    rank = np.empty(len(classes), dtype=np.int64)
    for c in np.unique(classes):
        members = order[classes[order] == c]
        rank[members] = np.arange(len(members))
    return sorted(np.lexsort((classes, rank))[:count].tolist())


def raw_bits(images: Images) -> int:
    """Count the bits of one uncompressed canvas, with which the length of a code is compared."""
    return 8 * images.pixels.shape[1:].numel()
