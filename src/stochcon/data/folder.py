"""A folder of image files: the classes and splits that its folders name, or that a hash of the paths draws."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from stochcon.data.decode import EXTENSIONS, open_image
from stochcon.data.images import SPLITS, Source, Sources, Split

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""What the folder or the shards of a split are called."""
SHARES: dict[Split, float] = {"validation": 0.1, "test": 0.1}
"""The share of the `train` images that a split takes if nothing is given to it."""


def list_folder(root: Path, size: int) -> tuple[tuple[str, ...], dict[Split, Sources]]:
    """List the image files below a folder by class and split, ordered by path. Nothing is opened.

    - Folders `train`, `val` (or `valid`, `validation`) and `test` on top are the splits. A split without a
      folder takes a tenth of the other images (of `train`, if there is one) by a hash of the path. So an
      image stays in its split whatever is added or removed beside it.
    - The first folder below is the class. If any image lies in none, nothing is labelled.
    - A file is an image if its name ends in one of `EXTENSIONS`. Names that begin with a dot are passed over.

    Args:
        root: The folder.
        size: The side of the canvases to come, as `open_image` wants it.

    Returns:
        The names of the classes, and the images of each split.

    Raises:
        ValueError: If the folder is missing or has no images, or if other folders lie beside split folders.
    """
    if not root.is_dir():
        raise ValueError(f"data.root: {root} is not a folder; it must be a folder of images")
    names = Names(files(root, EXTENSIONS))
    if not len(names):
        raise ValueError(
            f"data.root: {root} has no images; their names must end in {' '.join(EXTENSIONS)}, or .tar for shards"
        )
    given = given_splits(root, {top: SPLIT_NAMES.get(top) for top in map(_top_folder, names)})

    def class_name(path: str) -> str:
        folders = path.split("/")[bool(given) : -1]
        return folders[0] if folders else ""

    found = set(map(class_name, names))
    classes = () if "" in found else tuple(sorted(found))
    labels = {name: i for i, name in enumerate(classes)}

    def source(i: int) -> Source:
        name = names[i]
        return Source(name, labels.get(class_name(name)), partial(open_image, (root / name).read_bytes, size))

    return classes, divided((given.get(_top_folder(name)) for name in names), names.__getitem__, source)


def list_undivided(root: Path, size: int) -> Sources:
    """List the image files below a folder, ordered by path, without classes or splits. Nothing is opened."""
    names = Names(files(root, EXTENSIONS))

    def source(i: int) -> Source:
        return Source(names[i], None, partial(open_image, (root / names[i]).read_bytes, size))

    return Sources(source, np.arange(len(names)))


class Names(Sequence[str]):
    """Names of files at a few bytes each. They are kept as bytes, since a file's name need not be UTF-8.

    >>> names = Names(["cat/1.jpg", "dog/2.jpg"])
    >>> len(names), names[1]
    (2, 'dog/2.jpg')
    """

    def __init__(self, names: Iterable[str]):
        encoded, chunks = map(os.fsencode, names), []
        while chunk := list(islice(encoded, 2**16)):  # never all of them as objects of Python
            chunks.append(pa.array(chunk, pa.binary()))
        self.packed = pa.chunked_array(chunks, pa.binary())

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, i: int) -> str:  # type: ignore[override]  # no slices
        return os.fsdecode(self.packed[i].as_py())


def files(root: Path, extensions: tuple[str, ...]) -> Iterator[str]:
    """Find the files below a folder whose names end so: relative to it, ordered by path, without hidden ones."""
    with os.scandir(root) as entries:
        visible = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    for entry in visible:
        if entry.is_dir(follow_symlinks=False):
            yield from (f"{entry.name}/{name}" for name in files(Path(entry.path), extensions))
        elif os.path.splitext(entry.name)[1].lower() in extensions and entry.is_file():
            yield entry.name


def _top_folder(path: str) -> str:
    return path.split("/", 1)[0] if "/" in path else "a file"


def given_splits(root: Path, named: dict[str, Split | None]) -> dict[str, Split]:
    """Take the splits that the names of folders or shards tell, if all of them tell one; {} if none does.

    Raises ValueError if only some tell: is that a class called train, or a test split about to be trained on?
    """
    given = {name: split for name, split in named.items() if split}
    others = named.keys() - given.keys()
    if given and others:
        raise ValueError(
            f"data.root: {root} has {min(others)} beside split folders; it must be all splits or none"
        )
    return given


def divided(
    given: Iterable[Split | None], name: Callable[[int], str], source: Callable[[int], Source]
) -> dict[Split, Sources]:
    """Divide images into splits. A split that is given no image takes its share of `train`, by a hash.

    Args:
        given: The split that each image is given.
        name: Gives an image's name, which is hashed.
        source: Gives an image.
    """
    numbers = np.fromiter((SPLITS.index(split or "train") for split in given), np.int8)
    shares = {split: share for split, share in SHARES.items() if SPLITS.index(split) not in numbers}
    for i in np.flatnonzero(numbers == 0).tolist():
        numbers[i] = SPLITS.index(drawn_split(name(i), shares))
    return {split: Sources(source, np.flatnonzero(numbers == k)) for k, split in enumerate(SPLITS)}


def drawn_split(path: str, shares: dict[Split, float]) -> Split:
    """Draw a split by a hash of the path: each of `shares` with its probability, else `train`.

    >>> [drawn_split(f"cat/{i}.jpg", SHARES) for i in range(4)]
    ['train', 'train', 'train', 'validation']
    """
    position = int.from_bytes(hashlib.sha256(os.fsencode(path)).digest()[:8]) / 2**64
    for split, share in shares.items():
        if position < share:
            return split
        position -= share
    return "train"
