"""Every named set and any folder: what is in it, how it is split, and what happens to bad files."""

from __future__ import annotations

import gc
import gzip
import hashlib
import io
import re
import tarfile
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import FashionMNIST
from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

from stochcon.config import Data
from stochcon.data import array_sets
from stochcon.data.decode import canvas
from stochcon.data.folder import SHARES, drawn_split, list_folder
from stochcon.data.images import SPLITS, Split, raw_bits, stratified_subset
from stochcon.data.photographs import GAP, PHOTOGRAPHS, list_patches, photograph
from stochcon.data.sets import load


def message(config: Data, split: Split = "train") -> str:
    """The one line that a user sees."""
    with pytest.raises(ValueError) as error:
        load(config, split)
    assert "\n" not in str(error.value)
    return str(error.value)


# evenly


@given(st.lists(st.integers(0, 4), max_size=60), st.integers(0, 70), st.integers(0, 70))
def test_evenly_draws_from_every_class_alike(labels: list[int], count: int, other: int) -> None:
    chosen = stratified_subset(labels, count)
    assert chosen == sorted(set(chosen)) and len(chosen) == min(count, len(labels))
    drawn, there = Counter(labels[i] for i in chosen), Counter(labels)
    most = max(drawn.values(), default=0)
    assert all(drawn[c] >= min(there[c], most - 1) for c in there)
    assert set(stratified_subset(labels, min(count, other))) <= set(chosen)


# photographs


Patches = dict[Split, list[tuple[str, int, int, int]]]


@pytest.fixture(scope="module")
def patches() -> Patches:
    """Photograph, left, top and side of every patch, read off its id."""
    found: Patches = {}
    for split in SPLITS:
        parts = [source.id.split("/") for source in list_patches(split)]
        found[split] = [(name, int(x), int(y), int(side)) for name, x, y, side in parts]
    return found


def test_patches_are_as_many_for_every_photograph(patches: Patches) -> None:
    for split, each in zip(SPLITS, (1000, 200, 200), strict=True):
        assert Counter(name for name, *_ in patches[split]) == dict.fromkeys(PHOTOGRAPHS, each)
        assert len(set(patches[split])) == 18 * each
        assert {side for *_, side in patches[split]} == set(range(32, 73))


def test_no_pixel_of_a_photograph_is_in_two_splits(patches: Patches) -> None:
    for name in PHOTOGRAPHS:
        width, height = photograph(name).size
        taken = {}
        for split in SPLITS:
            pixels = np.zeros((height, width), bool)
            for _, x, y, side in (patch for patch in patches[split] if patch[0] == name):
                assert x >= 0 and y >= 0 and x + side <= width and y + side <= height
                pixels[y : y + side, x : x + side] = True
            taken[split] = np.flatnonzero(pixels.any(axis=0 if width >= height else 1))
        assert taken["train"].min() - taken["validation"].max() > GAP
        assert taken["test"].min() - taken["train"].max() > GAP
        shares = [np.ptp(taken[split]) / max(width, height) for split in SPLITS]
        assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.05)


def test_patches_are_the_same_on_every_machine(patches: Patches) -> None:
    digest = hashlib.sha256(repr([patches[split] for split in SPLITS]).encode()).hexdigest()
    assert digest[:16] == "35a8b4278eef6c9d"


def test_a_patch_is_what_its_id_says() -> None:
    images = load(Data(limit=180), "train")
    assert images.pixels.shape == (180, 3, 32, 32) and images.pixels.dtype == torch.uint8
    assert images.labels is not None and images.labels.bincount().tolist() == [10] * 18
    assert images.classes == tuple(PHOTOGRAPHS) and images.skipped == () and len(images) == 180
    for pixels, label, name in zip(images.pixels, images.labels, images.ids, strict=True):
        photo, x, y, side = name.split("/")
        assert images.classes[label] == photo
        whole = pil_to_tensor(photograph(photo).convert("RGB"))
        patch = whole[:, int(y) : int(y) + int(side), int(x) : int(x) + int(side)]
        expected = resize(patch, [32, 32], antialias=True)
        assert (pixels.int() - expected.int()).abs().max() <= 1


def test_no_patch_is_of_one_flat_colour() -> None:
    images = load(Data(), "validation")
    assert images.pixels.shape == (3600, 3, 32, 32)
    assert images.pixels.flatten(1).float().std(dim=1).min() > 0.5


