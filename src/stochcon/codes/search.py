"""The images whose codes are nearest to those of some images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from stochcon.codes import index, weighted
from stochcon.codes.packed import Codes
from stochcon.codes.stored import Stored


@dataclass(frozen=True)
class Nearest:
    """What was found for one query, nearest first."""

    query: str
    """An id in the file of codes, or the path of an image"""
    ids: list[str]
    distances: list[float]
    """Bits that differ; weighted, if that was asked for"""
    by_id: bool = True


def search(
    path: Path | str,
    queries: Sequence[str],
    k: int = 10,
    run: Path | str | None = None,
    weighted: bool = False,
    approximate: bool = False,
    say: Callable[[str], object] = lambda line: None,
) -> list[Nearest]:
    """The k codes of a file that are nearest to each query: exactly, by Hamming distance, ties in the file's order.

    A query is an id in the file, which is not among its own results, or an image file; that one is encoded
    by `run`, the run that made the codes. `weighted` counts bits as the module `weighted` says; `approximate`
    looks into the index beside the file, which is built, and `say` told of it, the first time. It pays for many
    queries at once, or for many millions of codes; one query of a million is sooner compared than an index read.

    Raises ValueError if a query is neither, if the run is missing or another, or if the file cannot be used.
    """
    if k < 1:
        raise ValueError(f"-k is {k}; it must be at least 1")
    if not queries:
        raise ValueError(f"nothing to look for in {path}: it must be given ids or image files")
    if weighted and approximate:
        raise ValueError("--weighted compares all codes; leave --approximate away")
    stored = Stored(path)
    own = stored.find(queries)
    sought, flips = _sought(stored, queries, own, run)
    distances: NDArray[np.number]
    if not len(stored):
        distances, rows = np.empty((len(queries), 0), np.int32), np.empty((len(queries), 0), np.int64)
    elif approximate:
        found = index.load(stored, say)
        distances, rows = index.search(found, sought.packed, min(k + 1, len(stored)))
    elif weighted:
        distances, rows = _weighted(stored, sought, flips, k + 1)
    else:
        distances, rows = stored.all.search(sought, k + 1)

    kept = [
        [(int(row), d) for row, d in zip(*both, strict=True) if row not in (-1, own.get(query))][:k]
        for query, *both in zip(queries, rows.tolist(), distances.tolist(), strict=True)
    ]
    names = iter(stored.ids([row for pairs in kept for row, _ in pairs]))
    return [
        Nearest(query, [next(names) for _ in pairs], [d for _, d in pairs], query in own)
        for query, pairs in zip(queries, kept, strict=True)
    ]


def _sought(
    stored: Stored, queries: Sequence[str], own: dict[str, int], run: Path | str | None
) -> tuple[Codes, list[NDArray[np.float32]]]:
    """The code of each query, and how likely its bits flip."""
    encoder = None
    bits, flips = [], []
    known = dict(zip(own, stored.rows([*own.values()]).unpack(), strict=True))
    for query in queries:
        if query in own:
            bits.append(known[query])
            flips.append(stored.flips)
            continue
        if not Path(query).is_file():
            raise ValueError(f"{query} is neither an id in {stored.path} nor an image file")
        if run is None:
            raise ValueError(
                f"{query} is no id in {stored.path}; to encode it as an image, say --run DIR, the run of the codes"
            )
        if encoder is None:
            from stochcon.codes.encode import Encoder

            encoder = Encoder(run)
            if stored.about["model"] != encoder.hash:
                raise ValueError(
                    f"{stored.path} was not made by the model in {run}: encode the images again with it"
                )
        code = encoder.file(Path(query))
        bits.append(code.unpack()[0])
        flips.append(code.flips)
    return Codes.pack(np.array(bits), queries, model=stored.about["model"]), flips


def _weighted(
    stored: Stored, sought: Codes, flips: list[NDArray[np.float32]], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    weights = weighted.weights(weighted.shares(stored.all), np.stack(flips))
    return weighted.search(stored.all, sought, weights, k)


def show(results: Sequence[Nearest], console: Console | None = None) -> None:
    """Print a table for each query."""
    for nearest in results:
        table = Table("id", title=f"nearest to {nearest.query}")
        table.columns[0].overflow = "fold"  # an id is to be copied
        weighted = any(isinstance(distance, float) for distance in nearest.distances)
        table.add_column("weight that differs" if weighted else "bits that differ", justify="right")
        for name, distance in zip(nearest.ids, nearest.distances, strict=True):
            table.add_row(name, number(distance))
        (console or Console()).print(table)


def number(distance: float) -> str:
    """Whole, or with one decimal if it is weighted.

    >>> number(7), number(7.0)
    ('7', '7.0')
    """
    return str(distance) if isinstance(distance, int) else f"{distance:.1f}"
