"""The file of codes, which outlives the program that made it: Parquet, or several that are its shards.

Columns `id` (string), `code` (fixed-size binary) and `uncertainty` (float32), of a Gaussian also `mean` and
`variance` (fixed-size lists of float16). Under the key `stochcon` of the file's metadata is one JSON object:
the version of the format, the number of bits, their order in a byte, the latent, the hash of the model, the
size and channels that images were brought to, and how often each bit of a sample flips.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stochcon.codes.packed import BIT_ORDER, MOST_BITS, Codes, mean_flips

__all__ = ["BIT_ORDER", "Codes", "files", "read", "read_one", "shard", "writable", "write"]

VERSION = 2
"""1 had no flips, size and channels, and no Gaussian; no release wrote it, and none reads it."""
ROW_GROUP = 65536
"""Rows that are written at once; fewer if they are longer than GROUP_BYTES together."""
GROUP_BYTES = 1 << 25
KEY = b"stochcon"


def shard(path: Path | str, rank: int, world: int) -> Path:
    """The file that one of several processes writes; `read` takes the name of the whole.

    >>> shard("codes.parquet", 0, 2).name, shard("codes.parquet", 0, 1).name
    ('codes-00000-of-00002.parquet', 'codes.parquet')
    """
    path = Path(path)
    return path if world == 1 else path.with_name(f"{path.stem}-{rank:05}-of-{world:05}{path.suffix}")


def files(path: Path | str) -> list[Path]:
    """The file of this name, or its shards in order; nothing is opened.

    Raises ValueError if there is neither, if shards are missing, or if there are shards of another set too.
    """
    path = Path(path)
    found = _family(path)
    if not found:
        raise ValueError(f"{path} is missing; stochcon encode writes a file of codes")
    world = 1 if path in found else int(found[0].stem[-5:])
    expected = [shard(path, rank, world) for rank in range(world)]
    for other in found:
        if other not in expected:
            raise ValueError(f"{expected[0]} and {other.name} are not of one set; remove what is not wanted")
    for file in expected:
        if file not in found:
            raise ValueError(f"{file} is missing beside {found[0].name}; all processes must have finished")
    return expected


def _family(path: Path) -> list[Path]:
    number = "[0-9]" * 5
    shards = path.parent.glob(f"{glob.escape(path.stem)}-{number}-of-{number}{glob.escape(path.suffix)}")
    return [path] * path.exists() + sorted(shards)


def writable(path: Path | str, rank: int = 0, world: int = 1) -> Path:
    """The file that a process is to write. Raises ValueError for a folder, or beside files of another set."""
    path = _no_folder(path)
    mine = shard(path, rank, world)
    for other in {*_family(path)} - {shard(path, each, world) for each in range(world)}:
        raise ValueError(
            f"{other} is there, and {mine.name} is not of its set; remove it, or write elsewhere"
        )
    return mine


def _no_folder(path: Path | str) -> Path:
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; it must name a file of codes")
    return path


def write(codes: Codes | Iterable[Codes], path: Path | str) -> int:
    """Codes, or batches of them as they come, as a file: whole, or as it was before. Returns how many.

    Raises ValueError if there are no batches, or if they are of different models.
    """
    path = _no_folder(path)
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
    schema, about = _schema(first.bits, bool(first.moments)), _about(first)
    options = {
        "compression": {"id": "zstd"},  # bits have little to squeeze
        "use_dictionary": False,
        "write_page_checksum": True,
        "write_statistics": ["id", "uncertainty"],
    }
    long = first.packed.shape[1] + 4 * first.bits * bool(first.moments)
    rows_at_once = min(ROW_GROUP, max(1, GROUP_BYTES // long))
    with pq.ParquetWriter(file, schema, **options) as writer:
        held, rows, count, flips = (
            [_table(first, schema)],
            len(first),
            len(first),
            len(first) * first.flips.astype(np.float64),
        )
        for batch in batches:
            if _about(batch) != about:
                raise ValueError("codes of two models cannot go into one file")
            if rows >= rows_at_once:
                writer.write_table(pa.concat_tables(held), rows_at_once)
                held, rows = [], 0
            held.append(_table(batch, schema))
            rows += len(batch)
            count += len(batch)
            flips += len(batch) * batch.flips.astype(np.float64)
        writer.write_table(pa.concat_tables(held), rows_at_once)
        rates = [
            round(rate, 4) for rate in mean_flips(flips, count).tolist()
        ]  # known only now: so in the footer
        writer.add_key_value_metadata({KEY: json.dumps(about | {"flips": rates}).encode()})
    return count


def _schema(bits: int, moments: bool) -> pa.Schema:
    types = {"id": pa.string(), "code": pa.binary(-(-bits // 8)), "uncertainty": pa.float32()}
    if moments:
        half = pa.list_(pa.field("element", pa.float16(), nullable=False), bits)
        types |= {"mean": half, "variance": half}
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in types.items()])


def _about(codes: Codes) -> dict[str, Any]:
    return {
        "version": VERSION,
        "bits": codes.bits,
        "bit_order": BIT_ORDER,
        "latent": codes.latent,
        "model": codes.model,
        "size": codes.size,
        "channels": codes.channels,
    }


def _table(codes: Codes, schema: pa.Schema) -> pa.Table:
    buffer = pa.py_buffer(np.ascontiguousarray(codes.packed))
    code = pa.Array.from_buffers(schema.field("code").type, len(codes), [None, buffer])
    moments = [
        pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=schema.field(name).type)
        for name, values in codes.moments.items()
    ]
    return pa.Table.from_arrays(
        [pa.array(codes.ids, pa.string()), code, pa.array(codes.uncertainty), *moments], schema=schema
    )


def read(path: Path | str, model: str | None = None) -> Codes:
    """The codes of a file or of its shards. `model` is the hash that it must have been made with, if that matters.

    Raises ValueError if the file is missing, damaged, not of codes, of another format or of another model.
    """
    found = files(path)
    parts = [read_one(file) for file in found]
    for part, file in zip(parts, found, strict=True):
        same_model(file, part.model, parts[0].model if model is None else model)
    return parts[0] if len(parts) == 1 else Codes.join(parts)


def same_model(file: Path, model: str, wanted: str) -> None:
    """Raises ValueError if the codes of a file are of another model than is wanted."""
    if model != wanted:
        raise ValueError(
            f"{file} was made by the model {model[:12]}, not {wanted[:12]}; encode the images again"
        )


def read_one(path: Path) -> Codes:
    """The codes of one file, without a look at what is beside it. Raises ValueError as `read` does."""
    with opened(path) as (parquet, about):
        table = parquet.read()
        table.validate(full=True)
    moments = {
        name: table[name].combine_chunks().flatten().to_numpy().reshape(-1, about["bits"])
        for name in table.column_names[3:]
    }
    try:
        return Codes(
            packed=packed_rows(table["code"]),
            bits=about["bits"],
            ids=table["id"].to_numpy(),
            uncertainty=table["uncertainty"].to_numpy(),
            flips=np.array(about["flips"], np.float32),
            model=about["model"],
            latent=about["latent"],
            size=about["size"],
            channels=about["channels"],
            **moments,
        )
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


@contextmanager
def opened(path: Path) -> Iterator[tuple[pq.ParquetFile, dict[str, Any]]]:
    """One file, to read only some columns or rows of it, and what it says about itself.

    Raises ValueError as `read` does, also for damage that is met while it is open.
    """
    with open(path, "rb") as file:
        try:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            about, footer = _described(path, parquet.metadata.metadata or {}), parquet.metadata
            bits = about["bits"]
            if parquet.schema_arrow != _schema(bits, about["latent"] == "gaussian"):
                raise ValueError(f"{path} has other columns than {about['latent']} codes of {bits} bits have")
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


def _described(path: Path, metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """What the file says about itself."""
    content = metadata.get(KEY)
    if content is None:
        raise ValueError(f"{path} is no file of codes: its metadata has no key {KEY.decode()}")
    try:
        about = json.loads(content)
        version = about["version"]
        if version != VERSION:
            other = "a newer" if version > VERSION else "an older"
            raise ValueError(
                f"{path} has format {version}, of {other} stochcon; this one reads format {VERSION}"
            )
        whole = (
            isinstance(about["bits"], int)
            and 1 <= about["bits"] <= MOST_BITS
            and all(isinstance(about[name], str) for name in ("bit_order", "latent", "model"))
            and all(isinstance(about[name], int | None) for name in ("size", "channels"))
            and all(isinstance(rate, float) and 0 <= rate <= 0.5 for rate in about["flips"])
        )
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        whole = False
    if not whole:
        raise ValueError(f"{path} is damaged: its metadata does not describe codes")
    if about["bit_order"] != BIT_ORDER:
        raise ValueError(f"{path} has its bits in the order {about['bit_order']}; it must be {BIT_ORDER}")
    return dict(about)
