"""Approximate search: FAISS's inverted lists of binary codes, kept beside a file of codes in NAME.index.

The codes are put into about sqrt(N) lists, each around a centre that k-means finds. A search reads only the
lists whose centres are nearest to the query: the fewest at which the recall over codes of the file itself is
at least RECALL, as measured when the lists are built. benchmarks/search.py compares FAISS's binary indexes.

The file is one line of JSON (which codes it is of, and the hash of the rest), and then FAISS's own format.
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from stochcon import atomic
from stochcon.codes.file import files, packed_column, read_columns
from stochcon.codes.packed import exact_neighbours, limited_threads

VERSION = 2
"""It also stands for how lists are chosen: those of another version are built again."""
RECALL = 0.99
"""More than the 0.95 that is promised, as new images are further from the lists: where codes of the file
itself had 0.985, new images had 0.92 (of a million codes)."""
PROBES, NEIGHBOURS = 200, 10
"""Recall is measured over so many codes, and so many neighbours of each."""


def load(path: Path) -> Any | None:
    """Load the index of a file of codes; None if it is missing or damaged, or the codes have changed."""
    file = Path(f"{path}.index")
    head, _, content = file.read_bytes().partition(b"\n") if file.exists() else (b"", b"", b"")
    if head != _head(path, content):
        return None
    return faiss.deserialize_index_binary(np.frombuffer(content, np.uint8))  # FAISS reads only its own


def build_beside(path: Path) -> tuple[Any, float]:
    """Build the lists of a file of codes as `build` does, and keep them beside it."""
    table, _ = read_columns(files(path), ["code"])
    if not len(table):
        raise ValueError(f"{path} has no codes; leave approximate away")
    index, recall = build(packed_column(table))
    content = faiss.serialize_index_binary(index).tobytes()
    atomic.write(Path(f"{path}.index"), _head(path, content) + b"\n" + content)
    return index, recall


def build(packed: NDArray[np.uint8]) -> tuple[Any, float]:
    """Build FAISS's IndexBinaryIVF of (N, B) bytes, N at least 1, and measure its recall."""
    rng, rows = np.random.default_rng(0), np.ascontiguousarray(packed)
    lists = 1 << round(np.log2(len(rows)) / 2)
    index = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(8 * rows.shape[1]), 8 * rows.shape[1], lists)
    index.cp.niter, index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = 5, 64, 1
    index.train(rows[rng.permutation(len(rows))[: 64 * lists]])
    index.add(rows)
    probes = rows[rng.permutation(len(rows))[:PROBES]]
    exact, _ = exact_neighbours(rows, probes, NEIGHBOURS + 1)
    index.nprobe = 1
    while True:
        distances, found = approximate_neighbours(index, probes, exact.shape[1])
        # others that are as near count too; the first is the code itself
        hits = ((found >= 0) & (distances <= exact[:, -1:]))[:, 1:]
        recall = float(hits.mean()) if hits.size else 1.0
        if recall >= RECALL:
            return index, recall
        index.nprobe = min(2 * index.nprobe, lists)


def approximate_neighbours(
    index: Any, queries: NDArray[np.uint8], k: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Find distances and rows (M, k), nearest first; a row is -1 where the lists that were read end."""
    with limited_threads(len(queries)):
        distances, rows = index.search(np.ascontiguousarray(queries), k)
    return distances, rows


def _head(path: Path, content: bytes) -> bytes:
    sizes = [(file.stat().st_size, file.stat().st_mtime_ns) for file in files(path)]
    about = {"version": VERSION, "size_mtime_ns": sizes, "sha256": sha256(content).hexdigest()}
    return json.dumps(about).encode()
