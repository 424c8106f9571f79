"""The file of codes, which outlives the program that made it: Parquet, in one file or several shards.

The columns are `id` (string), `code` (fixed-size binary) and `uncertainty` (float32). Codes of a latent whose
samples are no bits also have `mean` and `variance` (fixed-size lists of float16). The file's metadata has one
JSON object under the key `stochcon`, which `Header` describes.
"""

import glob
import os
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stochcon.atomic import replacing
from stochcon.codes.packed import BIT_ORDER, MOST_BITS, Codes, mean_flips
from stochcon.config import explain

VERSION: Literal[2] = 2
"""Version 1 had no flips, no size and channels, and no Gaussian; no release wrote it."""
KEY = b"stochcon"
GROUP_BYTES = 1 << 25
"""About how many bytes are held in memory and written at once."""
OPTIONS = {
    "compression": {"id": "zstd"},  # the bits themselves can hardly be compressed
    "use_dictionary": False,
    "write_page_checksum": True,
    "write_statistics": ["id", "uncertainty"],
}
SHARED = {"bits", "latent", "model", "size", "channels"}
"""The fields that a header shares with `Codes`, beside the flips."""


class Header(BaseModel):
    """The metadata of a file of codes; the fields that `Codes` has too mean the same."""

    model_config = ConfigDict(strict=True, frozen=True)

    version: Literal[2] = VERSION
    bits: int = Field(ge=1, le=MOST_BITS)
    bit_order: Literal["little"] = BIT_ORDER
    latent: str
    model: str
    size: int | None
    channels: int | None
    flips: list[Annotated[float, Field(ge=0, le=0.5)]]
    run: str | None = None
    """The run directory, as seen from the file's folder; what is not known is None."""
    images: str | None = None
    """The folder or archive that was encoded, likewise; or the name of a data set."""


def shard(path: Path | str, rank: int, world: int) -> Path:
    """Name the file that one of several processes writes; `read_codes` takes the name of the whole.

    >>> shard("codes.parquet", 0, 2).name, shard("codes.parquet", 0, 1).name
    ('codes-00000-of-00002.parquet', 'codes.parquet')
    """
    path = Path(path)
    return path if world == 1 else path.with_name(f"{path.stem}-{rank:05}-of-{world:05}{path.suffix}")


def _family(path: Path) -> list[Path]:
    number = "[0-9]" * 5
    shards = path.parent.glob(f"{glob.escape(path.stem)}-{number}-of-{number}{glob.escape(path.suffix)}")
    return [path] * path.exists() + sorted(shards)


def files(path: Path | str) -> list[Path]:
    """List the file of this name, or its shards in order. Raises ValueError if they are not one whole set."""
    path = Path(path)
    found = _family(path)
    if not found:
        raise ValueError(f"{path} is missing; stochcon encode writes a file of codes")
    world = 1 if found[0] == path else int(found[0].stem[-5:])
    expected = [shard(path, rank, world) for rank in range(world)]
    for odd in sorted({*found} - {*expected}):
        raise ValueError(f"{odd} and {found[0].name} are not of one set; remove what you do not want")
    for missing in sorted({*expected} - {*found}):
        raise ValueError(f"{missing} is missing beside {found[0].name}; wait until all processes have ended")
    return expected


def writable(path: Path | str, rank: int, world: int) -> Path:
    """Name the file that a process is to write. Raises ValueError if files of another set are there."""
    path, mine = Path(path), shard(path, rank, world)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; it must name a file of codes")
    for other in {*_family(path)} - {shard(path, each, world) for each in range(world)}:
        raise ValueError(f"{other} is not of the same set as {mine.name}; remove it, or write elsewhere")
    return mine


def made_of(path: Path | str) -> dict[str, str]:
    """Tell the `run` and the `images` of a file of codes, or of the first of its shards; what is gone is left out."""
    path = files(path)[0]
    header = _read_file(path, [])[1]
    told = {name: value for name in ("run", "images") if (value := getattr(header, name))}
    found = {name: os.path.normpath(path.parent / value) if "/" in value else value for name, value in told.items()}
    return {name: place for name, place in found.items() if place == told[name] or os.path.exists(place)}


def seen_from(path: Path, place: Path | str) -> str:
    """Write a place as seen from the folder of a file, with a slash, so that both can move together."""
    return f"./{os.path.relpath(place, path.parent)}"


