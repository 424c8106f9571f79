"""Codes of images: a few packed bits each, how sure they are, exact Hamming search, and their Parquet file.

The file outlives the program that made it: columns `id` (string), `code` (fixed-size binary) and
`uncertainty` (float32), and under the key `stochcon` of the schema's metadata one JSON object with the
version of the format, the number of bits, their order in a byte, the latent, and the hash of the model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

VERSION = 1
BIT_ORDER: Literal["little"] = "little"
"""Bit i of a code is bit i % 8, counted from the lowest, of byte i // 8 (numpy.packbits' name for it)."""
MOST_BITS = 65535
"""So that a distance fits uint16."""
ROW_GROUP = 65536
KEY = b"stochcon"
DISTANCES_AT_ONCE = 1 << 24
"""Bytes that the NumPy reference compares in one go."""


@dataclass(frozen=True, eq=False)
class Codes:
    """Of N images, in their order.

    `len`, and slicing by anything that indexes a NumPy array's rows; a single integer gives one code.

    >>> codes = Codes.pack([[True, False, True], [False, False, True]], ["cat", "dog"])
    >>> codes[1].ids[0], codes.hamming(codes).tolist()
    ('dog', [[0, 1], [1, 0]])
    """

    packed: NDArray[np.uint8]
    """(N, ceil(bits / 8)); what the last byte has left over is zero, and so changes no distance"""
    bits: int
    """D, from 1 to 65535"""
    ids: NDArray[np.object_]
    """(N,) strings"""
    uncertainty: NDArray[np.float32]
    """(N,) the number of bits in which a sample from q(z'|x) is expected to differ from the code: the
    sum of min(p, 1 - p) over a Bernoulli's bits; from 0 to D / 2"""
    model: str = ""
    """SHA-256 of the weights that made them; codes of two models are not comparable"""
    latent: str = "bernoulli"

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= MOST_BITS:
            raise ValueError(f"codes of {self.bits} bits: it must be 1 to {MOST_BITS}")
        shape = (len(self.ids), -(-self.bits // 8))
        if self.packed.shape != shape or self.packed.dtype != np.uint8:
            raise ValueError(
                f"codes are {self.packed.dtype} {self.packed.shape}; "
                f"{shape[0]} ids and {self.bits} bits need uint8 {shape}"
            )
        if self.uncertainty.shape != shape[:1]:
            raise ValueError(f"uncertainty is {self.uncertainty.shape}; it must be one number for each id")
        if self.bits % 8 and (self.packed[:, -1] >> self.bits % 8).any():
            raise ValueError(f"codes of {self.bits} bits have ones beyond them; the padding must be zero")

    @classmethod
    def pack(
        cls,
        bits: ArrayLike,
        ids: Sequence[str],
        uncertainty: ArrayLike | None = None,
        model: str = "",
        latent: str = "bernoulli",
    ) -> Codes:
        """Codes from (N, D) booleans; without uncertainty they are certain."""
        rows = np.asarray(bits, dtype=bool)
        if rows.ndim != 2:
            raise ValueError(f"bits are {rows.shape}; they must be (N, D)")
        names = np.empty(len(ids), dtype=object)
        names[:] = ids
        sure = np.zeros(len(rows), np.float32) if uncertainty is None else np.asarray(uncertainty, np.float32)
        return cls(np.packbits(rows, 1, BIT_ORDER), rows.shape[1], names, sure, model, latent)

    def unpack(self) -> NDArray[np.bool_]:
        """(N, D) booleans."""
        return np.unpackbits(self.packed, 1, self.bits, BIT_ORDER).astype(bool)

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, index: int | slice | Sequence[int] | NDArray[Any]) -> Codes:
        rows: Any = [index] if isinstance(index, int | np.integer) else index
        return replace(self, packed=self.packed[rows], ids=self.ids[rows], uncertainty=self.uncertainty[rows])

    def hamming(self, other: Codes) -> NDArray[np.uint16]:
        """(N, M) distances. Raises ValueError if the codes are of other bits or of another model."""
        _comparable(self, other)
        distances = np.empty((len(self), len(other)), np.uint16)
        step = max(1, DISTANCES_AT_ONCE // max(1, other.packed.size))
        for start in range(0, len(self), step):
            differing = self.packed[start : start + step, None] ^ other.packed
            distances[start : start + step] = np.bitwise_count(differing).sum(2, dtype=np.uint16)
        return distances

    def search(self, queries: Codes, k: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Distances and indices (M, min(k, N)) of the codes nearest to each query, nearest first; exact.

        Equal distances come in the order of the rows. Raises ValueError as `hamming` does, and for k below 1.
        """
        _comparable(self, queries)
        if k < 1:
            raise ValueError(f"k is {k}; it must be at least 1")
        k = min(k, len(self))
        if not k or not len(queries):
            return np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.int64)
        # what IndexBinaryFlat runs, on our own array instead of a copy of it
        base, sought = np.ascontiguousarray(self.packed), np.ascontiguousarray(queries.packed)
        with threads(len(sought)):
            distances, indices = faiss.knn_hamming(sought, base, k)
        return distances, indices


@contextmanager
def threads(queries: int) -> Iterator[None]:
    """No more threads in FAISS than queries: it shares out queries, and waits for idle threads all the same."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(max(1, min(before, queries)))
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _comparable(codes: Codes, other: Codes) -> None:
    if codes.bits != other.bits:
        raise ValueError(f"codes of {codes.bits} bits cannot be compared with codes of {other.bits}")
    if codes.model != other.model:
        raise ValueError(
            f"codes of the model {codes.model[:12]} cannot be compared with those of {other.model[:12]}: "
            "encode both with one model"
        )


def write(codes: Codes | Iterable[Codes], path: Path | str) -> int:
    """Codes, or batches of them as they come, as a file: whole, or as it was before. Returns how many.

    Raises ValueError if there are no batches, or if they are of different models.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; it must name a file of codes")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            count = _write_batches(iter([codes] if isinstance(codes, Codes) else codes), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return count


def _write_batches(batches: Iterator[Codes], file: Any) -> int:
    first = next(batches, None)
    if first is None:
        raise ValueError("there are no codes to write")
    schema, count = _schema(first), 0
    options = {
        "compression": {"id": "zstd", "code": "none", "uncertainty": "none"},  # bits have little to squeeze
        "use_dictionary": False,
        "write_page_checksum": True,
        "write_statistics": ["id", "uncertainty"],
    }
    with pq.ParquetWriter(file, schema, **options) as writer:
        held, rows = [_table(first, schema)], len(first)
        for batch in batches:
            if not _schema(batch).equals(schema, check_metadata=True):
                raise ValueError("codes of two models cannot go into one file")
            if rows >= ROW_GROUP:
                writer.write_table(pa.concat_tables(held), ROW_GROUP)
                held, rows, count = [], 0, count + rows
            held.append(_table(batch, schema))
            rows += len(batch)
        writer.write_table(pa.concat_tables(held), ROW_GROUP)
    return count + rows


def _columns(bits: int) -> list[pa.Field]:
    types = {"id": pa.string(), "code": pa.binary(-(-bits // 8)), "uncertainty": pa.float32()}
    return [pa.field(name, kind, nullable=False) for name, kind in types.items()]


def _schema(codes: Codes) -> pa.Schema:
    about = {
        "version": VERSION,
        "bits": codes.bits,
        "bit_order": BIT_ORDER,
        "latent": codes.latent,
        "model": codes.model,
    }
    return pa.schema(_columns(codes.bits), {KEY: json.dumps(about).encode()})


def _table(codes: Codes, schema: pa.Schema) -> pa.Table:
    buffer = pa.py_buffer(np.ascontiguousarray(codes.packed))
    code = pa.Array.from_buffers(schema.field("code").type, len(codes), [None, buffer])
    return pa.Table.from_arrays(
        [pa.array(codes.ids, pa.string()), code, pa.array(codes.uncertainty)], schema=schema
    )


def read(path: Path | str, model: str | None = None) -> Codes:
    """The codes of a file. `model` is the hash that it must have been made with, if that matters.

    Raises ValueError if the file is missing, damaged, not of codes, of a later format or of another model.
    """
    with opened(path) as (parquet, about):
        table = parquet.read()
        table.validate(full=True)
    if model is not None and about["model"] != model:
        raise ValueError(
            f"{path} was made by the model {about['model'][:12]}, not {model[:12]}; encode the images again"
        )
    try:
        return Codes(
            packed_rows(table["code"]),
            about["bits"],
            table["id"].to_numpy(),
            table["uncertainty"].to_numpy(),
            about["model"],
            about["latent"],
        )
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


@contextmanager
def opened(path: Path | str) -> Iterator[tuple[pq.ParquetFile, dict[str, Any]]]:
    """The Parquet file, to read only some columns or rows, and what it says about itself.

    Raises ValueError as `read` does, also for damage that is met while it is open.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is missing; stochcon encode writes a file of codes")
    with open(path, "rb") as file:
        try:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            about = _about(path, parquet.schema_arrow)
            if parquet.schema_arrow != pa.schema(_columns(about["bits"])):
                raise ValueError(f"{path} has other columns than codes of {about['bits']} bits have")
            footer = parquet.metadata  # which has no checksum
            if sum(footer.row_group(g).num_rows for g in range(footer.num_row_groups)) != footer.num_rows:
                raise ValueError(f"{path} is damaged: it has not as many rows as it says")
            yield parquet, about
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} is damaged, or no Parquet file: {reason}") from None


def packed_rows(column: pa.ChunkedArray) -> NDArray[np.uint8]:
    """The column `code` as (N, bytes a code)."""
    code, width = column.combine_chunks(), column.type.byte_width
    rows = np.frombuffer(code.buffers()[1] or b"", np.uint8, len(code) * width, code.offset * width)
    return rows.reshape(-1, width)


def _about(path: Path, schema: pa.Schema) -> dict[str, Any]:
    """What the file says about itself."""
    content = (schema.metadata or {}).get(KEY)
    if content is None:
        raise ValueError(f"{path} is no file of codes: its metadata has no key {KEY.decode()}")
    try:
        about = json.loads(content)
        version = about["version"]
        if version > VERSION:
            raise ValueError(
                f"{path} has format {version}, of a newer stochcon; this one reads format {VERSION}"
            )
        order, bits = about["bit_order"], about["bits"]
        texts = order, about["latent"], about["model"]
        whole = isinstance(bits, int) and 1 <= bits <= MOST_BITS and all(isinstance(t, str) for t in texts)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        whole = False
    if not whole:
        raise ValueError(f"{path} is damaged: its metadata does not describe codes")
    if order != BIT_ORDER:
        raise ValueError(f"{path} has its bits in the order {order}; it must be {BIT_ORDER}")
    return dict(about)
