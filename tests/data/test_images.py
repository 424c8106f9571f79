"""Images become upright RGB canvases, the reason is told if not, and a subset is even over the classes."""

import io
import re
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

from stochcon.data.images import Source, Sources, Unreadable, canvas, chained, open_image, stratified_subset
from stochcon.data.photographs import photograph
from stochcon.data.sets import load_data
from tests.data.files import folder, only_train, picture

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
    pixels = load_data(folder(tmp_path), "train").pixels
    assert (pixels.int() - torch.tensor(seen)[:, None, None]).abs().max() <= 2


def test_palettes(tmp_path: Path) -> None:
    image = Image.new("P", (20, 14), 1)
    image.putpalette([9, 9, 9, 10, 200, 30])
    train = only_train(tmp_path)
    image.save(train / "a.gif")
    image.save(train / "b.png", transparency=1)
    image.save(train / "c.png", transparency=bytes([255, 51]))
    pixels = load_data(folder(tmp_path), "train").pixels
    assert pixels[:, :, 4, 4].tolist() == [[10, 200, 30], [255, 255, 255], [206, 244, 210]]


@pytest.mark.parametrize("extension", ["png", "tif", "webp"])
def test_exif_rotation(tmp_path: Path, extension: str) -> None:
    upright = np.kron(np.array([[0, 80], [160, 240]], np.uint8), np.ones((8, 8), np.uint8))
    turned = [upright, upright[:, ::-1], upright[::-1, ::-1], upright[::-1]]
    turned += [upright.T, np.rot90(upright), upright[::-1, ::-1].T, np.rot90(upright, -1)]
    train = only_train(tmp_path)
    for orientation, pixels in enumerate(turned, 1):
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = Image.fromarray(np.ascontiguousarray(pixels))
        image.save(train / f"{orientation}.{extension}", exif=exif, lossless=True)
    seen = load_data(folder(tmp_path, size=16, channels=1), "train").pixels[:, 0].numpy()
    assert len(seen) == 8 and all((pixels == upright).all() for pixels in seen)


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
    whole.resize((1500, 1000)).save(tmp_path / "a.jpg", quality=95)
    seen = open_image((tmp_path / "a.jpg").read_bytes, 32)
    assert seen.width < 1500 and np.abs(canvas(seen, 32, 3).astype(int) - canvas(whole, 32, 3)).mean() < 2


def tiff(array: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "tiff")
    return buffer.getvalue()


def test_unreadable_files_are_skipped_and_listed(tmp_path: Path) -> None:
    train = only_train(tmp_path)
    picture(train / "whole.png", size=(300, 200))
    picture(train / "whole.jpg", size=(300, 200))
    png, jpg = (train / "whole.png").read_bytes(), (train / "whole.jpg").read_bytes()
    spoilt = {
        "cut.jpg": (jpg[: len(jpg) // 2], "image file is truncated"),
        "cut.png": (png[: len(png) // 2], "image file is truncated"),
        "empty.jpg": (b"", "an empty file"),
        "float.tif": (tiff(np.zeros((4, 4), np.float32)), "floating-point pixels, of unknown range"),
        "text.png": (b"hello", "not an image"),
        "wide.tif": (tiff(np.full((4, 4), 65536, np.int32)), "32-bit pixels, of unknown range"),
    }
    for name, (content, _) in spoilt.items():
        (train / name).write_bytes(content)
    images = load_data(folder(tmp_path, max_bad=0.75), "train")
    assert images.ids == ("train/whole.jpg", "train/whole.png") and images.pixels.shape == (2, 3, 8, 8)
    skipped = [(path, re.sub(r" \(.*\)", "", reason)) for path, reason in images.skipped]
    assert skipped == [(f"train/{name}", reason) for name, (_, reason) in sorted(spoilt.items())]


@pytest.mark.parametrize("action", ["error", "ignore"])
def test_decompression_bombs_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for side, fine in ((10, True), (12, False), (20, False)):
        picture(tmp_path / "a.png", size=(side, side))
        with warnings.catch_warnings():
            warnings.simplefilter(action, Image.DecompressionBombWarning)  # type: ignore[arg-type]
            before = list(warnings.filters)
            if fine:
                assert open_image((tmp_path / "a.png").read_bytes, 8).size == (10, 10)
            else:
                with pytest.raises(Unreadable, match="more than 100 pixels"):
                    open_image((tmp_path / "a.png").read_bytes, 8)
            assert warnings.filters == before


def test_a_disk_that_refuses_is_not_the_image_s_fault(tmp_path: Path) -> None:
    def refuse(error: OSError) -> bytes:
        raise error

    with pytest.raises(FileNotFoundError):
        open_image((tmp_path / "gone.png").read_bytes, 8)
    with pytest.raises(OSError, match="Input/output"):
        open_image(lambda: refuse(OSError(5, "Input/output error")), 8)
    with pytest.raises(Unreadable, match="denied"):
        open_image(lambda: refuse(PermissionError(13, "Permission denied")), 8)


@given(st.lists(st.integers(0, 4), max_size=60), st.integers(0, 70), st.integers(0, 70))
def test_a_subset_has_as_many_of_every_class(labels: list[int], count: int, other: int) -> None:
    chosen = stratified_subset(labels, count)
    assert chosen == sorted(set(chosen)) and len(chosen) == min(count, len(labels))
    drawn, there = Counter(labels[i] for i in chosen), Counter(labels)
    most = max(drawn.values(), default=0)
    assert all(drawn[c] >= min(there[c], most - 1) for c in there)
    assert set(stratified_subset(labels, min(count, other))) <= set(chosen)


def test_lists_of_sources() -> None:
    sources = [Source(str(i), i, lambda: Image.new("L", (1, 1))) for i in range(6)]
    taken = Sources(sources.__getitem__, np.array([4, 1, 5]))
    assert [source.id for source in taken] == ["4", "1", "5"]
    assert [source.id for source in chained(sources[:2], taken[1:])[1:]] == ["1", "1", "5"]
