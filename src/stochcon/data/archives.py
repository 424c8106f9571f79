"""Images inside archives: WebDataset shards to train on, and any .tar or .zip file to encode.

Nothing is unpacked. The headers of an archive are read once, and then each image at its place. So shuffling
and resuming are as exact as with files.
"""

import json
import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import track

from stochcon import atomic
from stochcon.data.folder import SPLIT_NAMES, divided, given_splits, text
from stochcon.data.images import EXTENSIONS, Source, Sources, Split, open_image
from stochcon.parallel import all_gather_object, rank, world_size

INDEX = pa.schema({"name": pa.binary(), "label": pa.string(), "offset": pa.int64(), "length": pa.int64()})


def _tar_files(path: Path) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(path, "r:") as tar, open(path, "rb") as file:
            while member := tar.next():
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                if member.isfile():
                    yield member
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):  # tarfile takes a damaged header for the end
                raise tarfile.ReadError(f"no header at byte {tar.offset}")
    except tarfile.TarError as error:
        wanted = "it must be a whole tar file that is not compressed"
        raise ValueError(f"{path} is damaged or compressed ({error}); {wanted}") from None


def _read_slice(path: Path, offset: int, length: int) -> bytes:
    with open(path, "rb") as file:  # opened each time, so that threads share nothing
        file.seek(offset)
        return file.read(length)


def list_archive(path: Path, size: int) -> list[Source]:
    """List the images of a .tar or .zip file, in its order. Names that begin with a dot are passed over.

    Of two files of one name the last counts, as in unpacking. Raises ValueError if the archive is not whole.
    """
    reads: dict[str, Callable[[], bytes]]
    if zipfile.is_zipfile(path):
        try:
            archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"{path} is damaged ({error}); it must be a whole zip file") from None
        reads = {name: partial(archive.read, name) for name in archive.namelist()}
    else:
        reads = {m.name: partial(_read_slice, path, m.offset_data, m.size) for m in _tar_files(path)}
    return [
        Source(str(name), None, partial(open_image, read, size))
        for name, read in ((PurePosixPath(name), read) for name, read in reads.items())
        if name.suffix.lower() in EXTENSIONS and not any(part.startswith(".") for part in name.parts)
    ]


def list_shards(
    root: Path, shards: Sequence[str], size: int, cache: Path
) -> tuple[tuple[str, ...], dict[Split, Sources]]:
    """List the classes, and the images of each split, in the WebDataset shards below `root`.

    - A word of a shard's path names its split: `train/0000.tar`, `imagenet-val-000012.tar`. A split that
      no shard names takes a tenth of the images by a hash of their names, as in a folder.
    - `KEY.cls` beside `KEY.jpg` holds the label, a number or a name. So does `label` or `cls` in `KEY.json`.
      If any image has no label, nothing is labelled.
    """
    given = given_splits(root, {shard: _named_split(shard) for shard in shards})
    mine = shards[rank() :: world_size()]
    for shard in track(mine, "reading the headers of shards", transient=True, disable=rank() > 0):
        _index(root / shard, cache)
    all_gather_object(None)  # wait: all processes can now take from the cache what one has read
    tables = [_index(root / shard, cache) for shard in shards]
    shard_of = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    names, told, *places = pa.concat_tables(tables).columns
    offsets, lengths = (column.to_numpy() for column in places)
    if not len(names):
        raise ValueError(f"data.root: the shards of {root} have no images; names must end in {EXTENSIONS}")
    found = told.unique().to_pylist()
    numbers = None not in found and all(label.isdecimal() for label in found)
    classes = () if None in found else tuple(sorted(found, key=int if numbers else str))
    labels = {label: i for i, label in enumerate(classes)}

    def source(i: int) -> Source:
        shard = shards[shard_of[i]]
        read = partial(_read_slice, root / shard, int(offsets[i]), int(lengths[i]))
        label = labels.get(told[i].as_py())
        return Source(f"{shard}/{text(names[i])}", label, partial(open_image, read, size))

    return classes, divided(names, (given.get(shards[int(k)]) for k in shard_of), source)


def _named_split(shard: str) -> Split | None:
    words = {SPLIT_NAMES[word] for word in re.split(r"[^a-z]+", shard.lower()) if word in SPLIT_NAMES}
    return words.pop() if len(words) == 1 else None


def _index(shard: Path, cache: Path) -> pa.Table:
    """Find the images of a shard: in the cache if the shard is as it was, otherwise from its headers."""
    shard = shard.absolute()
    status = shard.stat()
    stamp = {b"shard": os.fsencode(shard), b"stamp": f"{status.st_mtime_ns} {status.st_size}".encode()}
    path = cache / "shards" / f"{sha256(os.fsencode(shard)).hexdigest()[:32]}.parquet"
    with suppress(OSError, pa.ArrowInvalid), pq.ParquetFile(path) as kept:  # what is damaged is made again
        if kept.schema_arrow.metadata == stamp:
            return kept.read()
    table = pa.Table.from_pylist(_read_headers(shard), INDEX.with_metadata(stamp))
    with atomic.replacing(path) as file:
        pq.write_table(table, file)
    return table


def _read_headers(shard: Path) -> list[dict[str, Any]]:
    images: list[dict[str, Any]] = []
    labels = {}
    for member in _tar_files(shard):
        folder, _, base = member.name.rpartition("/")
        stem, dot, ending = base.partition(".")
        key, ending = f"{folder}/{stem}", dot + ending.lower()
        if ending in EXTENSIONS and stem:
            place = {"offset": member.offset_data, "length": member.size}
            images.append({"name": os.fsencode(member.name), "key": key, **place})
        elif ending in (".cls", ".json"):
            content = _read_slice(shard, member.offset_data, member.size)
            try:
                fields = json.loads(content) if ending == ".json" else {"label": content.decode().strip()}
            except ValueError as error:
                raise ValueError(f"{shard}/{member.name} holds no label: {error}") from None
            label = fields.get("label", fields.get("cls")) if isinstance(fields, dict) else None
            if label not in (None, ""):
                labels[key] = str(label)
    return [{**image, "label": labels.get(image["key"])} for image in images]
