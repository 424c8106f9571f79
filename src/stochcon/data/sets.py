"""A name or a folder -> images as uint8 canvases, labels, class names.

Every set is first a list of images that are not yet open. So a split is read only when it is asked for
(the test split once, at the end), and a limit costs no more than the images it leaves.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import FashionMNIST
from torchvision.datasets.utils import download_and_extract_archive

from stochcon.config import Data
from stochcon.data.folder import list_folder
from stochcon.data.images import Images, Source, Split, evenly, raw_bits, read
from stochcon.data.listing import chained, taken
from stochcon.data.loading import Canvases
from stochcon.data.photographs import PHOTOGRAPHS, list_patches
from stochcon.data.shards import list_shards, shard_paths

__all__ = ["Images", "Split", "load", "load_training", "raw_bits"]

Listing: TypeAlias = tuple[tuple[str, ...], Sequence[Source]]
"""Class names, and the images of one split."""
Pixels: TypeAlias = NDArray[np.uint8]


def load(config: Data, split: Split) -> Images:
    """Reads one split of the named set, and of that split only.

    `config.holdout` off adds the validation images to train; `config.limit` applies to train alone.
    Labels, order and ids depend on nothing but the configuration and the files.

    Raises ValueError, in one line, if the files are missing or damaged, or if more than the share
    `config.max_bad` of a folder's images cannot be read.

    >>> images = load(Data(name="digits", size=8, channels=1), "validation")
    >>> images.pixels.shape, images.classes[:3], images.ids[:2]
    (torch.Size([360, 1, 8, 8]), ('0', '1', '2'), ('digits/13', 'digits/15'))
    """
    classes, sources = listed(config, split)
    images = read(sources, classes, config.size, config.channels)
    if len(images.skipped) > config.max_bad * len(sources):
        path, reason = images.skipped[0]
        raise ValueError(
            f"data.root: {len(images.skipped)} of {len(sources)} {split} images below {config.root} "
            f"cannot be read, more than data.max_bad = {config.max_bad:g} allows; "
            f"the first is {path}: {reason}"
        )
    return images


def load_training(config: Data) -> Canvases:
    """The training images by the batch: all in memory if `config.memory` allows, otherwise decoded on demand.

    >>> import torch
    >>> images = load_training(Data(name="digits", size=8, channels=1))
    >>> len(images), [batch.shape for batch in images.batches([torch.tensor([5, 3])])]
    (1077, [torch.Size([2, 1, 8, 8])])
    """
    return Canvases(listed(config, "train")[1], config)


def listed(config: Data, split: Split) -> Listing:
    """The classes, and the images of a split that `load` would read. Raises ValueError if there are none."""
    list_split = LISTS[config.name]
    classes, sources = list_split(config, split)
    if split == "train" and not config.holdout:
        sources = chained(sources, list_split(config, "validation")[1])
    if split == "train" and config.limit is not None:
        sources = taken(sources, evenly([source.label or 0 for source in sources], config.limit))
    if not len(sources):
        raise ValueError(
            f"data.root: {config.root} has too few images, none for {split}; "
            "add more, or sort them into folders train, validation and test"
        )
    return classes, sources


HELD_OUT = 5000
"""Validation images, evenly over the classes, from a set that comes with train and test (at most a tenth)."""
DEBIAN = Path("/usr/share/datasets")
FASHION_CLASSES = tuple(FashionMNIST.classes)
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"


def cache() -> Path:
    """Where downloads go."""
    return Path.home() / ".cache" / "stochcon"


def list_photographs(config: Data, split: Split) -> Listing:
    """Patches of 18 photographs that come with scikit-image and scikit-learn: 18,000 to train, 3,600 to
    validate and 3,600 to test."""
    return tuple(PHOTOGRAPHS), list_patches(split)


def list_digits(config: Data, split: Split) -> Listing:
    """1,797 digits of 8 x 8 pixels, from scikit-learn: 360 for each of validation and test."""
    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    test = evenly(digits.target, 360)
    validation = sorted(set(evenly(digits.target, 720)) - set(test))
    train = sorted(set(range(len(pixels))) - set(test) - set(validation))
    chosen = {"train": train, "validation": validation, "test": test}[split]
    return tuple("0123456789"), array_sources("digits", pixels, digits.target, chosen)


def list_fashion(config: Data, split: Split) -> Listing:
    """Fashion-MNIST, 70,000 grey images of 28 x 28 pixels, from the idx files of its authors."""
    stem, prefix = ("test", "t10k") if split == "test" else ("train", "train")
    names = [f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"]
    bases = [config.root] if config.root else [DEBIAN / "fashion-mnist", Path("data"), cache()]
    places = [place for base in bases for place in (base, base / "FashionMNIST" / "raw")]
    images, labels = find(names, [".gz", ""], places, config, partial(FashionMNIST, cache(), download=True))
    pixels, targets = read_idx(images, dimensions=3), read_idx(labels, dimensions=1)
    if len(pixels) != len(targets) or targets.max(initial=0) >= len(FASHION_CLASSES):
        raise ValueError(f"{labels} does not label {images}: it must have {len(pixels)} labels from 0 to 9")
    return FASHION_CLASSES, array_sources(stem, pixels, targets, held_out(targets, split))


def list_cifar(config: Data, split: Split) -> Listing:
    """CIFAR-10, 60,000 colour images of 32 x 32 pixels, from its binary version (no pickles)."""
    stem = "test" if split == "test" else "train"
    names = ["test_batch"] if split == "test" else [f"data_batch_{i}" for i in range(1, 6)]
    bases = [config.root] if config.root else [Path("data"), cache()]
    places = [place for base in bases for place in (base, base / "cifar-10-batches-bin")]
    download = partial(download_and_extract_archive, CIFAR_URL, cache(), md5=CIFAR_MD5)
    rows = np.concatenate([read_cifar(path) for path in find(names, [".bin"], places, config, download)])
    targets, pixels = rows[:, 0], rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return CIFAR_CLASSES, array_sources(stem, np.ascontiguousarray(pixels), targets, held_out(targets, split))


def list_files(config: Data, split: Split) -> Listing:
    """Images in a folder, with or without folders for classes and splits below it; or in shards."""
    if config.root is None:
        raise ValueError("data.root: not set; data.name = folder needs a folder of images there")
    shards = shard_paths(config.root)
    classes, splits = (
        list_shards(config.root, shards, config.size, cache())
        if shards
        else list_folder(config.root, config.size)
    )
    return classes, splits[split]


LISTS: dict[str, Callable[[Data, Split], Listing]] = {
    "photographs": list_photographs,
    "digits": list_digits,
    "fashion-mnist": list_fashion,
    "cifar10": list_cifar,
    "folder": list_files,
}


def array_sources(stem: str, pixels: Pixels, targets: Pixels, chosen: list[int]) -> list[Source]:
    return [Source(f"{stem}/{i}", int(targets[i]), partial(Image.fromarray, pixels[i])) for i in chosen]


def held_out(targets: Pixels, split: Split) -> list[int]:
    """Which images of a file belong to a split, where train and validation share one file."""
    everything = range(len(targets))
    if split == "test":
        return list(everything)
    validation = evenly(targets, min(HELD_OUT, len(targets) // 10))
    return validation if split == "validation" else sorted(set(everything) - set(validation))


def find(
    names: list[str], endings: list[str], places: list[Path], config: Data, download: Callable[[], object]
) -> list[Path]:
    """The named files in the first place that has them all; downloads them if no place was given."""

    def look() -> list[Path] | None:
        for place in places:
            found = [[p for p in (place / (name + e) for e in endings) if p.is_file()] for name in names]
            if all(found):
                return [paths[0] for paths in found]
        return None

    paths = look()
    if paths is None and config.root is None:
        try:
            download()
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"data.root: not set, and {config.name} is not in {' or '.join(map(str, places))} "
                f"and cannot be downloaded: {' '.join(str(error).split())}"
            ) from error
        paths = look()
    if paths is None:
        wanted = ", ".join(name + endings[0] for name in names)
        raise ValueError(
            f"data.root: {config.root} does not have {config.name}; it must have the files {wanted}"
        )
    return paths


def read_idx(path: Path, dimensions: int) -> Pixels:
    """An idx file of bytes (the format of MNIST), compressed or not. Raises ValueError if it is damaged."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, or put a whole one there") from error
    start = 4 + 4 * dimensions
    shape = [int.from_bytes(content[i : i + 4]) for i in range(4, start, 4)]
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) != start + np.prod(shape):
        raise ValueError(f"{path} is damaged (no idx file of its size); delete it, or put a whole one there")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_cifar(path: Path) -> Pixels:
    """A batch of CIFAR-10's binary version: rows of 1 label and 32 x 32 reds, greens and blues."""
    content = np.fromfile(path, np.uint8)
    if len(content) == 0 or len(content) % 3073 or content[::3073].max() >= len(CIFAR_CLASSES):
        raise ValueError(
            f"{path} is damaged (no rows of 1 + 3072 bytes); delete it, or put a whole one there"
        )
    return content.reshape(-1, 3073)
