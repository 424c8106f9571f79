"""Digits, Fashion-MNIST and CIFAR-10: found or downloaded, split, and refused when damaged."""

import gc
import gzip
import hashlib
import tarfile
import warnings
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torchvision.datasets import FashionMNIST

from stochcon.config import Data
from stochcon.data import array_sets
from stochcon.data.images import SPLITS
from stochcon.data.sets import load_data
from tests.data.files import refusal


def test_every_digit_is_in_one_split() -> None:
    splits = [load_data(Data(name="digits", size=8, channels=1), split) for split in SPLITS]
    assert [len(images) for images in splits] == [1077, 360, 360]
    assert {name for images in splits for name in images.ids} == {f"digits/{i}" for i in range(1797)}
    digits = load_digits()
    for images in splits:
        index = [int(name.split("/")[1]) for name in images.ids]
        assert images.labels is not None and images.labels.tolist() == digits.target[index].tolist()
        assert np.allclose(images.pixels[:, 0].numpy() / 255 * 16, digits.images[index], atol=0.04)
        assert min(images.labels.bincount()) > 0.09 * len(images)
    trained = load_data(Data(name="digits", size=8, holdout=False), "train")
    assert set(trained.ids) == {*splits[0].ids, *splits[1].ids} and len(trained) == 1077 + 360


def idx(array: NDArray[np.uint8]) -> bytes:
    shape = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()


def write_fashion(folder: Path, zipped: bool = True) -> NDArray[np.uint8]:
    """100 training images and then 10 test images, labelled 0 to 9 in turn; returns all their pixels."""
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(1).integers(0, 256, (110, 28, 28), dtype=np.uint8)
    labels = np.arange(110, dtype=np.uint8) % 10
    for prefix, some in {"train": slice(100), "t10k": slice(100, None)}.items():
        for name, array in {"images-idx3": pixels[some], "labels-idx1": labels[some]}.items():
            path = folder / (f"{prefix}-{name}-ubyte" + ".gz" * zipped)
            path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    return pixels


def check(config: Data, pixels: NDArray[np.uint8]) -> None:
    """Compare all splits with what was written: 100 training images and 10 test images, labelled in turn."""
    train, validation, test = (load_data(config, split) for split in SPLITS)
    assert [len(train), len(validation), len(test)] == [90, 10, 10]
    assert validation.labels is not None and sorted(validation.labels.tolist()) == list(range(10))
    assert {*train.ids, *validation.ids} == {f"train/{i}" for i in range(100)}
    assert test.ids == tuple(f"test/{i}" for i in range(10))
    for images in (train, validation, test):
        rows = [int(name.split("/")[1]) + 100 * (images is test) for name in images.ids]
        assert images.labels is not None and images.labels.tolist() == [row % 10 for row in rows]
        assert images.pixels.flatten(1).tolist() == pixels[rows].reshape(len(rows), -1).tolist()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("below", [".", "FashionMNIST/raw"])
def test_fashion_mnist_from_a_root(tmp_path: Path, below: str, zipped: bool) -> None:
    pixels = write_fashion(tmp_path / "root" / below, zipped)
    config = Data(name="fashion-mnist", root=tmp_path / "root", size=28, channels=1)
    check(config, pixels)
    assert len(load_data(config.model_copy(update={"holdout": False}), "train")) == 100
    assert load_data(config.model_copy(update={"size": 32, "channels": 3}), "test").pixels.shape == (10, 3, 32, 32)


def test_the_test_files_are_not_read_before_the_test_split(tmp_path: Path) -> None:
    write_fashion(tmp_path / "root")
    for path in (tmp_path / "root").glob("t10k-*"):
        path.write_bytes(b"")
    config = Data(name="fashion-mnist", root=tmp_path / "root", size=28, channels=1)
    assert len(load_data(config, "train")) == 90 and len(load_data(config, "validation")) == 10
    assert "t10k-images-idx3-ubyte.gz is damaged" in refusal(config, "test")


