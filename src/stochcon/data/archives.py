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

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import track

from stochcon import atomic
from stochcon.data.decode import EXTENSIONS, open_image
from stochcon.data.folder import SPLIT_NAMES, divided, given_splits, text
from stochcon.data.images import Source, Sources, Split
from stochcon.parallel import all_gather_object, rank, world_size


def tar_files(path: Path) -> Iterator[tarfile.TarInfo]:
    """Yield the regular files of a tar file. Raises ValueError if it is not whole, or is compressed."""
    try:
        with tarfile.open(path, "r:") as tar, open(path, "rb") as file:
            while member := tar.next():
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                if member.isfile():
                    yield member
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"no header at byte {tar.offset}")
    except tarfile.TarError as error:
        wanted = "it must be a whole tar file that is not compressed"
        raise ValueError(f"{path} is damaged or compressed ({error}); {wanted}") from None


def read_slice(path: Path, offset: int, length: int) -> bytes:
    """Read some bytes of a file. It is opened each time, so that threads share nothing."""
    with open(path, "rb") as file:
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
        reads = {m.name: partial(read_slice, path, m.offset_data, m.size) for m in tar_files(path)}
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

    Raises ValueError if a shard is not whole, if there are no images, or if only some shards name a split.
    """
    given = given_splits(root, {shard: named_split(shard) for shard in shards})
    mine = shards[rank() :: world_size()]
    for shard in track(mine, "reading the headers of shards", transient=True, disable=rank() > 0):
        indexed(root / shard, cache)
    all_gather_object(None)  # wait: all processes can now take from the cache what one has read
    tables = [indexed(root / shard, cache) for shard in shards]
    shard_of = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    names, told, *places = pa.concat_tables(tables).columns
    offsets, lengths = (column.to_numpy() for column in places)
    if not len(names):
        raise ValueError(f"data.root: the shards of {root} have no images; names must end in {EXTENSIONS}")
    found = told.unique().to_pylist()
    number = None not in found and all(label.isdecimal() for label in found)
    classes = () if None in found else tuple(sorted(found, key=int if number else str))
    labels = {label: i for i, label in enumerate(classes)}

    def source(i: int) -> Source:
        shard = shards[shard_of[i]]
        read = partial(read_slice, root / shard, int(offsets[i]), int(lengths[i]))
        label = labels.get(told[i].as_py())
        return Source(f"{shard}/{text(names[i])}", label, partial(open_image, read, size))

    return classes, divided(names, (given.get(shards[int(k)]) for k in shard_of), source)


def named_split(shard: str) -> Split | None:
    """Find the split that a word of a shard's path names.

    >>> named_split("imagenet-val-000012.tar"), named_split("train/0.tar"), named_split("shard-000000.tar")
    ('validation', 'train', None)
    """
    words = {SPLIT_NAMES[word] for word in re.split(r"[^a-z]+", shard.lower()) if word in SPLIT_NAMES}
    return words.pop() if len(words) == 1 else None


def indexed(shard: Path, cache: Path) -> pa.Table:
    """Find the images of a shard: in the cache if the shard is as it was, otherwise from its headers."""
    shard = shard.absolute()
    status = shard.stat()
    stamp = {b"shard": os.fsencode(shard), b"stamp": f"{status.st_mtime_ns} {status.st_size}".encode()}
    path = cache / "shards" / f"{sha256(os.fsencode(shard)).hexdigest()[:32]}.parquet"
    with suppress(OSError, pa.ArrowInvalid), pq.ParquetFile(path) as kept:  # what is damaged is made again
        if kept.schema_arrow.metadata == stamp:
            return kept.read()
    table = read_headers(shard).replace_schema_metadata(stamp)
    with atomic.replacing(path) as file:
        pq.write_table(table, file)
    return table


def read_headers(shard: Path) -> pa.Table:
    """Read the headers of a shard: its images' names, labels (null without one) and places in bytes."""
    images: list[tuple[bytes, str, int, int]] = []
    labels: dict[str, str] = {}
    for member in tar_files(shard):
        folder, _, base = member.name.rpartition("/")
        key, dot, ending = base.partition(".")
        key, ending = f"{folder}/{key}", dot + ending.lower()
        if ending in EXTENSIONS and not base.startswith("."):
            images.append((os.fsencode(member.name), key, member.offset_data, member.size))
        elif ending in (".cls", ".json"):
            content = read_slice(shard, member.offset_data, member.size)
            if label := read_label(ending, content, f"{shard}/{member.name}"):
                labels[key] = label
    names, keys, offsets, lengths = zip(*images, strict=True) if images else ((),) * 4
    columns = {"name": names, "label": map(labels.get, keys), "offset": offsets, "length": lengths}
    types = {"name": pa.binary(), "label": pa.string(), "offset": pa.int64(), "length": pa.int64()}
    return pa.table({name: list(column) for name, column in columns.items()}, pa.schema(types))


def read_label(ending: str, content: bytes, name: str) -> str:
    """Read the label that `KEY.cls` holds, or `label` or `cls` of `KEY.json`; empty if there is none."""
    try:
        label = content.decode().strip()
        fields = {"label": label} if ending == ".cls" else json.loads(label)
    except ValueError as error:
        raise ValueError(f"{name} holds no label: {error}") from None
    found = fields.get("label", fields.get("cls")) if isinstance(fields, dict) else None
    return "" if found is None else str(found)
