"""A picture of queries and of the images nearest to them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stochcon.codes.search import Neighbours
from stochcon.config import Data
from stochcon.data.images import Unreadable, open_image
from stochcon.data.sets import list_images

SHOWN_QUERIES, SHOWN_RESULTS, IN_A_ROW = 12, 50, 10
SIDE = 128
"""Pixels that a large image is drawn with, at least."""


def draw(results: Sequence[Neighbours], images: str) -> Figure:
    """Draw the first results: each query in a frame, then its neighbours in one row or more.

    `images` is what was encoded: a folder, an archive, or the name of a data set. Raises ValueError if it
    does not have the images that the ids name.
    """
    results = results[:SHOWN_QUERIES]
    sources = {source.id: source for source in list_images(images, Data(size=SIDE), None)}

    def show(axis: Axes, name: str, above: str, by_id: bool = True) -> None:
        if by_id and name not in sources:
            raise ValueError(f"{images} has no {name}; it must be what was encoded")
        try:
            image = sources[name].open() if by_id else open_image(Path(name).read_bytes, SIDE)
        except Unreadable as reason:
            raise ValueError(f"{name} cannot be read: {reason}") from None
        smooth = "antialiased" if max(image.size) >= SIDE else "nearest"
        axis.imshow(np.asarray(image), cmap="gray", vmin=0, vmax=255, interpolation=smooth)
        axis.set(xticks=[], yticks=[])
        axis.set_title(above, fontsize=8, pad=4)
        short = name if len(name) <= 20 else f"…{name[-19:]}"  # the end of a path is the name of the file
        axis.text(0.5, -0.05, short, transform=axis.transAxes, ha="center", va="top", fontsize=6.5)

    columns = 1 + min(IN_A_ROW, max(len(found.ids) for found in results))
    rows = [(found, i) for found in results for i in range(0, len(found.ids[:SHOWN_RESULTS]) or 1, IN_A_ROW)]
    height = 1.5 * len(rows) + 0.55  # inches, as are the margins
    figure = Figure(figsize=(1.25 * columns + 0.3, height))
    figure.subplots_adjust(0.02, 0.3 / height, 0.98, 1 - 0.3 / height, wspace=0.12, hspace=0.45)
    for row, (found, start) in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
        for axis in row[1 if start == 0 else 0 :]:
            axis.set_axis_off()
        if start == 0:
            show(row[0], found.query, "query", found.by_id)
            row[0].spines[:].set(visible=True, linewidth=2, color="tab:red")
        for axis, name, distance in zip(row[1:], found.ids[start:], found.distances[start:], strict=False):
            show(axis, name, f"{round(distance, 1)} bit{'' if distance == 1 else 's'}")
    return figure


def left_out(results: Sequence[Neighbours]) -> str:
    """Say how much `draw` shows, if that is not everything."""
    more = len(results) > SHOWN_QUERIES or max(len(found.ids) for found in results) > SHOWN_RESULTS
    return f"; it shows at most {SHOWN_QUERIES} queries and {SHOWN_RESULTS} results of each" if more else ""
