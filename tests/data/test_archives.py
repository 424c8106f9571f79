"""Shards and archives have the images of the same files in a folder, and damage is refused or listed."""

import gzip
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stochcon.config import Data
from stochcon.data.archives import list_archive
from stochcon.data.images import SPLITS, read
from stochcon.data.sets import list_images, load_data, load_training
from tests.data.files import folder, jpeg, refusal, write_tar


def samples(numbers: Iterable[int], label: str = "") -> list[tuple[str, bytes]]:
    """Samples as the webdataset library writes them, with a label in KEY.cls or in a field of KEY.json."""
    made = []
    for i in numbers:
        made += [(f"{i:06}.jpg", jpeg(i)), (f"{i:06}.seg.png", b"no image of its own")]
        if label == ".cls":
            made.append((f"{i:06}.cls", b"%d" % (i % 12)))
        elif label:
            fields = {label: f"class {i % 3}", "caption": "words"}
            made.append((f"{i:06}.json", json.dumps(fields).encode()))
    return made


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_shards_are_read_at_random_places(home: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for k in range(3):
        write_tar(root / f"train/shard-{k:06}.tar", samples(range(40 * k, 40 * k + 40), ".cls"))
    write_tar(root / "test/shard-000000.tar", samples([7], ".cls"))
    images = load_data(folder(root, holdout=False), "train")
    assert len(images) == 120 and images.skipped == ()
    assert set(images.ids) == {f"train/shard-{i // 40:06}.tar/{i:06}.jpg" for i in range(120)}
    numbers = [int(name[-10:-4]) for name in images.ids]
    assert images.classes == tuple(str(c) for c in range(12)) and images.labels is not None
    assert images.labels.tolist() == [i % 12 for i in numbers]
    for pixels, i in zip(images.pixels, numbers, strict=True):
        assert np.abs(pixels[:, 4, 4].numpy().astype(int) - [i % 16 * 16, i // 16 * 16, 0]).max() <= 3
    assert load_data(folder(root), "test").ids == ("test/shard-000000.tar/000007.jpg",)
    validation, train = load_data(folder(root), "validation"), load_data(folder(root), "train")
    assert 0 < len(validation) < 40 and {*validation.ids} | {*train.ids} == {*images.ids}
    order = [torch.tensor([3, 77, 3])]
    (streamed,) = load_training(folder(root, memory=0, holdout=False)).batches(order)
    assert streamed.equal(images.pixels[order[0]])


@pytest.mark.parametrize("key", ["cls", "label"])
def test_labels_in_json_and_splits_in_names(home: Path, tmp_path: Path, key: str) -> None:
    for split, numbers in {"train": range(6), "val": range(6, 9), "test": range(9, 11)}.items():
        write_tar(tmp_path / f"imagenet-{split}-000000.tar", samples(numbers, key))
    train, validation, test = (load_data(folder(tmp_path), split) for split in SPLITS)
    assert [len(train), len(validation), len(test)] == [6, 3, 2]
    assert train.classes == test.classes == ("class 0", "class 1", "class 2")
    assert train.labels is not None and train.labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_the_index_is_kept_and_made_anew_when_it_or_the_shard_changes(home: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name, numbers in {"train/0.tar": range(5), "val/0.tar": range(1), "test/0.tar": range(1)}.items():
        write_tar(root / name, samples(numbers))
    images = load_data(folder(root), "train")
    assert images.labels is None and images.classes == () and len(images) == 5

    def kept() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}

    before = kept()
    assert len(before) == 3 and {path.parent for path in before} == {home / ".cache" / "stochcon" / "shards"}
    assert load_data(folder(root), "train").pixels.equal(images.pixels) and kept() == before
    for path in before:
        path.write_bytes(path.read_bytes()[:100])
    assert load_data(folder(root), "train").pixels.equal(images.pixels)
    write_tar(root / "train" / "0.tar", samples(range(7, 10)))
    assert len(load_data(folder(root), "train")) == 3


def test_damaged_shards(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"text")
    assert f"{path} is damaged or compressed" in refusal(folder(tmp_path))
    write_tar(path, [("0.txt", b"no image")])
    assert "have no images" in refusal(folder(tmp_path))
    write_tar(path, samples(range(3)))
    write_tar(tmp_path / "train-0.tar", samples(range(3)))
    assert "has a.tar beside split folders" in refusal(folder(tmp_path))
    path.unlink()
    write_tar(tmp_path / "train-0.tar", [("0.jpg", jpeg(0)), ("0.json", b"{")])
    assert "train-0.tar/0.json holds no label" in refusal(folder(tmp_path))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three pictures, and what is to be passed over."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    for name in ("a.png", "b/c.PNG", "b/Zürich.jpg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "in" / name)
    for name in (".hidden.png", "b/._c.png", "notes.txt"):
        (tmp_path / "in" / name).write_bytes(b"no image")
    return tmp_path / "in"


def as_zip(folder: Path) -> Path:
    path = folder.with_name("archive.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


def as_tar(folder: Path) -> Path:
    path = folder.with_name("archive.tar")
    with tarfile.open(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.add(file, f"./{file.relative_to(folder)}", recursive=False)
    return path


@pytest.mark.parametrize("pack", [as_zip, as_tar])
def test_an_archive_has_the_images_of_its_folder(pack: Callable[[Path], Path], pictures: Path) -> None:
    there = read(list_images(str(pictures), Data(size=8), None), (), 8, 3)
    packed = read(list_images(str(pack(pictures)), Data(size=8), None), (), 8, 3)
    assert packed.ids == there.ids == ("a.png", "b/Zürich.jpg", "b/c.PNG")
    assert packed.pixels.equal(there.pixels) and packed.skipped == ()
    (pictures / "a.png").write_bytes(b"")
    (pictures / "b" / "c.PNG").write_bytes(b"text")
    found = read(list_archive(pack(pictures), 8), (), 8, 3)
    assert found.ids == ("b/Zürich.jpg",)
    assert found.skipped == (("a.png", "an empty file"), ("b/c.PNG", "not an image"))


def test_a_folder_of_shards_has_the_images_of_all_splits(home: Path, pictures: Path) -> None:
    (pictures.parent / "shards").mkdir()
    as_tar(pictures).rename(pictures.parent / "shards" / "0000.tar")
    there = read(list_images(str(pictures), Data(size=8), None), (), 8, 3).pixels.numpy()
    sharded = read(list_images(str(pictures.parent / "shards"), Data(size=8), None), (), 8, 3).pixels.numpy()
    assert {one.tobytes() for one in sharded} == {one.tobytes() for one in there}


def test_a_damaged_member_of_a_zip_is_listed(pictures: Path) -> None:
    path = as_zip(pictures)
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("a.png").header_offset + 60
    content = bytearray(path.read_bytes())
    content[at] ^= 255
    path.write_bytes(content)
    ((name, reason),) = read(list_archive(path, 8), (), 8, 3).skipped
    assert name == "a.png" and reason


def test_what_is_no_archive_is_refused(pictures: Path) -> None:
    path = as_tar(pictures)
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        middle = tar.getmember("./b/c.PNG").offset
    torn = whole[:middle] + bytes(range(1, 256)) * 2 + b"xx" + whole[middle + 512 :]
    path = pictures.with_name("damaged.tar")
    for content in (b"", b"text", whole[:700], torn, b"\x1f\x8b" + whole, gzip.compress(whole)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged\.tar is damaged or compressed"):
            list_images(str(path), Data(size=8), None)
    with pytest.raises(ValueError, match=r"archive\.tar is an archive, which has no splits"):
        list_images(str(as_tar(pictures)), Data(size=8), "test")
