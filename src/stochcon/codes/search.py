"""The images whose codes are nearest to those of some images."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tabulate import tabulate

from stochcon.codes import inverted_lists
from stochcon.codes.file import files, made_of, packed_column, read_columns
from stochcon.codes.packed import BIT_ORDER, Codes, exact_neighbours
from stochcon.codes.weighted import asymmetric_neighbours, bit_weights, shares_of_ones, weighted_neighbours


@dataclass(frozen=True)
class Neighbours:
    """The ids that were found for one query, nearest first, and in how many bits they differ."""

    query: str  # an id in the file of codes, or the path of an image; `by_id` says which
    ids: list[str]
    distances: list[float]
    by_id: bool = True


def search(
    codes: Path | str,
    queries: Sequence[str],
    k: int = 10,
    run: Path | str | None = None,
    weighted: bool = False,
    approximate: bool = False,
    asymmetric: bool = False,
) -> list[Neighbours]:
    """Find the images of a file of codes that are nearest to each query.

    All codes are compared, by Hamming distance; equal distances come in the order of the file. A query that is an id
    has the mean uncertainty of the file's bits, since only its code is stored.

    Args:
        codes: The file, or the name that its shards share.
        queries: Ids in the file, or paths of image files. An image of the file is not among its own results. An
            image file is one if its path ends in the id and both have the same code.
        k: How many to find for each query, at least 1.
        run: The directory of the run that made the codes, which encodes image files; by default the one that the
            file names.
        weighted: Count each bit by how informative and how certain it is; see `stochcon.codes.weighted`.
        approximate: Look only into the inverted lists beside the file, which are built the first time. That
            pays for many queries at once, or for many millions of codes.
        asymmetric: Compare the stored bits with the query's probabilities, which break ties and rank better.

    Returns:
        What was found for each query, in their order.

    Raises:
        ValueError: If a query is neither an id nor an image, or if the file or the run cannot be used.

    Example:
        >>> import tempfile
        >>> from stochcon import Codes
        >>> from stochcon.codes.file import write
        >>> path = Path(tempfile.mkdtemp()) / "codes.parquet"
        >>> write(Codes.pack([[True, False], [True, True], [False, True]], ["cat", "dog", "fox"]), path)
        3
        >>> search(path, ["cat"], k=1)
        [Neighbours(query='cat', ids=['dog'], distances=[1], by_id=True)]
    """
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    if not queries:
        raise ValueError(f"there is nothing to look for in {codes}; give ids or image files")
    if (weighted, approximate, asymmetric).count(True) > 1:
        raise ValueError("weighted, approximate and asymmetric are three searches: choose one")
    table, header = read_columns(files(codes), ["id", "code"])
    own, stored = _rows(table["id"], queries), packed_column(table)
    made = _encode([query for query in queries if query not in own], codes, header.model, run)
    itself = own | _encoded_before(made, table["id"], stored)
    packed = np.stack([stored[own[query]] if query in own else made[query].packed[0] for query in queries])

    distances: NDArray[np.number]
    if approximate:
        index = inverted_lists.load(Path(codes)) or inverted_lists.build_beside(Path(codes))[0]
        distances, rows = inverted_lists.approximate_neighbours(index, packed, k + 1)
    elif weighted or asymmetric:
        mean = np.array(header.flips, np.float32)
        flips = np.stack([mean if query in own else made[query].flips for query in queries])
        bits = np.unpackbits(packed, 1, header.bits, BIT_ORDER).astype(bool)
        if weighted:
            weights = bit_weights(shares_of_ones(stored, header.bits), flips)
            distances, rows = weighted_neighbours(stored, bits, weights, k + 1)
        else:
            distances, rows = asymmetric_neighbours(stored, np.abs(bits - flips), k + 1)
    else:
        distances, rows = exact_neighbours(stored, packed, k + 1)

    found = []
    for query, *both in zip(queries, rows.tolist(), distances.tolist(), strict=True):
        kept = [(row, d) for row, d in zip(*both, strict=True) if row not in (-1, itself.get(query))][:k]
        ids = [table["id"][row].as_py() for row, _ in kept]
        found.append(Neighbours(query, ids, [distance for _, distance in kept], query in own))
    return found


def _rows(column: pa.ChunkedArray, ids: Sequence[str]) -> dict[str, int]:
    """Find the row of each id that is there; the first, if it is there several times."""
    if not len(column):  # pyarrow before 26 crashes on a column without chunks
        return {}
    # pa.array and pa.scalar would import pandas, which takes as long as the search
    encoded = [name.encode(errors="surrogateescape") for name in ids]
    buffers = np.cumsum([0, *map(len, encoded)], dtype=np.int32), b"".join(encoded)
    wanted = pa.StringArray.from_buffers(len(encoded), *map(pa.py_buffer, buffers))
    hits = pc.indices_nonzero(pc.is_in(column, options=pc.SetLookupOptions(wanted)))
    return {column[row].as_py(): row for row in reversed(hits.to_pylist())}


def _encoded_before(made: Mapping[str, Codes], column: pa.ChunkedArray, stored: NDArray[np.uint8]) -> dict[str, int]:
    """Find the row of each image file that is one of the encoded images, as far as its path and its code can tell."""
    paths = {image: os.path.abspath(image).split(os.sep) for image in made}
    ends = [(image, "/".join(path[i:])) for image, path in paths.items() for i in range(len(path) - 1, -1, -1)]
    rows = _rows(column, [end for _, end in ends])
    found = {image: rows[end] for image, end in ends if end in rows}  # by the longest end, which comes last
    return {image: i for image, i in found.items() if (stored[i] == made[image].packed[0]).all()}


def _encode(images: Sequence[str], codes: Path | str, model: str, run: Path | str | None) -> dict[str, Codes]:
    """Encode image files with the run that made the codes."""
    for image in images:
        if not Path(image).is_file():
            raise ValueError(f"{image} is neither an id in {codes} nor an image file")
        if (run := run or made_of(codes).get("run")) is None:
            raise ValueError(f"{image} is an image file; to encode it, give --run DIR, the run of the codes")
    if not images or run is None:
        return {}
    from stochcon.codes.encoder import Encoder  # which imports torch

    encoder = Encoder(run)
    if encoder.hash != model:
        raise ValueError(f"{codes} was not made by the model in {run}; encode the images again with it")
    return {image: encoder.file(Path(image)) for image in images}


def show(results: Sequence[Neighbours], weighted: bool = False, asymmetric: bool = False) -> None:
    """Print a table for each query, and a word on distances that are not counts."""
    title, note = "bits that differ", ""
    if weighted:
        title, note = "weighted bits", "the bits that differ, by how informative and certain each is (1 on average)"
    elif asymmetric:
        title, note = "expected bits", "the bits that differ on average, if the query's are sampled from its q(z|x)"
    for found in results:
        columns = "id", title
        rows = zip(found.ids, [round(distance, 1) for distance in found.distances], strict=True)
        align = ("left", "right") if found.ids else None  # tabulate 0.9 wants no columns of an empty table
        # an id such as 007 is no number
        table = tabulate(rows, columns, "rounded_outline", disable_numparse=True, colalign=align)
        print(f"nearest to {found.query}\n{table}")
    if note:
        print(f"{title}: {note}")
