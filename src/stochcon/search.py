"""The images whose codes are nearest to that of one image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from stochcon import codes


def search(path: Path | str, query: str, k: int = 10, run: Path | None = None) -> list[tuple[str, int]]:
    """Ids and Hamming distances of the k nearest, nearest first.

    `query` is an id in the file of codes, which is not among its own results, or an image file; that one
    is encoded by `run`, the run that made the codes. Raises ValueError if it is neither, or without the run.
    """
    if k < 1:
        raise ValueError(f"-k is {k}; it must be at least 1")
    stored = codes.read(path)
    (own,) = np.nonzero(stored.ids == query)
    if own.size:
        code, extra = stored[own[:1]], 1
    elif not Path(query).is_file():
        raise ValueError(f"{query} is neither an id in {path} nor an image file")
    elif run is None:
        raise ValueError(
            f"{query} is no id in {path}; to encode it as an image, say --run DIR, the run of the codes"
        )
    else:
        from stochcon.encoding import Encoder

        encoder, extra = Encoder(run), 0
        if stored.model != encoder.hash:
            raise ValueError(f"{path} was not made by the model in {run}: encode the images again with it")
        code = encoder.file(Path(query))
    distances, indices = (found[0].tolist() for found in stored.search(code, k + extra))
    others = [(str(stored.ids[i]), d) for i, d in zip(indices, distances, strict=True) if i not in own[:1]]
    return others[:k]


def show(found: list[tuple[str, int]], title: str, console: Console | None = None) -> None:
    """Print the results as a table."""
    table = Table("id", title=title)
    table.columns[0].overflow = "fold"  # an id is to be copied
    table.add_column("bits that differ", justify="right")
    for name, distance in found:
        table.add_row(name, str(distance))
    (console or Console()).print(table)
