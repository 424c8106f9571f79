"""Archives, and pictures in memory of every layout, have the codes of the same pictures in a folder."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shared import write_run

from stochcon.codes.encoder import Encoder
from stochcon.config import Data
from stochcon.data import images
from stochcon.data.archives import list_archive
from stochcon.data.pictures import list_pictures
from stochcon.data.sets import list_images
from stochcon.recipebook import digits

CONFIG = Data(size=8)


def pixels(*shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, and what is to be passed over."""
    for name in ("a.png", "b/c.PNG", "b/Zürich.jpg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(12, 16, 3)).save(tmp_path / "in" / name)
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


PACKERS: list[Callable[[Path], Path]] = [as_zip, as_tar]


@pytest.mark.parametrize("pack", PACKERS)
def test_an_archive_has_the_images_of_its_folder(pack: Callable[[Path], Path], folder: Path) -> None:
    there = images.read(list_images(str(folder), CONFIG, None), (), 8, 3)
    packed = images.read(list_images(str(pack(folder)), CONFIG, None), (), 8, 3)
    assert packed.ids == there.ids == ("a.png", "b/Zürich.jpg", "b/c.PNG")
    assert packed.pixels.equal(there.pixels)
    assert packed.skipped == ()


def test_a_folder_of_shards_has_the_images_of_all_splits(folder: Path) -> None:
    (folder.parent / "shards").mkdir()
    as_tar(folder).rename(folder.parent / "shards" / "0000.tar")
    there = images.read(list_images(str(folder), CONFIG, None), (), 8, 3)
    sharded = images.read(list_images(str(folder.parent / "shards"), CONFIG, None), (), 8, 3)
    assert {one.tobytes() for one in sharded.pixels.numpy()} == {
        one.tobytes() for one in there.pixels.numpy()
    }


@pytest.mark.parametrize("pack", PACKERS)
def test_images_of_an_archive_that_cannot_be_read_are_listed(
    pack: Callable[[Path], Path], folder: Path
) -> None:
    (folder / "a.png").write_bytes(b"")
    (folder / "b" / "c.PNG").write_bytes(b"text")
    found = images.read(list_archive(pack(folder), 8), (), 8, 3)
    assert found.ids == ("b/Zürich.jpg",)
    assert found.skipped == (("a.png", "an empty file"), ("b/c.PNG", "not an image"))


def test_a_damaged_member_of_a_zip_is_listed(folder: Path) -> None:
    path = as_zip(folder)
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("a.png").header_offset + 60
    content = bytearray(path.read_bytes())
    content[at] ^= 255
    path.write_bytes(content)
    ((name, reason),) = images.read(list_archive(path, 8), (), 8, 3).skipped
    assert name == "a.png" and reason


def test_what_is_no_archive_is_refused(folder: Path) -> None:
    whole = as_tar(folder).read_bytes()
    compressed = io.BytesIO()
    with tarfile.open(fileobj=compressed, mode="w:gz") as archive:
        archive.add(folder / "a.png")
    path = folder.with_name("damaged.tar")
    for content in (b"", b"text", whole[:700], compressed.getvalue()):
        path.write_bytes(content)
        with pytest.raises(ValueError) as error:
            list_images(str(path), CONFIG, None)
        assert str(error.value).startswith(f"{path} is damaged or compressed (")
        assert str(error.value).endswith("); it must be a whole tar file that is not compressed")
    with pytest.raises(ValueError, match=r"archive\.tar is an archive, which has no splits"):
        list_images(str(as_tar(folder)), CONFIG, "test")


# in memory


def canvases(pictures: Any, channels: int = 3, size: int = 8) -> torch.Tensor:
    return images.read(list_pictures(pictures, size), (), size, channels).pixels


@settings(max_examples=30)
@given(
    n=st.integers(1, 3), h=st.integers(1, 12), w=st.integers(1, 12), c=st.sampled_from([1, 3]), data=st.data()
)
def test_every_layout_is_the_same_picture(n: int, h: int, w: int, c: int, data: st.DataObject) -> None:
    array = pixels(n, h, w, c)
    tensor = torch.from_numpy(array).permute(0, 3, 1, 2)
    pillow = [Image.fromarray(one[..., 0] if c == 1 else one) for one in array]
    channels = data.draw(st.sampled_from([1, 3]))
    expected = canvases(pillow, channels)
    assert expected.shape == (n, channels, 8, 8)
    layouts: list[Any] = [array, tensor, list(array), list(tensor), [array[:1], *pillow[1:]]]
    if c == 1:
        layouts += [[one[..., 0] for one in array], [one[0] for one in tensor]]
    for pictures in layouts:
        assert canvases(pictures, channels).equal(expected)
    for one in (array[0], tensor[0], pillow[0]):
        assert canvases(one, channels).equal(expected[:1])


def test_pictures_of_their_size_are_taken_as_they_are() -> None:
    tensor = torch.from_numpy(pixels(4, 3, 8, 8))
    assert canvases(tensor).equal(tensor)


@pytest.mark.parametrize(
    ("pictures", "what"),
    [
        (np.zeros((8, 8, 3)), "float64 (8, 8, 3)"),
        (np.zeros((5, 8, 8), np.uint8), "uint8 (5, 8, 8)"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), "torch.uint8 (8, 8, 3)"),
        (np.zeros((1, 2, 8, 8, 3), np.uint8), "uint8 (1, 2, 8, 8, 3)"),
    ],
)
def test_another_layout_is_refused(pictures: Any, what: str) -> None:
    with pytest.raises(ValueError) as error:
        list_pictures(pictures, 8)
    assert str(error.value) == (
        f"pixels are {what}; they must be uint8, an array (H, W), (H, W, C) or (N, H, W, C), "
        "or a tensor (H, W), (C, H, W) or (N, C, H, W), with 1 or 3 channels"
    )


def test_an_encoder_takes_files_and_pictures_alike(folder: Path, tmp_path: Path) -> None:
    encoder = Encoder(write_run(tmp_path / "run", digits()))
    path = folder / "a.png"
    made = encoder([path, str(path), Image.open(path), np.asarray(Image.open(path))])
    assert made.ids.tolist() == ["0", "1", "2", "3"]
    assert not made.hamming(encoder.file(path)).any()
    assert made.uncertainty.tolist() == [made.uncertainty[0]] * 4
    features = encoder.features(path)
    assert features.h.shape == (1, 256)
    assert features.z is not None and features.probabilities is not None
    assert features.z.equal(features.probabilities)
    assert encoder(path, ["me"]).ids.tolist() == ["me"]
    with pytest.raises(ValueError, match="there are 2 ids for 1 images; there must be one for each"):
        encoder(path, ["a", "b"])
    with pytest.raises(ValueError, match=r"notes.txt cannot be read: not an image"):
        encoder.file(folder / "notes.txt")
    assert len(encoder([])) == 0


def test_a_picture_with_an_orientation_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels(12, 16, 3)).save(tmp_path / "turned.png", exif=exif)
    path = tmp_path / "turned.png"
    assert canvases(Image.open(path)).equal(canvases(path))
    assert not canvases(path).equal(canvases(pixels(12, 16, 3)))
