"""Pictures in memory of every layout have the canvases and the codes of the same pictures in files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stochcon.codes.encoder import Encoder
from stochcon.data.images import list_pictures, read
from stochcon.recipebook import digits
from tests.shared import write_run


def pixels(*shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def canvases(pictures: Any, channels: int = 3) -> torch.Tensor:
    return read(list_pictures(pictures, 8), (), 8, channels).pixels


@settings(max_examples=30)
@given(n=st.integers(1, 3), h=st.integers(1, 12), w=st.integers(1, 12), c=st.sampled_from([1, 3]), data=st.data())
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
    assert str(error.value).startswith(f"pixels are {what}; they must be uint8, ")


def test_an_encoder_takes_files_and_pictures_alike(tmp_path: Path) -> None:
    encoder = Encoder(write_run(tmp_path / "run", digits()))
    path = tmp_path / "a.png"
    Image.fromarray(pixels(12, 16, 3)).save(path)
    (tmp_path / "notes.txt").write_text("no image")
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
        encoder.file(tmp_path / "notes.txt")
    assert len(encoder([])) == 0


def test_a_picture_with_an_orientation_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels(12, 16, 3)).save(tmp_path / "turned.png", exif=exif)
    path = tmp_path / "turned.png"
    assert canvases(Image.open(path)).equal(canvases(path))
    assert not canvases(path).equal(canvases(pixels(12, 16, 3)))
