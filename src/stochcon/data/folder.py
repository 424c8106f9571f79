"""A folder of image files or of tar shards: its splits, its classes, and how each kind of file is read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from stochcon.data.images import Source, Split, Unreadable
from stochcon.data.listing import Names, Sources

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
SHARES: dict[Split, float] = {"validation": 0.1, "test": 0.1}
"""Share of the images that a split without a folder of its own takes from those of `train`."""
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def list_folder(root: Path, size: int) -> tuple[tuple[str, ...], dict[Split, Sequence[Source]]]:
    """Class names, and for each split the image files below `root`, by path; nothing is opened.

    - Folders `train`, `val` (or `valid`, `validation`) and `test` on top are the splits. A split that
      has no folder takes a tenth of the other images (of `train`, if there is one) by a hash of the
      path, so that an image stays in its split whatever is added or removed beside it.
    - The first folder below is the class; if any image lies in none, nothing is labelled.
    - A file is an image if its name ends as one; names that begin with a dot are passed over.

    Raises ValueError if the folder is missing or has no images, or mixes split folders with others.
    """
    if not root.is_dir():
        raise ValueError(f"data.root: {root} is not a folder; it must be a folder of images")
    names = Names.of(files(root, EXTENSIONS))
    if not len(names):
        raise ValueError(
            f"data.root: {root} has no images; their names must end in {' '.join(EXTENSIONS)}, or .tar for shards"
        )
    given = given_splits(root, {top: SPLIT_FOLDERS.get(top) for top in map(top_folder, names)})
    levels = (name.split("/")[bool(given) :] for name in names)
    firsts = {folders[0] if len(folders) > 1 else None for folders in levels}
    classes = tuple(sorted(name for name in firsts if name)) if None not in firsts else ()
    labels = {name: i for i, name in enumerate(classes)}

    def source(i: int) -> Source:
        name = names[i]
        label = labels[name.split("/")[bool(given)]] if labels else None
        return Source(name, label, partial(open_image, root / name, size))

    return classes, divided(names, source, lambda i: given.get(top_folder(names[i])))


def top_folder(name: str) -> str:
    return name.split("/", 1)[0] if "/" in name else "a file"


def given_splits(root: Path, named: dict[str, Split | None]) -> dict[str, Split]:
    """The splits that the names of folders or shards tell: of all of them, or of none.

    Raises ValueError if only some tell: a class called train, or a test split about to be trained on?
    """
    given = {name: split for name, split in named.items() if split}
    others = named.keys() - given.keys()
    if given and others:
        raise ValueError(
            f"data.root: {root} has {min(others)} beside split folders; it must be all splits or none"
        )
    return given


def divided(
    names: Names, source: Callable[[int], Source], given: Callable[[int], Split | None]
) -> dict[Split, Sequence[Source]]:
    """The images of each split: as given, and where no image is given to a split, as a hash draws."""
    told = np.array([SPLITS.index(given(i) or "train") for i in range(len(names))], np.int8)
    shares = {split: share for split, share in SHARES.items() if not (told == SPLITS.index(split)).any()}
    for i in np.flatnonzero(told == 0).tolist():
        told[i] = SPLITS.index(drawn_split(names[i], shares))
    return {split: Sources(source, np.flatnonzero(told == number)) for number, split in enumerate(SPLITS)}


def files(root: Path, extensions: tuple[str, ...]) -> Iterator[str]:
    """The files below a folder that end so, ordered by path and relative to it; hidden ones are passed over."""
    with os.scandir(root) as entries:
        visible = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    for entry in visible:
        if entry.is_dir(follow_symlinks=False):
            yield from (f"{entry.name}/{name}" for name in files(Path(entry.path), extensions))
        elif os.path.splitext(entry.name)[1].lower() in extensions and entry.is_file():
            yield entry.name


def drawn_split(path: str, shares: dict[Split, float]) -> Split:
    """The split that a hash of the path draws: each of `shares` with its probability, else train.

    >>> [drawn_split(f"cat/{i}.jpg", SHARES) for i in range(4)]
    ['train', 'train', 'train', 'validation']
    """
    position = int.from_bytes(hashlib.sha256(os.fsencode(path)).digest()[:8]) / 2**64
    for split, share in shares.items():
        if position < share:
            return split
        position -= share
    return "train"


def open_image(file: Path | BytesIO, size: int) -> Image.Image:
    """The first picture of a file as 8-bit RGB, upright, at least size x size if the file has as much.

    Raises Unreadable.
    """
    try:
        with Image.open(file) as image:
            image.draft(None, (2 * size, 2 * size))  # a large JPEG is decoded at a fraction of its size
            ImageOps.exif_transpose(image, in_place=True)
            return plain(image)
    except Unreadable:
        raise
    except UnidentifiedImageError:
        length = len(file.getbuffer()) if isinstance(file, BytesIO) else file.stat().st_size
        raise Unreadable("not an image" if length else "an empty file") from None
    except Exception as error:  # on damaged bytes a decoder may raise anything
        raise Unreadable(" ".join(str(error).split()) or type(error).__name__) from error


def plain(image: Image.Image) -> Image.Image:
    """Any of Pillow's modes as 8-bit RGB: 16-bit grey scaled, transparency laid on white.

    Colour profiles are not applied. Raises Unreadable for a range of grey that is not known.
    """
    if image.mode == "F":
        raise Unreadable("floating-point pixels, of unknown range")
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise Unreadable("32-bit pixels, of unknown range")
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
