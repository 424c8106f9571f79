"""Data sets that are one array: digits, Fashion-MNIST, CIFAR-10. They are found on the disk or downloaded."""

import gzip
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import FashionMNIST
from torchvision.datasets.utils import download_and_extract_archive

from stochcon.config import Data
from stochcon.data.images import Listing, Source, Split, stratified_subset

Pixels = NDArray[np.uint8]
HELD_OUT = 5000  # validation images, evenly over the classes, of a set that has none (at most a tenth)
DEBIAN = Path("/usr/share/datasets")
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"


def cache() -> Path:
    """Name the folder that downloads go to."""
    return Path.home() / ".cache" / "stochcon"


def list_digits(config: Data, split: Split) -> Listing:
    """1,797 digits of 8 x 8 pixels, from scikit-learn: 360 for each of validation and test."""
    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    test, held_out = (stratified_subset(digits.target, count) for count in (360, 720))
    chosen = {"train": {*range(len(pixels))} - {*held_out}, "validation": {*held_out} - {*test}, "test": test}
    return tuple("0123456789"), _sources("digits", pixels, digits.target, chosen[split])


def list_fashion(config: Data, split: Split) -> Listing:
    """Fashion-MNIST, 70,000 grey images of 28 x 28 pixels, from the idx files of its authors."""
    prefix = "t10k" if split == "test" else "train"
    names = [f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz"]
    download = partial(FashionMNIST, cache(), download=True)
    images, labels = _find(config, names, "FashionMNIST/raw", download)
    pixels, targets = _read_idx(images, dimensions=3), _read_idx(labels, dimensions=1)
    classes = tuple(FashionMNIST.classes)
    if len(pixels) != len(targets) or targets.max(initial=0) >= len(classes):
        raise ValueError(f"{labels} does not label {images}: it must have {len(pixels)} labels from 0 to 9")
    return classes, _split_sources(split, pixels, targets)


def list_cifar(config: Data, split: Split) -> Listing:
    """CIFAR-10, 60,000 colour images of 32 x 32 pixels, from its binary version (no pickles)."""
    names = ["test_batch.bin"] if split == "test" else [f"data_batch_{i}.bin" for i in range(1, 6)]
    download = partial(download_and_extract_archive, CIFAR_URL, cache(), md5=CIFAR_MD5)
    paths = _find(config, names, "cifar-10-batches-bin", download)
    rows = np.concatenate([_read_cifar(path) for path in paths])
    pixels = np.ascontiguousarray(rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return CIFAR_CLASSES, _split_sources(split, pixels, rows[:, 0])


def _sources(stem: str, pixels: Pixels, targets: Pixels, chosen: Iterable[int]) -> list[Source]:
    return [Source(f"{stem}/{i}", int(targets[i]), partial(Image.fromarray, pixels[i])) for i in sorted(chosen)]


def _split_sources(split: Split, pixels: Pixels, targets: Pixels) -> list[Source]:
    everything = range(len(targets))
    if split == "test":
        return _sources("test", pixels, targets, everything)
    validation = stratified_subset(targets, min(HELD_OUT, len(targets) // 10))
    chosen = validation if split == "validation" else {*everything} - {*validation}
    return _sources("train", pixels, targets, chosen)


def _find(config: Data, names: list[str], below: str, download: Callable[[], object]) -> list[Path]:
    """Find the named files, unzipped or not, where they all are; download them if there is no root."""
    bases = [config.root] if config.root else [DEBIAN / config.name, Path("data"), cache()]
    places = [place for base in bases for place in (base, base / below)]

    def look() -> list[Path]:
        for place in places:
            paths = [place / name for name in names]
            paths = [p if p.is_file() else p.with_name(p.name.removesuffix(".gz")) for p in paths]
            if all(map(Path.is_file, paths)):
                return paths
        return []

    found = look()
    if not found and config.root is None:
        try:
            download()
        except (OSError, RuntimeError) as error:
            missing = f"data.root: not set, and {config.name} is not in {' or '.join(map(str, places))}"
            raise ValueError(f"{missing} and cannot be downloaded: {' '.join(str(error).split())}") from error
        found = look()
    if not found:
        raise ValueError(f"data.root: {config.root} does not have {config.name}; it needs {', '.join(names)}")
    return found


def _read_idx(path: Path, dimensions: int) -> Pixels:
    """Read an idx file of bytes (the format of MNIST), compressed or not."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        start = 4 + 4 * dimensions
        shape = np.frombuffer(content, ">u4", dimensions, offset=4)
        if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) != start + shape.prod():
            raise ValueError("no idx file of its size")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise _damaged(path, error) from error
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _read_cifar(path: Path) -> Pixels:
    """Read a batch of CIFAR-10's binary version: rows of 1 label and 32 x 32 reds, greens and blues."""
    content = np.fromfile(path, np.uint8)
    if len(content) == 0 or len(content) % 3073 or content[::3073].max() >= len(CIFAR_CLASSES):
        raise _damaged(path, "no rows of 1 + 3072 bytes")
    return content.reshape(-1, 3073)


def _damaged(path: Path, reason: object) -> ValueError:
    return ValueError(f"{path} is damaged ({reason}); delete it, or put a whole one there")
