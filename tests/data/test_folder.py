"""A folder: its classes, its splits, what is passed over, and how many of its files may be unreadable."""

import os
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stochcon.config import Data
from stochcon.data.folder import divided, files, list_folder, packed, text
from stochcon.data.images import SPLITS, Source, Split
from stochcon.data.sets import load_data
from tests.data.files import folder, only_train, picture, refusal


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
    splits = [load_data(folder(tmp_path), split) for split in SPLITS]
    assert sum(map(len, splits)) == 120 and len({name for images in splits for name in images.ids}) == 120
    for images in splits:
        assert images.classes == ("ant", "zebra") and images.skipped == ()
        assert list(images.ids) == sorted(images.ids) and images.labels is not None
        for pixels, label, name in zip(images.pixels, images.labels, images.ids, strict=True):
            assert name.startswith(images.classes[label])
            assert pixels[:, 0, 0].tolist() == ([255, 0, 0] if label == 0 else [0, 0, 255])


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    for i in range(30):
        picture(tmp_path / f"{i}.png")
    images = load_data(folder(tmp_path), "train")
    assert images.labels is None and images.classes == ()
    picture(tmp_path / "some" / "31.png")
    assert load_data(folder(tmp_path), "train").labels is None
    assert len(load_data(folder(tmp_path, limit=7), "train")) == 7


def test_split_folders(tmp_path: Path) -> None:
    for i in range(40):
        picture(tmp_path / "train" / "cat" / f"{i}.png")
    picture(tmp_path / "val" / "cat" / "v.png")
    picture(tmp_path / "test" / "dog" / "t.png")
    train, validation, test = (load_data(folder(tmp_path), split) for split in SPLITS)
    assert len(train) == 40 and validation.ids == ("val/cat/v.png",) and test.ids == ("test/dog/t.png",)
    assert train.classes == test.classes == ("cat", "dog")
    assert test.labels is not None and test.labels.tolist() == [1]
    assert load_data(folder(tmp_path, holdout=False), "train").ids[-1] == "val/cat/v.png"

    (tmp_path / "val" / "cat" / "v.png").unlink()
    train, validation, test = (load_data(folder(tmp_path), split) for split in SPLITS)
    assert 0 < len(validation) < 12 and len(train) + len(validation) == 40 and len(test) == 1
    assert all(name.startswith("train/") for name in validation.ids)
    picture(tmp_path / "extra" / "a.png")
    assert refusal(folder(tmp_path)).startswith(f"data.root: {tmp_path} has extra beside split folders")


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
    names = packed(f"image-{i}.jpg" for i in range(20000))
    drawn = divided(names, [None] * 20000, lambda i: Source(text(names[i]), None, Image.Image))
    assert [len(drawn[split]) / 20000 for split in SPLITS] == pytest.approx([0.8, 0.1, 0.1], abs=0.01)
    assert sorted(source.id for split in SPLITS for source in drawn[split]) == sorted(map(text, names))
    digest = sha256("".join(source.id for source in drawn["validation"]).encode()).hexdigest()
    assert digest[:16] == "83ed0344f9d6dbe2"


def test_too_many_unreadable_files(tmp_path: Path) -> None:
    train = only_train(tmp_path)
    for i in range(10):
        picture(train / "a" / f"{i}.png")
    (train / "a" / "8.png").write_bytes(b"")
    (train / "a" / "9.png").write_bytes(b"")
    assert len(load_data(folder(tmp_path, max_bad=0.2), "train")) == 8
    assert refusal(folder(tmp_path)) == (
        f"2 of 10 train images of {tmp_path} cannot be read, more than data.max_bad = 0.1 "
        "allows; the first is train/a/8.png: an empty file"
    )


def test_folders_without_images(tmp_path: Path) -> None:
    assert refusal(Data(name="folder")).startswith("data.root: not set")
    assert refusal(folder(tmp_path / "missing")).startswith(f"data.root: {tmp_path}/missing is not a folder")
    (tmp_path / "notes.txt").write_text("no image")
    assert refusal(folder(tmp_path)).startswith(f"data.root: {tmp_path} has no images")
    picture(tmp_path / "0.png")
    assert refusal(folder(tmp_path), "test").startswith(f"data.root: {tmp_path} has too few images, none for test")


def test_a_limit_is_even_over_classes_and_leaves_the_rest_unread(tmp_path: Path) -> None:
    train = only_train(tmp_path)
    for name, n in {"a": 30, "b": 12}.items():
        for i in range(n):
            picture(train / name / f"{i}.png")
    few, more = load_data(folder(tmp_path, limit=6), "train"), load_data(folder(tmp_path, limit=20), "train")
    assert few.labels is not None and few.labels.bincount().tolist() == [3, 3]
    assert more.labels is not None and more.labels.bincount().tolist() == [10, 10]
    assert set(few.ids) < set(more.ids)
    for path in train.rglob("*.png"):
        if path.relative_to(tmp_path).as_posix() not in few.ids:
            path.write_bytes(b"")
    assert load_data(folder(tmp_path, limit=6), "train").skipped == ()


@given(st.lists(st.binary().map(os.fsdecode)))
def test_names_are_kept_whatever_their_bytes(names: list[str]) -> None:
    kept = packed(iter(names))
    assert list(map(text, kept)) == names and len(kept) == len(names)


def test_a_million_names_take_a_few_bytes_each() -> None:
    kept = packed(f"class-{i % 1000:03}/{i:07}.jpg" for i in range(10**6))
    assert text(kept[999_999]) == "class-999/0999999.jpg" and kept.nbytes < 30 * 10**6


def test_files_come_in_the_order_of_paths(tmp_path: Path) -> None:
    for name in ("b.jpg", "a/z.jpg", "a-b/c.jpg", "a/b/c.JPG", "é.jpg", "a.jpg", ".x/y.jpg", "a/t.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = list(files(tmp_path, (".jpg",)))
    assert found == [path.as_posix() for path in sorted(map(Path, found))] and len(found) == 6
