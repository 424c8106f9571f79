"""An approximate index of a file of codes, beside it in NAME.index: FAISS's inverted lists of binary codes.

The codes are put into about sqrt(N) lists, each around a centre that k-means found, and a search reads only
the lists whose centres are nearest to the query. How many is measured when the index is built: the fewest at
which the recall over codes of the file itself is at least RECALL. benchmarks/search.py has the choice among
FAISS's binary indexes.

The file is one line of JSON (which codes it is of, and the hash of the rest), and then FAISS's own format.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from stochcon import atomic
from stochcon.codes.packed import threads
from stochcon.codes.stored import Stored

VERSION = 2
"""Of how an index is chosen, too: one of another version is built again."""
RECALL = 0.99
"""Above what is promised, 0.95, as images that are not in the file are further from its lists: of a million codes 0.985 was
0.92 for them."""
PROBES = 200
"""Codes that recall is measured over."""
NEIGHBOURS = 10


def load(stored: Stored, say: Callable[[str], object]) -> Any:
    """The index of a file of codes; built, and written beside it, unless that was done before.

    An index of other codes (files of another size or date) or a damaged one is replaced. `say` is told what
    takes time.
    """
    file = stored.path.with_name(stored.path.name + ".index")
    stats = [path.stat() for path in stored.files]
    key = {"version": VERSION, "size_mtime_ns": [[stat.st_size, stat.st_mtime_ns] for stat in stats]}
    found, why = _read(file, key) if file.exists() else (None, "")
    if found is not None:
        return found
    if why:
        say(f"{file} {why}: it is built again")
    started, rows = perf_counter(), stored.packed
    say(f"building an index of {len(rows):,} codes")
    index, recall = build(rows)
    _write(file, key, index)
    say(
        f"{file}: {index.nlist:,} lists, of which a search reads {index.nprobe:,} "
        f"(recall@{NEIGHBOURS} {recall:.3f}), in {perf_counter() - started:.0f} s"
    )
    return index


def build(packed: NDArray[np.uint8]) -> tuple[Any, float]:
    """FAISS's IndexBinaryIVF of (N, B) bytes, N at least 1, and its recall over some of them.

    >>> rows = np.random.default_rng(0).integers(0, 256, (1000, 2), dtype=np.uint8)
    >>> index, recall = build(rows)
    >>> index.nlist, recall >= RECALL, int(index.search(rows[:1], 1)[0][0, 0])
    (32, True, 0)
    """
    rng, rows = np.random.default_rng(0), np.ascontiguousarray(packed)
    lists = 1 << round(np.log2(len(rows)) / 2)
    index = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(8 * rows.shape[1]), 8 * rows.shape[1], lists)
    index.cp.niter, index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = 5, 64, 1
    index.train(rows[rng.permutation(len(rows))[: 64 * lists]])
    index.add(rows)
    probes = rows[rng.permutation(len(rows))[:PROBES]]
    exact = faiss.knn_hamming(probes, rows, min(len(rows), NEIGHBOURS + 1))[0]
    index.nprobe = 1
    while (recall := _recall(index, probes, exact)) < RECALL:
        index.nprobe = min(2 * index.nprobe, lists)
    return index, recall


def _recall(index: Any, probes: NDArray[np.uint8], exact: NDArray[np.int32]) -> float:
    """Share of the nearest that are found, or others as near; the first of each is the code itself."""
    distances, rows = search(index, probes, exact.shape[1])
    found = (rows >= 0) & (distances <= exact[:, -1:])
    return float(found[:, 1:].mean()) if exact.shape[1] > 1 else 1.0


def search(index: Any, queries: NDArray[np.uint8], k: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Distances and rows (M, k) nearest first; a row is -1 where the lists that are read have no more."""
    with threads(len(queries)):
        distances, rows = index.search(np.ascontiguousarray(queries), k)
    return distances, rows


def _write(file: Path, key: dict[str, Any], index: Any) -> None:

    content = faiss.serialize_index_binary(index).tobytes()
    header = json.dumps(key | {"sha256": sha256(content).hexdigest()})
    atomic.write(file, header.encode() + b"\n" + content)


def _read(file: Path, key: dict[str, Any]) -> tuple[Any, str]:
    """The index, or what is wrong with the file. FAISS is given nothing that has changed since it wrote it."""
    head, _, content = file.read_bytes().partition(b"\n")
    try:
        about = json.loads(head)
        digest = about.pop("sha256")
    except (ValueError, KeyError, AttributeError, TypeError):
        return None, "is damaged"
    if about != key:
        return None, "is of other codes"
    if sha256(content).hexdigest() != digest:
        return None, "is damaged"
    return faiss.deserialize_index_binary(np.frombuffer(content, np.uint8)), ""
