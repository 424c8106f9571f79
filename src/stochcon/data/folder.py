"""A folder of image files: folders name the classes and the splits, or a hash of the path draws the split."""

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from stochcon.data.images import EXTENSIONS, SPLITS, Source, Sources, Split, open_image

SPLIT_NAMES: dict[str, Split] = {**{s: s for s in SPLITS}, "val": "validation", "valid": "validation"}
SHARE = 0.1  # of `train`, for each of validation and test that is given no image


def list_folder(root: Path, size: int) -> tuple[tuple[str, ...], dict[Split, Sources]]:
    """List the classes, and the image files of each split, ordered by path. Nothing is opened.

    - Folders `train`, `val` (or `valid`, `validation`) and `test` on top are the splits. A split without a
      folder takes a tenth of the other images (of `train`, if there is one) by a hash of the path. So an
      image stays in its split whatever is added or removed beside it.
    - The first folder below is the class. If any image lies in none, nothing is labelled.
    """
    names = packed(files(root, EXTENSIONS))
    if not len(names):
        endings = " ".join((*EXTENSIONS, ".tar"))
        raise ValueError(f"data.root: {root} has no images or shards; their names must end in {endings}")
    given = given_splits(root, {top: SPLIT_NAMES.get(top) for top in map(_top_folder, names)})

    def class_of(name: pa.Scalar) -> str:
        return "".join(text(name).split("/")[bool(given) : -1][:1])

    found = set(map(class_of, names))
    classes = () if "" in found else tuple(sorted(found))
    labels = {name: i for i, name in enumerate(classes)}

    def source(i: int) -> Source:
        return _file(root, text(names[i]), labels.get(class_of(names[i])), size)

    return classes, divided(names, (given.get(_top_folder(name)) for name in names), source)


def list_undivided(root: Path, size: int) -> Sources:
    """List the image files below a folder, ordered by path, without classes and splits."""
    names = packed(files(root, EXTENSIONS))
    return Sources(lambda i: _file(root, text(names[i]), None, size), np.arange(len(names)))


def _file(root: Path, name: str, label: int | None, size: int) -> Source:
    return Source(name, label, partial(open_image, (root / name).read_bytes, size))


def files(root: Path, extensions: tuple[str, ...]) -> Iterator[str]:
    """Yield the paths of files that end so, relative to the folder and in order, except hidden ones."""
    return (name for name, entry in walk(root) if ending(entry.name) in extensions)


def ending(name: str) -> str:
    """Give the ending of a file's name, in small letters and with its dot."""
    _, dot, last = name.rpartition(".")
    return dot + last.lower() if dot else ""


def walk(
    root: Path | str, below: str = "", above: frozenset[str] = frozenset()
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield all files below a folder in order, each with its path relative to it, except hidden ones.

    Links are followed, but none to a folder in which it lies itself (`above`).
    """
    above |= {os.path.realpath(root)}
    with os.scandir(root) as entries:
        visible = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    for entry in visible:
        if entry.is_file():
            yield below + entry.name, entry
        elif entry.is_dir() and not (entry.is_symlink() and os.path.realpath(entry) in above):
            yield from walk(entry.path, f"{below}{entry.name}/", above)


def packed(names: Iterable[str]) -> pa.ChunkedArray:
    """Keep names at a few bytes each. They are bytes there, since a file's name need not be UTF-8."""
    encoded = map(os.fsencode, names)
    chunks = iter(lambda: list(islice(encoded, 2**16)), [])  # never all of them as objects of Python
    return pa.chunked_array([pa.array(chunk, pa.binary()) for chunk in chunks], pa.binary())


def text(name: pa.Scalar) -> str:
    """Give one of the packed names as a string."""
    return os.fsdecode(name.as_py())


def _top_folder(name: pa.Scalar) -> str:
    return text(name).rpartition("/")[0].partition("/")[0] or "a file"


def given_splits(root: Path, named: dict[str, Split | None]) -> dict[str, Split]:
    """Keep the splits that the names of folders or shards tell: of all of them, or of none.

    Raises ValueError if only some tell: is that a class called train, or a test split about to be trained on?
    """
    given = {name: split for name, split in named.items() if split}
    if given and (others := named.keys() - given.keys()):
        wanted = "make it all splits or none"
        raise ValueError(f"data.root: {root} has {min(others)} beside split folders; {wanted}")
    return given


def divided(
    names: pa.ChunkedArray, given: Iterable[Split | None], source: Callable[[int], Source]
) -> dict[Split, Sources]:
    """Divide images into splits, as they are given. A split that is given none takes its share of `train`."""
    numbers = np.fromiter((SPLITS.index(split or "train") for split in given), np.int8)
    absent = [k for k in range(1, len(SPLITS)) if k not in numbers]
    for i in np.flatnonzero(numbers == 0).tolist():
        position = int.from_bytes(sha256(names[i].as_py()).digest()[:8]) / 2**64
        part = int(position // SHARE)
        if part < len(absent):
            numbers[i] = absent[part]
    return {split: Sources(source, np.flatnonzero(numbers == k)) for k, split in enumerate(SPLITS)}
