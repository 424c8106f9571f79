"""WebDataset shards: tar files of `KEY.jpg` beside `KEY.cls` or `KEY.json`, read at random places.

The headers of a shard are read once. Where its images lie is then kept in a cache, so that shuffling and
resuming are as exact as with files.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import numpy as np
import torch
from PIL import Image
from rich.progress import track

from stochcon import runs
from stochcon.data.folder import EXTENSIONS, SPLIT_FOLDERS, divided, files, given_splits, open_image
from stochcon.data.images import Source, Split
from stochcon.data.listing import Indices, Names
from stochcon.parallel import all_gather_object, rank, world_size


class Index(NamedTuple):
    """The N images of a shard."""

    names: Names
    labels: Names
    """Empty where there is none."""
    places: Indices
    """(N, 2): offset and length in bytes."""


def shard_paths(root: Path) -> list[str]:
    """The tar files below a folder, in order; relative to it."""
    return list(files(root, (".tar",))) if root.is_dir() else []


def list_shards(
    root: Path, shards: Sequence[str], size: int, cache: Path
) -> tuple[tuple[str, ...], dict[Split, Sequence[Source]]]:
    """Class names, and the images of each split, in the shards below `root`.

    - A word of a shard's path names its split: `train/0000.tar`, `imagenet-val-000012.tar`. A split that
      no shard names takes a tenth of the images by a hash of their names, as in a folder.
    - `KEY.cls` holds the label, a number or a name; so does `label` or `cls` in `KEY.json`. If any image
      has no label, nothing is labelled.

    Raises ValueError for a shard that is damaged or compressed, or if only some shards name a split.
    """
    given = given_splits(root, {shard: named_split(shard) for shard in shards})
    mine = shards[rank() :: world_size()]
    for shard in track(mine, "reading the headers of shards", transient=True, disable=rank() > 0):
        indexed(root / shard, cache)
    all_gather_object(None)  # wait: what one process has read, all can now take from the cache
    parts = [indexed(root / shard, cache) for shard in shards]
    names, told = Names.joined([p.names for p in parts]), Names.joined([p.labels for p in parts])
    places = np.concatenate([part.places for part in parts])
    shard_of = np.repeat(np.arange(len(parts)), [len(part.names) for part in parts])
    if not len(names):
        raise ValueError(f"data.root: the shards of {root} have no images; names must end in {EXTENSIONS}")

    found = set(told)
    numbers = all(label.isdecimal() for label in found)
    classes = tuple(sorted(found, key=int if numbers else str)) if "" not in found else ()
    labels = {label: i for i, label in enumerate(classes)}

    def source(i: int) -> Source:
        shard, (offset, length) = shards[shard_of[i]], places[i].tolist()
        label = labels[told[i]] if labels else None
        return Source(f"{shard}/{names[i]}", label, partial(open_member, root / shard, offset, length, size))

    return classes, divided(names, source, lambda i: given.get(shards[shard_of[i]]))


def named_split(shard: str) -> Split | None:
    """The split that a word of a shard's path names.

    >>> named_split("imagenet-val-000012.tar"), named_split("train/0.tar"), named_split("shard-000000.tar")
    ('validation', 'train', None)
    """
    words = {SPLIT_FOLDERS[word] for word in re.split(r"[^a-z]+", shard.lower()) if word in SPLIT_FOLDERS}
    return words.pop() if len(words) == 1 else None


def open_member(shard: Path, offset: int, length: int, size: int) -> Image.Image:
    """An image inside a shard, as `open_image` gives it."""
    with open(shard, "rb") as file:
        file.seek(offset)
        return open_image(io.BytesIO(file.read(length)), size)


def indexed(shard: Path, cache: Path) -> Index:
    """The images of a shard: from the cache, if the shard is as it was, otherwise from its headers."""
    shard = shard.absolute()
    status = shard.stat()
    stamp = {"shard": str(shard), "changed": str(status.st_mtime_ns), "bytes": str(status.st_size)}
    path = cache / "shards" / f"{sha256(os.fsencode(shard)).hexdigest()[:32]}.safetensors"
    if path.exists():
        tensors, metadata = runs.read_tensors(path)
        if metadata == stamp:
            arrays = {key: tensor.numpy() for key, tensor in tensors.items()}
            names, labels = (
                Names(arrays[f"{key}.text"], arrays[f"{key}.ends"]) for key in ("names", "labels")
            )
            return Index(names, labels, arrays["places"])
    index = read_headers(shard)
    arrays = {"places": index.places}
    for key, texts in (("names", index.names), ("labels", index.labels)):
        arrays |= {f"{key}.text": texts.text, f"{key}.ends": texts.ends}
    mine = path.with_name(f"{uuid4().hex}.safetensors")  # another job may be at the same shard
    runs.write_tensors(mine, {key: torch.tensor(array) for key, array in arrays.items()}, **stamp)
    os.replace(mine, path)
    return index


def read_headers(shard: Path) -> Index:
    """The images of a shard and the labels beside them. Raises ValueError if it is no whole tar file."""
    images: list[tuple[str, str, int, int]] = []
    labels: dict[str, str] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            while member := tar.next():
                tar.members.clear()  # type: ignore[attr-defined]  # or it would keep them all
                folder, _, base = member.name.rpartition("/")
                key, dot, ending = base.partition(".")
                key, ending = f"{folder}/{key}", dot + ending.lower()
                if not member.isfile() or base.startswith("."):
                    continue
                if ending in EXTENSIONS:
                    images.append((member.name, key, member.offset_data, member.size))
                elif ending in (".cls", ".json") and (content := tar.extractfile(member)):
                    label = read_label(ending, content.read(), f"{shard}/{member.name}")
                    labels |= {key: label} if label else {}
            with open(shard, "rb") as file:
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                    raise tarfile.ReadError(f"no header at byte {tar.offset}")
    except tarfile.TarError as error:
        raise ValueError(
            f"{shard} is damaged or compressed ({error}); it must be a whole tar file, as it is shuffled in place"
        ) from None
    return Index(
        Names.of(name for name, *_ in images),
        Names.of(labels.get(key, "") for _, key, *_ in images),
        np.array([place for *_, offset, length in images for place in (offset, length)], np.int64).reshape(
            -1, 2
        ),
    )


def read_label(ending: str, content: bytes, name: str) -> str:
    """What `KEY.cls` holds, or `label` or `cls` of `KEY.json`; empty if there is none."""
    try:
        text = content.decode().strip()
        if ending == ".cls":
            return text
        fields = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{name} holds no label: {error}") from None
    label = fields.get("label", fields.get("cls")) if isinstance(fields, dict) else None
    return "" if label is None else str(label)