def test_damaged_idx_files(tmp_path: Path) -> None:
    root = tmp_path / "root"
    pixels = write_fashion(root)
    config = Data(name="fashion-mnist", root=root, size=28, channels=1)
    images, labels = root / "train-images-idx3-ubyte.gz", root / "train-labels-idx1-ubyte.gz"
    whole = images.read_bytes()
    contents = b"", b"\0\0\x08\x03", idx(pixels[:100])[:-1], b"\0\0\x0d\x03" + bytes(12)
    for content in (whole[: len(whole) // 2], *map(gzip.compress, contents)):
        images.write_bytes(content)
        assert refusal(config).startswith(f"{images} is damaged (")
    images.write_bytes(whole)
    for wrong in (np.zeros(99, np.uint8), np.full(100, 10, np.uint8)):
        labels.write_bytes(gzip.compress(idx(wrong)))
        assert refusal(config) == f"{labels} does not label {images}: it must have 100 labels from 0 to 9"
    labels.unlink()
    assert refusal(config).endswith("train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine without any data set, whose web is the folder `web`."""
    (tmp_path / "web").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "web")))
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    web = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(array_sets, "DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(array_sets, "CIFAR_URL", f"{web}/cifar-10-binary.tar.gz")
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"{web}/"])
    yield tmp_path
    server.shutdown()
    server.server_close()
    with warnings.catch_warnings():  # urllib's response to a refused download is closed by the collector only
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def test_fashion_mnist_is_downloaded_once(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Data(name="fashion-mnist", size=28, channels=1)
    assert refusal(config).startswith(
        f"data.root: not set, and fashion-mnist is not in {bare}/debian/fashion-mnist or "
    )
    (bare / "web").rmdir()
    write_fashion(bare / "web")
    files = sorted((bare / "web").iterdir())
    resources = [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in files]
    monkeypatch.setattr(FashionMNIST, "resources", resources)
    assert len(load_data(config, "train")) == 90
    for path in files:
        path.unlink()
    assert len(load_data(config, "test")) == 10


def test_fashion_mnist_of_debian_is_found(bare: Path) -> None:
    write_fashion(bare / "debian/fashion-mnist")
    assert len(load_data(Data(name="fashion-mnist"), "train")) == 90


def write_cifar(folder: Path) -> NDArray[np.uint8]:
    """Five batches of 20 rows and the test batch of 10; returns all rows."""
    folder.mkdir(parents=True)
    rows = np.random.default_rng(2).integers(0, 256, (110, 3073), dtype=np.uint8)
    rows[:, 0] = np.arange(110) % 10
    for i in range(5):
        rows[20 * i : 20 * i + 20].tofile(folder / f"data_batch_{i + 1}.bin")
    rows[100:].tofile(folder / "test_batch.bin")
    return rows


@pytest.mark.parametrize("below", [".", "cifar-10-batches-bin"])
def test_cifar_from_a_root(tmp_path: Path, below: str) -> None:
    rows, config = write_cifar(tmp_path / "root" / below), Data(name="cifar10", root=tmp_path / "root")
    check(config, rows[:, 1:])
    assert load_data(config, "train").classes[3] == "cat"


def test_damaged_cifar(tmp_path: Path) -> None:
    root = tmp_path / "root"
    rows = write_cifar(root)
    path = root / "data_batch_3.bin"
    for content in (b"", rows[:1].tobytes()[:-1], bytes([10]) + bytes(3072)):
        path.write_bytes(content)
        assert refusal(Data(name="cifar10", root=root)).startswith(f"{path} is damaged (")
    assert len(load_data(Data(name="cifar10", root=root), "test")) == 10


def test_cifar_is_downloaded_and_checked(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(bare / "new" / "cifar-10-batches-bin")
    archive = bare / "web" / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(bare / "new" / "cifar-10-batches-bin", "cifar-10-batches-bin")
    assert refusal(Data(name="cifar10")).endswith("cannot be downloaded: File not found or corrupted.")
    monkeypatch.setattr(array_sets, "CIFAR_MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert len(load_data(Data(name="cifar10"), "train")) == 90
    archive.unlink()
    assert len(load_data(Data(name="cifar10"), "test")) == 10
