"""A picture of queries and of the images nearest to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from stochcon import report
from stochcon.codes.search import Neighbours
from stochcon.config import Data
from stochcon.data.images import Unreadable, open_image
from stochcon.data.sets import list_images

SHOWN_QUERIES, SHOWN_RESULTS = 12, 10
SIDE = 128
"""Pixels that a large image is drawn with, at least."""


def save(results: Sequence[Neighbours], images: str, path: Path) -> Path:
    """Draw the first results as a PNG file: in each row the query in a frame, then its neighbours.

    `images` is what was encoded: a folder, an archive, or the name of a data set.

    Raises:
        ValueError: If `images` does not have the images that the ids name.
    """
    shown = [
        Neighbours(r.query, r.ids[:SHOWN_RESULTS], r.distances, r.by_id) for r in results[:SHOWN_QUERIES]
    ]
    opened = open_by_id(images, {name for r in shown for name in (r.ids + [r.query] * r.by_id)})
    opened |= {r.query: open_image(Path(r.query).read_bytes, SIDE) for r in shown if not r.by_id}
    return report.save(draw(shown, opened), path)


def open_by_id(images: str, ids: Iterable[str]) -> dict[str, Image.Image]:
    """Open some of the images that were encoded. Raises ValueError if one is missing or cannot be read."""
    sources = {source.id: source for source in list_images(images, Data(size=SIDE), None)}
    opened = {}
    for name in ids:
        if name not in sources:
            raise ValueError(f"{images} has no {name}; it must be what was encoded")
        try:
            opened[name] = sources[name].open()
        except Unreadable as reason:
            raise ValueError(f"{name} of {images} cannot be read: {reason}") from None
    return opened


def draw(results: Sequence[Neighbours], images: dict[str, Image.Image]) -> Figure:
    """Draw the figure that `save` saves; `images` has every query and every neighbour by its id."""
    columns = 1 + max(len(found.ids) for found in results)
    height = 1.5 * len(results) + 0.55  # inches, as are the margins
    figure = Figure(figsize=(1.25 * columns + 0.3, height))
    figure.subplots_adjust(0.02, 0.3 / height, 0.98, 1 - 0.3 / height, wspace=0.12, hspace=0.45)
    for row, found in zip(figure.subplots(len(results), columns, squeeze=False), results, strict=True):
        for axis in row:
            axis.set_axis_off()
        _show(row[0], images[found.query], "query", found.query)
        row[0].set_axis_on()
        row[0].spines[:].set(visible=True, linewidth=2, color="tab:red")
        for axis, name, distance in zip(row[1:], found.ids, found.distances, strict=False):
            bits = f"{round(distance, 1)} bit{'' if distance == 1 else 's'}"
            _show(axis, images[name], bits, name)
    return figure


def _show(axis: Axes, image: Image.Image, above: str, below: str) -> None:
    smooth = "antialiased" if max(image.size) >= SIDE else "nearest"
    axis.imshow(np.asarray(image), cmap="gray", vmin=0, vmax=255, interpolation=smooth)
    axis.set(xticks=[], yticks=[])
    axis.set_title(above, fontsize=8, pad=4)
    short = below if len(below) <= 20 else f"{below[:10]}…{below[-9:]}"
    axis.text(0.5, -0.05, short, transform=axis.transAxes, ha="center", va="top", fontsize=6.5)
