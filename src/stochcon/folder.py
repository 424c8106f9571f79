"""A folder of image files: its splits, its classes, and how each kind of file is read."""

from __future__ import annotations

import hashlib
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from stochcon.images import Source, Split, Unreadable

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


def list_folder(root: Path, size: int) -> tuple[tuple[str, ...], dict[Split, list[Source]]]:
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
    paths = image_paths(root)
    if not paths:
        raise ValueError(f"data.root: {root} has no images; their names must end in {' '.join(EXTENSIONS)}")

    tops = {path.parts[0] for path in paths}
    given = {SPLIT_FOLDERS[top] for top in tops & SPLIT_FOLDERS.keys()}
    if (
        given and not tops <= SPLIT_FOLDERS.keys()
    ):  # a class called train, or a test split about to be trained on?
        other = min(tops - SPLIT_FOLDERS.keys())
        raise ValueError(f"data.root: {root} has {other} beside split folders; it must be all splits or none")
    shares = {split: share for split, share in SHARES.items() if split not in given}
    folders = [path.parts[bool(given) : -1] for path in paths]
    labels = {name: i for i, name in enumerate(sorted({f[0] for f in folders}))} if all(folders) else {}

    splits: dict[Split, list[Source]] = {"train": [], "validation": [], "test": []}
    for path, folder in zip(paths, folders, strict=True):
        split: Split = SPLIT_FOLDERS[path.parts[0]] if given else "train"
        if split == "train":
            split = drawn_split(path.as_posix(), shares)
        label = labels[folder[0]] if labels else None
        splits[split].append(Source(path.as_posix(), label, partial(open_image, root / path, size)))
    return tuple(labels), splits


def image_paths(root: Path) -> list[Path]:
    """The image files below a folder, in order; relative to it."""
    found = (path for path in root.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
    paths = sorted(path.relative_to(root) for path in found)
    return [path for path in paths if not any(part.startswith(".") for part in path.parts)]


def drawn_split(path: str, shares: dict[Split, float]) -> Split:
    """The split that a hash of the path draws: each of `shares` with its probability, else train.

    >>> [drawn_split(f"cat/{i}.jpg", SHARES) for i in range(4)]
    ['train', 'train', 'train', 'validation']
    """
    position = int.from_bytes(hashlib.sha256(path.encode()).digest()[:8]) / 2**64
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