def test_grey_and_colour() -> None:
    grey, colour = load(Data(limit=18, channels=1), "train"), load(Data(limit=18), "train")
    assert grey.pixels.shape == (18, 1, 32, 32) and raw_bits(grey) == 32 * 32 * 8
    assert raw_bits(colour) == 3 * 32 * 32 * 8
    camera, cat = (list(PHOTOGRAPHS).index(name) for name in ("camera", "cat"))
    assert torch.equal(colour.pixels[camera], grey.pixels[camera].expand(3, 32, 32))
    assert not torch.equal(colour.pixels[cat][0], colour.pixels[cat][2])


# digits


def test_digits_are_all_in_one_split() -> None:
    splits = [load(Data(name="digits", size=8, channels=1), split) for split in SPLITS]
    assert [len(images) for images in splits] == [1077, 360, 360]
    assert {name for images in splits for name in images.ids} == {f"digits/{i}" for i in range(1797)}
    digits = load_digits()
    for images in splits:
        index = [int(name.split("/")[1]) for name in images.ids]
        assert images.labels is not None and images.labels.tolist() == digits.target[index].tolist()
        assert np.allclose(images.pixels[:, 0].numpy() / 255 * 16, digits.images[index], atol=0.04)
        assert min(images.labels.bincount()) > 0.09 * len(images)
    assert load(Data(name="digits"), "test").pixels.shape == (360, 3, 32, 32)


def test_without_holdout_the_validation_images_are_trained_on() -> None:
    config = Data(name="digits", size=8, holdout=False)
    train, validation = load(config, "train"), load(config, "validation")
    assert len(train) == 1077 + 360 and set(validation.ids) < set(train.ids)
    assert not set(load(config, "test").ids) & set(train.ids)


# Fashion-MNIST


def idx(array: NDArray[np.uint8]) -> bytes:
    shape = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()


def write_fashion(folder: Path, zipped: bool = True) -> dict[str, NDArray[np.uint8]]:
    folder.mkdir(parents=True)
    random = np.random.default_rng(1)
    arrays = {}
    for prefix, n in {"train": 100, "t10k": 20}.items():
        arrays[f"{prefix}-images-idx3-ubyte"] = random.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        arrays[f"{prefix}-labels-idx1-ubyte"] = np.arange(n, dtype=np.uint8) % 10
    for name, array in arrays.items():
        content = idx(array)
        path = folder / (name + ".gz" * zipped)
        path.write_bytes(gzip.compress(content) if zipped else content)
    return arrays


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("below", [".", "FashionMNIST/raw"])
def test_fashion_mnist_from_a_root(tmp_path: Path, below: str, zipped: bool) -> None:
    arrays = write_fashion(tmp_path / "root" / below, zipped)
    config = Data(name="fashion-mnist", root=tmp_path / "root", size=28, channels=1)
    train, validation, test = (load(config, split) for split in SPLITS)
    assert [len(train), len(validation), len(test)] == [90, 10, 20]
    assert validation.labels is not None and sorted(validation.labels.tolist()) == list(range(10))
    assert set(train.ids) | set(validation.ids) == {f"train/{i}" for i in range(100)}
    assert test.ids == tuple(f"test/{i}" for i in range(20))
    for images in (train, validation, test):
        for pixels, name in zip(images.pixels, images.ids, strict=True):
            prefix = "t10k" if name.startswith("test") else "train"
            assert (pixels[0].numpy() == arrays[f"{prefix}-images-idx3-ubyte"][int(name.split("/")[1])]).all()
    assert len(load(config.model_copy(update={"holdout": False}), "train")) == 100
    assert load(config.model_copy(update={"size": 32, "channels": 3}), "test").pixels.shape == (20, 3, 32, 32)


def test_the_test_files_are_not_read_before_the_test_split(tmp_path: Path) -> None:
    write_fashion(tmp_path / "root")
    for path in (tmp_path / "root").glob("t10k-*"):
        path.write_bytes(b"")
    config = Data(name="fashion-mnist", root=tmp_path / "root", size=28, channels=1)
    assert len(load(config, "train")) == 90 and len(load(config, "validation")) == 10
    assert "t10k-images-idx3-ubyte.gz is damaged" in message(config, "test")


