"""A picture of queries and of the images nearest to them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from stochcon import atomic
from stochcon.codes.search import Nearest, number
from stochcon.config import Data
from stochcon.data.decode import Unreadable, open_image
from stochcon.data.sets import list_images

SHOWN_QUERIES, SHOWN_RESULTS = 12, 10
SIDE = 128
"""Pixels that a large image is drawn with, at least."""
LETTERS = 20
"""Of a name that is written below an image."""


def save(results: Sequence[Nearest], images: str, path: Path) -> Path:
    """Draw as a PNG file: a row a query, first the query in a frame, then what is nearest to it.

    Of many, the first. `images` is what was encoded: a folder, an archive, or the name of a data set. Raises ValueError
    if it has not the images that the ids name.
    """
    shown = [Nearest(r.query, r.ids[:SHOWN_RESULTS], r.distances, r.by_id) for r in results[:SHOWN_QUERIES]]
    opened = _open(images, {id for r in shown for id in (r.ids + [r.query] * r.by_id)})
    opened |= {r.query: open_image(Path(r.query).read_bytes, SIDE) for r in shown if not r.by_id}
    buffer = io.BytesIO()
    draw(shown, opened).savefig(buffer, dpi=120)
    atomic.write(path, buffer.getvalue())
    return path


def _open(images: str, ids: Iterable[str]) -> dict[str, Image.Image]:
    sources = {source.id: source for source in list_images(images, Data(size=SIDE), None)}
    opened = {}
    for name in ids:
        if name not in sources:
            raise ValueError(f"--images {images} has no {name}; it must be what was encoded")
        try:
            opened[name] = sources[name].open()
        except Unreadable as reason:
            raise ValueError(f"{name} of {images} cannot be read: {reason}") from None
    return opened


def draw(results: Sequence[Nearest], images: dict[str, Image.Image]) -> Figure:
    """The figure that `save` saves; `images` by id."""
    columns = 1 + max(len(nearest.ids) for nearest in results)
    width, height = 1.25 * columns + 0.3, 1.5 * len(results) + 0.55  # inches
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(len(results), columns, squeeze=False)
    margins = {"left": 0.15, "bottom": 0.3, "right": width - 0.15, "top": height - 0.3}
    inches = {"left": width, "bottom": height, "right": width, "top": height}
    figure.subplots_adjust(
        **{side: at / inches[side] for side, at in margins.items()}, wspace=0.12, hspace=0.45
    )
    for row, nearest in zip(grid, results, strict=True):
        for axis in row:
            axis.axis("off")
        _show(row[0], images[nearest.query], "query", nearest.query, frame=True)
        for axis, name, distance in zip(row[1:], nearest.ids, nearest.distances, strict=False):
            bits = f"{number(distance)} bit{'' if distance == 1 else 's'}"
            _show(axis, images[name], bits, name)
    return figure


def _show(axis: Axes, image: Image.Image, above: str, below: str, frame: bool = False) -> None:
    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    long = max(height, width)  # of any shape, each in a square of its own
    axis.imshow(
        pixels,
        cmap="gray",
        vmin=0,
        vmax=255,
        interpolation="nearest" if long < SIDE else "antialiased",
    )
    axis.set(
        xlim=((width - long) / 2 - 0.5, (width + long) / 2 - 0.5),
        ylim=((height + long) / 2 - 0.5, (height - long) / 2 - 0.5),
    )
    if frame:  # at a distance, as images may be as dark as it
        gap = 0.035 * long
        corner, size = (-0.5 - gap, -0.5 - gap), (width + 2 * gap, height + 2 * gap)
        axis.add_patch(Rectangle(corner, *size, fill=False, linewidth=1.5, clip_on=False))
    axis.set_title(above, fontsize=8, pad=6, fontweight="bold" if frame else "normal")
    axis.text(0.5, -0.08, _short(below), transform=axis.transAxes, ha="center", va="top", fontsize=6.5)


def _short(name: str) -> str:
    """The beginning and the end of a long name.

    >>> _short("train/abbey/sun_aaalbzqrimafwbiv.jpg")
    'train/abbe…fwbiv.jpg'
    """
    half = LETTERS // 2
    return name if len(name) <= LETTERS else f"{name[:half]}…{name[1 - half :]}"