def write(codes: Codes | Iterable[Codes], path: Path | str, run: str | None = None, images: str | None = None) -> int:
    """Write codes, or batches of them as they come, to a file: whole, or not at all; returns their number.

    `Header` says what run and images are.
    """
    batches = iter([codes] if isinstance(codes, Codes) else codes)
    if (first := next(batches, None)) is None:
        raise ValueError("there are no codes to write")
    about = {name: getattr(first, name) for name in SHARED}
    schema = _schema(first.bits, bool(first.moments))
    rows_at_once = max(1, GROUP_BYTES // (64 + first.packed.shape[1] + 4 * first.bits * bool(first.moments)))
    held, count, flips = list[pa.Table](), 0, np.zeros(first.bits)
    with replacing(Path(path)) as file, pq.ParquetWriter(file, schema, **OPTIONS) as writer:
        for batch in chain([first], batches):
            if any(getattr(batch, name) != value for name, value in about.items()):
                raise ValueError("codes of two models cannot go into one file")
            if sum(map(len, held)) >= rows_at_once:
                writer.write_table(pa.concat_tables(held).combine_chunks(), rows_at_once)
                held = []
            held.append(_table(batch, schema))
            count += len(batch)
            flips += len(batch) * batch.flips.astype(np.float64)
        writer.write_table(pa.concat_tables(held).combine_chunks(), rows_at_once)
        # the rates of flips are known only now, so they are in the footer
        header = Header(**about, flips=mean_flips(flips, count).tolist(), run=run, images=images)
        writer.add_key_value_metadata({KEY: header.model_dump_json().encode()})
    return count


def _schema(bits: int, moments: bool) -> pa.Schema:
    types = {"id": pa.string(), "code": pa.binary(-(-bits // 8)), "uncertainty": pa.float32()}
    if moments:
        half = pa.list_(pa.field("element", pa.float16(), nullable=False), bits)
        types |= {"mean": half, "variance": half}
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in types.items()])


def _table(codes: Codes, schema: pa.Schema) -> pa.Table:
    buffer = pa.py_buffer(np.ascontiguousarray(codes.packed))
    code = pa.Array.from_buffers(schema.field("code").type, len(codes), [None, buffer])
    moments = [
        pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=schema.field(name).type)
        for name, values in codes.moments.items()
    ]
    columns = [pa.array(codes.ids, pa.string()), code, pa.array(codes.uncertainty), *moments]
    return pa.Table.from_arrays(columns, schema=schema)


def read_codes(path: Path | str, model: str | None = None) -> Codes:
    """Read the codes of a file or of its shards.

    Args:
        path: The file, or the name that its shards share.
        model: The hash of the model that the codes must be of, if that matters.

    Returns:
        The codes, with the rates of flips over all of them.

    Raises:
        ValueError: If the file is missing, damaged, not of codes, of another version or of another model.
    """
    return read_files(files(path), model)


def read_files(paths: Sequence[Path], model: str | None = None) -> Codes:
    """Read the codes of these files, as `read_codes` does, without a look at what is beside them."""
    table, header = read_columns(paths, None, model)
    moments = {
        name: table[name].combine_chunks().flatten().to_numpy().reshape(-1, header.bits)
        for name in table.column_names[3:]
    }
    try:
        return Codes(
            packed=packed_column(table),
            ids=table["id"].to_numpy(),
            uncertainty=table["uncertainty"].to_numpy(),
            flips=np.array(header.flips, np.float32),
            **header.model_dump(include=SHARED),
            **moments,
        )
    except ValueError as error:
        raise ValueError(f"{paths[0]} is damaged: {error}") from None


def read_columns(paths: Sequence[Path], columns: list[str] | None, model: str | None = None) -> tuple[pa.Table, Header]:
    """Read columns of files (None: all) and one header with the flips over all. Raises as `read_codes` does."""
    parts = [_read_file(path, columns) for path in paths]
    for path, (_, header) in zip(paths, parts, strict=True):
        wanted = parts[0][1].model if model is None else model
        if header.model != wanted:
            made = f"{path} was made by the model {header.model[:12]}, not {wanted[:12]}"
            raise ValueError(f"{made}; encode the images again")
    totals = [len(table) * np.array(header.flips, np.float32).astype(np.float64) for table, header in parts]
    table = pa.concat_tables(table for table, _ in parts)
    flips = mean_flips(np.sum(totals, axis=0), len(table)).tolist()
    return table, parts[0][1].model_copy(update={"flips": flips})


def _read_file(path: Path, columns: list[str] | None) -> tuple[pa.Table, Header]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as parquet:
            content = (parquet.metadata.metadata or {}).get(KEY)
            if content is None:
                raise ValueError(f"{path} is no file of codes: its metadata has no key {KEY.decode()}")
            header = Header.model_validate_json(content)
            schema = _schema(header.bits, "mean" in parquet.schema_arrow.names)
            if parquet.schema_arrow != schema or len(header.flips) != header.bits:
                raise ValueError(f"{path} has other columns or flips than codes of {header.bits} bits have")
            table = parquet.read(columns)
            table.validate(full=True)
            if len(table) != parquet.metadata.num_rows:
                raise ValueError(f"{path} is damaged: it does not have as many rows as it says")
            return table, header
    except ValidationError as error:
        raise ValueError(f"{path} does not describe codes that can be read: {explain(error)}") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged, or no Parquet file: {' '.join(str(error).split())}") from None


def packed_column(table: pa.Table) -> NDArray[np.uint8]:
    """View the column `code` of a table as (N, bytes a code)."""
    code = table["code"].combine_chunks()
    width = code.type.byte_width
    rows = np.frombuffer(code.buffers()[1] or b"", np.uint8, len(code) * width, code.offset * width)
    return rows.reshape(-1, width)