def test_damaged_idx_files(tmp_path: Path) -> None:
    root = tmp_path / "root"
    arrays = write_fashion(root)
    config = Data(name="fashion-mnist", root=root, size=28, channels=1)
    images, labels = root / "train-images-idx3-ubyte.gz", root / "train-labels-idx1-ubyte.gz"
    whole = images.read_bytes()

    images.write_bytes(whole[: len(whole) // 2])
    assert message(config) == (
        f"{images} is damaged (Compressed file ended before the end-of-stream marker was reached); "
        "delete it, or put a whole one there"
    )
    for content in (
        b"",
        b"\0\0\x08\x03",
        idx(arrays["train-images-idx3-ubyte"])[:-1],
        b"\0\0\x0d\x03" + bytes(12),
    ):
        images.write_bytes(gzip.compress(content))
        assert (
            message(config)
            == f"{images} is damaged (no idx file of its size); delete it, or put a whole one there"
        )
    images.write_bytes(whole)
    for wrong in (np.zeros(99, np.uint8), np.full(100, 10, np.uint8)):
        labels.write_bytes(gzip.compress(idx(wrong)))
        assert message(config) == f"{labels} does not label {images}: it must have 100 labels from 0 to 9"
    labels.unlink()
    assert message(config) == (
        f"data.root: {root} does not have fashion-mnist; it must have the files "
        "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz"
    )


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
    assert message(config).startswith(
        f"data.root: not set, and fashion-mnist is not in {bare}/debian/fashion-mnist "
        f"or {bare}/debian/fashion-mnist/FashionMNIST/raw or data or data/FashionMNIST/raw "
        f"or {bare}/.cache/stochcon or {bare}/.cache/stochcon/FashionMNIST/raw and cannot be downloaded: "
    )
    (bare / "web").rmdir()
    write_fashion(bare / "web")
    files = sorted((bare / "web").iterdir())
    resources = [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in files]
    monkeypatch.setattr(FashionMNIST, "resources", resources)
    assert len(load(config, "train")) == 90
    for path in files:
        path.unlink()
    assert len(load(config, "test")) == 20


@pytest.mark.parametrize("place", ["debian/fashion-mnist", "data/FashionMNIST/raw"])
def test_fashion_mnist_is_found(bare: Path, place: str) -> None:
    write_fashion(bare / place)
    assert len(load(Data(name="fashion-mnist"), "train")) == 90


# CIFAR-10


def write_cifar(folder: Path) -> NDArray[np.uint8]:
    """Five batches of 20 rows and the test batch of 10; returns the rows of the five."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(2)
    rows = random.integers(0, 256, (110, 3073), dtype=np.uint8)
    rows[:, 0] = np.arange(110) % 10
    for i in range(5):
        rows[20 * i : 20 * i + 20].tofile(folder / f"data_batch_{i + 1}.bin")
    rows[100:].tofile(folder / "test_batch.bin")
    return rows


@pytest.mark.parametrize("below", [".", "cifar-10-batches-bin"])
def test_cifar_from_a_root(tmp_path: Path, below: str) -> None:
    rows = write_cifar(tmp_path / "root" / below)
    config = Data(name="cifar10", root=tmp_path / "root")
    train, validation, test = (load(config, split) for split in SPLITS)
    assert [len(train), len(validation), len(test)] == [90, 10, 10]
    assert train.classes[3] == "cat" and validation.ids[0].startswith("train/")
    assert test.pixels.flatten(1).tolist() == rows[100:, 1:].tolist()
    for images in (train, validation):
        index = [int(name.split("/")[1]) for name in images.ids]
        assert images.labels is not None and images.labels.tolist() == rows[index, 0].tolist()
        assert images.pixels.flatten(1).tolist() == rows[index, 1:].tolist()


def test_damaged_cifar(tmp_path: Path) -> None:
    root = tmp_path / "root"
    rows = write_cifar(root)
    path = root / "data_batch_3.bin"
    for content in (b"", rows[:1].tobytes()[:-1], bytes([10]) + bytes(3072)):
        path.write_bytes(content)
        assert message(Data(name="cifar10", root=root)) == (
            f"{path} is damaged (no rows of 1 + 3072 bytes); delete it, or put a whole one there"
        )
    assert len(load(Data(name="cifar10", root=root), "test")) == 10


def test_cifar_is_downloaded_and_checked(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(bare / "new" / "cifar-10-batches-bin")
    archive = bare / "web" / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(bare / "new" / "cifar-10-batches-bin", "cifar-10-batches-bin")
    assert message(Data(name="cifar10")) == (
        "data.root: not set, and cifar10 is not in data or data/cifar-10-batches-bin or "
        f"{bare}/.cache/stochcon or {bare}/.cache/stochcon/cifar-10-batches-bin "
        "and cannot be downloaded: File not found or corrupted."
    )
    monkeypatch.setattr(array_sets, "CIFAR_MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert len(load(Data(name="cifar10"), "train")) == 90
    archive.unlink()
    assert len(load(Data(name="cifar10"), "test")) == 10


# folder


def picture(path: Path, colour: str = "red", size: tuple[int, int] = (20, 14)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def only_train(root: Path) -> Path:
    """The folder `train` of a new data set, from which no other split takes its share."""
    picture(root / "val" / "class" / "0.png")
    picture(root / "test" / "class" / "0.png")
    (root / "train").mkdir()
    return root / "train"


def folder(root: Path, **changes: object) -> Data:
    return Data.model_validate({"name": "folder", "root": root, "size": 8, **changes})


def test_class_folders(tmp_path: Path) -> None:
    for name in ("zebra", "ant"):
        for i in range(60):
            picture(tmp_path / name / "deeper" / f"{i}.PNG", "red" if name == "ant" else "blue")
    (tmp_path / "ant" / "notes.txt").write_text("not an image")
    (tmp_path / "ant" / ".DS_Store").write_bytes(b"")
    (tmp_path / "ant" / "._0.png").write_bytes(b"made by a file manager")
    (tmp_path / ".thumbnails").mkdir()
    (tmp_path / ".thumbnails" / "0.png").write_bytes(b"")
    (tmp_path / "ant" / "album.jpg").mkdir()
    splits = [load(folder(tmp_path), split) for split in SPLITS]
    assert sum(map(len, splits)) == 120 and len({name for images in splits for name in images.ids}) == 120
    for images in splits:
        assert (
            images.classes == ("ant", "zebra")
            and images.skipped == ()
            and list(images.ids) == sorted(images.ids)
        )
        assert images.labels is not None
        for pixels, label, name in zip(images.pixels, images.labels, images.ids, strict=True):
            assert name.startswith(images.classes[label])
            assert pixels[:, 0, 0].tolist() == ([255, 0, 0] if label == 0 else [0, 0, 255])


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    for i in range(30):
        picture(tmp_path / f"{i}.png")
    images = load(folder(tmp_path), "train")
    assert images.labels is None and images.classes == ()
    picture(tmp_path / "some" / "31.png")
    assert load(folder(tmp_path), "train").labels is None
    assert len(load(folder(tmp_path, limit=7), "train")) == 7


def test_split_folders(tmp_path: Path) -> None:
    for i in range(40):
        picture(tmp_path / "train" / "cat" / f"{i}.png")
    picture(tmp_path / "val" / "cat" / "v.png")
    picture(tmp_path / "test" / "dog" / "t.png")
    train, validation, test = (load(folder(tmp_path), split) for split in SPLITS)
    assert len(train) == 40 and validation.ids == ("val/cat/v.png",) and test.ids == ("test/dog/t.png",)
    assert train.classes == test.classes == ("cat", "dog")
    assert test.labels is not None and test.labels.tolist() == [1]
    assert load(folder(tmp_path, holdout=False), "train").ids[-1] == "val/cat/v.png"

    (tmp_path / "val" / "cat" / "v.png").unlink()
    train, validation, test = (load(folder(tmp_path), split) for split in SPLITS)
    assert 0 < len(validation) < 12 and len(train) + len(validation) == 40 and len(test) == 1
    assert all(name.startswith("train/") for name in validation.ids)


def test_split_folders_do_not_mix_with_others(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a.png")
    picture(tmp_path / "test" / "a.png")
    picture(tmp_path / "extra" / "a.png")
    line = f"data.root: {tmp_path} has extra beside split folders; it must be all splits or none"
    assert message(folder(tmp_path)) == line


def test_the_test_folder_is_not_read_before_the_test_split(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        picture(tmp_path / name / "a.png")
    (tmp_path / "test" / "a.png").write_bytes(b"unreadable")
    assert load(folder(tmp_path), "train").skipped == load(folder(tmp_path), "validation").skipped == ()
    assert message(folder(tmp_path), "test").endswith("the first is test/a.png: not an image")


@settings(max_examples=25)
@given(st.sets(st.integers(0, 99), min_size=1), st.sets(st.integers(0, 99)))
def test_an_image_stays_in_its_split(some: set[int], others: set[int]) -> None:
    def splits_of(root: Path) -> dict[str, Split]:
        _, splits = list_folder(root, 8)
        return {source.id: split for split in SPLITS for source in splits[split]}

    with TemporaryDirectory() as name:
        for i in some:
            Path(name, f"{i}.jpg").touch()
        before = splits_of(Path(name))
        for i in others:
            Path(name, f"{i}.jpg").touch()
        after = splits_of(Path(name))
    assert len(before) == len(some) and len(after) == len(some | others)
    assert before.items() <= after.items()


def test_shares_of_the_splits() -> None:
    drawn = Counter(drawn_split(f"image-{i}.jpg", SHARES) for i in range(20000))
    assert [drawn[split] / 20000 for split in SPLITS] == pytest.approx([0.8, 0.1, 0.1], abs=0.01)


MODES: dict[str, tuple[str, str, float | tuple[int, ...], tuple[int, int, int]]] = {
    # mode, extension, colour in that mode, what must be seen
    "bilevel": ("1", "png", 1, (255, 255, 255)),
    "grey": ("L", "jpg", 100, (100, 100, 100)),
    "colour": ("RGB", "bmp", (10, 200, 30), (10, 200, 30)),
    "grey, transparent": ("LA", "png", (0, 0), (255, 255, 255)),
    "grey, half transparent": ("LA", "png", (0, 128), (127, 127, 127)),
    "colour, transparent": ("RGBA", "webp", (255, 0, 0, 0), (255, 255, 255)),
    "colour, half transparent": ("RGBA", "png", (255, 0, 0, 51), (255, 204, 204)),
    "print colours": ("CMYK", "jpg", (0, 255, 255, 0), (255, 0, 0)),
    "16-bit grey, png": ("I;16", "png", 257 * 77, (77, 77, 77)),
    "16-bit grey, tif": ("I;16", "tif", 65535, (255, 255, 255)),
    "16-bit grey, pgm": ("I;16", "pgm", 257 * 200, (200, 200, 200)),
    "32-bit grey": ("I", "tif", 257 * 30, (30, 30, 30)),
}


@pytest.mark.parametrize("kind", MODES)
def test_modes(tmp_path: Path, kind: str) -> None:
    mode, extension, colour, seen = MODES[kind]
    Image.new(mode, (20, 14), colour).save(only_train(tmp_path) / f"a.{extension}")
    pixels = load(folder(tmp_path), "train").pixels
    assert (pixels.int() - torch.tensor(seen)[:, None, None]).abs().max() <= 2


def test_palettes(tmp_path: Path) -> None:
    image = Image.new("P", (20, 14), 1)
    image.putpalette([9, 9, 9, 10, 200, 30])
    train = only_train(tmp_path)
    image.save(train / "a.gif")
    image.save(train / "b.png", transparency=1)
    image.save(train / "c.png", transparency=bytes([255, 51]))
    pixels = load(folder(tmp_path), "train").pixels
    assert pixels[:, :, 4, 4].tolist() == [[10, 200, 30], [255, 255, 255], [206, 244, 210]]


@pytest.mark.parametrize("extension", ["png", "tif", "webp"])
def test_exif_rotation(tmp_path: Path, extension: str) -> None:
    upright = np.kron(np.array([[0, 80], [160, 240]], np.uint8), np.ones((8, 8), np.uint8))
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }
    train = only_train(tmp_path)
    for orientation, pixels in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = Image.fromarray(np.ascontiguousarray(pixels))
        image.save(train / f"{orientation}.{extension}", exif=exif, lossless=True)
    seen = load(folder(tmp_path, size=16, channels=1), "train").pixels[:, 0].numpy()
    assert all((pixels == upright).all() for pixels in seen)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.sampled_from([1, 3]))
def test_a_canvas_of_any_size(width: int, height: int, size: int, channels: int) -> None:
    pixels = canvas(Image.new("RGB", (width, height), (7, 7, 7)), size, channels)
    assert pixels.shape == (channels, size, size) and (pixels == 7).all()


def test_a_canvas_is_the_centre_of_the_image_antialiased() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 120, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    expected = center_crop(resize(pil_to_tensor(image), [10], antialias=True), [10]).numpy()
    assert np.abs(canvas(image, 10, 3).astype(int) - expected).max() <= 1
    assert (canvas(image, 40, 3).transpose(1, 2, 0) == pixels[:, 40:80]).all()


def test_a_large_jpeg_looks_the_same_when_decoded_smaller(tmp_path: Path) -> None:
    whole = photograph("coffee")
    whole.resize((1500, 1000)).save(only_train(tmp_path) / "a.jpg", quality=95)
    seen = load(folder(tmp_path, size=32), "train").pixels[0].numpy().astype(int)
    assert np.abs(seen - canvas(whole, 32, 3)).mean() < 2


def spoil(root: Path) -> dict[str, str]:
    """One file of each kind that cannot be read, and the reason that must be given."""
    picture(root / "whole.png", size=(300, 200))
    picture(root / "whole.jpg", size=(300, 200))
    png, jpg = (root / "whole.png").read_bytes(), (root / "whole.jpg").read_bytes()
    (root / "cut.jpg").write_bytes(jpg[: len(jpg) // 2])
    (root / "cut.png").write_bytes(png[: len(png) // 2])
    (root / "empty.jpg").write_bytes(b"")
    (root / "float.tif").write_bytes(tiff(np.zeros((4, 4), np.float32)))
    (root / "text.png").write_text("hello")
    (root / "wide.tif").write_bytes(tiff(np.full((4, 4), 65536, np.int32)))
    return {
        "cut.jpg": "image file is truncated",
        "cut.png": "image file is truncated",
        "empty.jpg": "an empty file",
        "float.tif": "floating-point pixels, of unknown range",
        "text.png": "not an image",
        "wide.tif": "32-bit pixels, of unknown range",
    }


def tiff(array: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "tiff")
    return buffer.getvalue()


def test_unreadable_files_are_skipped_and_listed(tmp_path: Path) -> None:
    reasons = spoil(only_train(tmp_path))
    images = load(folder(tmp_path, max_bad=0.75), "train")
    assert images.ids == ("train/whole.jpg", "train/whole.png") and images.pixels.shape == (2, 3, 8, 8)
    skipped = {path: re.sub(r" \(.*\)", "", reason) for path, reason in images.skipped}
    assert skipped == {f"train/{name}": reason for name, reason in reasons.items()}
    assert [path for path, _ in images.skipped] == sorted(skipped)


def test_too_many_unreadable_files(tmp_path: Path) -> None:
    train = only_train(tmp_path)
    for i in range(10):
        picture(train / "a" / f"{i}.png")
    (train / "a" / "8.png").write_bytes(b"")
    (train / "a" / "9.png").write_bytes(b"")
    assert len(load(folder(tmp_path, max_bad=0.2), "train")) == 8
    assert message(folder(tmp_path)) == (
        f"2 of 10 train images of {tmp_path} cannot be read, more than data.max_bad = 0.1 "
        "allows; the first is train/a/8.png: an empty file"
    )


def test_decompression_bombs_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = only_train(tmp_path)
    picture(train / "fine.png", size=(10, 10))
    picture(train / "large.png", size=(12, 12))
    picture(train / "larger.png", size=(20, 20))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    images = load(folder(tmp_path, max_bad=0.9), "train")
    assert images.ids == ("train/fine.png",)
    assert images.skipped == (
        (
            "train/large.png",
            "more than 100 pixels",
        ),
        (
            "train/larger.png",
            "more than 100 pixels",
        ),
    )


def test_folders_without_images(tmp_path: Path) -> None:
    assert message(Data(name="folder")) == (
        "data.root: not set; data.name = folder needs a folder of images there"
    )
    missing = tmp_path / "missing"
    assert message(folder(missing)) == f"data.root: {missing} is not a folder; it must be a folder of images"
    (tmp_path / "notes.txt").write_text("no image")
    assert message(folder(tmp_path)) == (
        f"data.root: {tmp_path} has no images; their names must end in "
        ".bmp .gif .jpeg .jpg .pgm .png .ppm .tif .tiff .webp, or .tar for shards"
    )
    picture(tmp_path / "0.png")
    assert drawn_split("0.png", SHARES) != "test"
    assert message(folder(tmp_path), "test") == (
        f"data.root: {tmp_path} has too few images, none for test; "
        "add more, or sort them into folders train, validation and test"
    )


def test_limit_is_even_over_classes_and_leaves_the_rest_unread(tmp_path: Path) -> None:
    train = only_train(tmp_path)
    for name, n in {"a": 30, "b": 12}.items():
        for i in range(n):
            picture(train / name / f"{i}.png")
    few, more = load(folder(tmp_path, limit=6), "train"), load(folder(tmp_path, limit=20), "train")
    assert few.labels is not None and few.labels.bincount().tolist() == [3, 3]
    assert more.labels is not None and more.labels.bincount().tolist() == [10, 10]
    assert set(few.ids) < set(more.ids)
    for path in train.rglob("*.png"):
        if path.relative_to(tmp_path).as_posix() not in few.ids:
            path.write_bytes(b"")
    assert load(folder(tmp_path, limit=6), "train").skipped == ()
