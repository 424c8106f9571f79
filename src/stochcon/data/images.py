"""Images: not open yet, open as 8-bit RGB, and as one tensor of square uint8 canvases.

There is one policy for what cannot be read. A damaged image raises `Unreadable`; it is skipped, counted and
listed. A disk that refuses raises OSError, since it may work again later: no image is given up for it.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from math import inf
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
Picture = Image.Image | Path | str | NDArray[np.uint8] | Tensor
Pictures = Picture | Iterable[Picture]  # an array or a tensor may itself be several
CHUNK = 64  # images that one task reads: a task for each would cost more than decoding a small one


@dataclass(frozen=True)
class Source:
    """An image that is not open yet; `open` gives it in 8-bit grey or RGB, or raises as `open_image` does."""

    id: str
    label: int | None
    open: Callable[[], Image.Image]


Listing = tuple[tuple[str, ...], Sequence[Source]]  # the names of the classes, and the images of one split


class Sources(Sequence[Source]):
    """A long list of images that are not open yet: `make` gives each, by its place, when it is asked for."""

    def __init__(self, make: Callable[[int], Source], places: NDArray[np.int64]):
        self.make, self.places = make, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: Any) -> Any:
        chosen = self.places[i]
        return Sources(self.make, chosen) if isinstance(i, slice) else self.make(int(chosen))


def chained(first: Sequence[Source], second: Sequence[Source]) -> Sources:
    """Join two lists of images."""
    n = len(first)
    return Sources(lambda i: first[i] if i < n else second[i - n], np.arange(n + len(second)))


@dataclass(frozen=True, eq=False)
class Images:
    """One split of a data set: N square canvases that views are cut from."""

    pixels: Tensor  # uint8 (N, C, S, S), contiguous, on the CPU
    labels: Tensor | None  # int64 (N,), an index into `classes`; None where nothing is labelled
    classes: tuple[str, ...]
    ids: tuple[str, ...]  # stable names: `cat/x/y/side` for a patch, `train/17`, or the path below the folder
    skipped: tuple[tuple[str, str], ...] = ()  # the id of each image that cannot be read, and the reason

    def __len__(self) -> int:
        return len(self.ids)


def read(sources: Sequence[Source], classes: tuple[str, ...], size: int, channels: int) -> Images:
    """Bring all images to canvases, in threads and in their order; what cannot be read is in `skipped`."""
    pixels = torch.empty(len(sources), channels, size, size, dtype=torch.uint8)
    canvases = pixels.numpy()
    bad: dict[int, str] = {}

    def fill(start: int) -> None:
        for i in range(start, min(start + CHUNK, len(sources))):
            try:
                canvases[i] = canvas(sources[i].open(), size, channels)
            except Unreadable as reason:
                bad[i] = str(reason)

    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, range(0, len(sources), CHUNK)))
    good = [i for i in range(len(sources)) if i not in bad]
    labels = [sources[i].label for i in good]
    return Images(
        pixels=pixels[good] if bad else pixels,
        labels=None if None in labels else torch.tensor(labels, dtype=torch.int64),
        classes=classes,
        ids=tuple(sources[i].id for i in good),
        skipped=tuple((sources[i].id, bad[i]) for i in sorted(bad)),
    )


def stratified_subset(labels: Sequence[int] | NDArray[np.integer], count: int) -> list[int]:
    """Draw `count` images (all if there are fewer) evenly over the classes; give their indices, ascending.

    The draw is always the same. That of a smaller count is part of that of a larger.
    """
    order = np.random.default_rng(0).permutation(len(labels))
    classes = np.asarray(labels)[order]
    rank = pd.Series(classes).groupby(classes).cumcount()  # an image's place among those of its class
    return sorted(order[np.lexsort((classes, rank))][:count].tolist())


def raw_bits(images: Images) -> int:
    """Count the bits of one uncompressed canvas, with which the length of a code is compared."""
    return 8 * images.pixels.shape[1:].numel()


class Unreadable(ValueError):
    """An image that cannot be read; the text says why in a few words."""


def open_image(read: Callable[[], bytes], size: int) -> Image.Image:
    """Decode the first picture of the bytes that `read` gives as 8-bit RGB, upright.

    A large JPEG is decoded at a fraction of its size, but never at fewer than size x size pixels. Raises
    Unreadable, also for more pixels than Pillow's limit and for a file that is forbidden to us; or OSError.
    """
    content = b""
    try:
        content = read()
        with Image.open(BytesIO(content)) as image:
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or inf):
                raise Image.DecompressionBombError  # up to twice its limit, Pillow itself only warns
            image.draft(None, (2 * size, 2 * size))
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)
    except UnidentifiedImageError:
        raise Unreadable("not an image" if content else "an empty file") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):  # a warning may be made an error
        raise Unreadable(f"more than {Image.MAX_IMAGE_PIXELS} pixels") from None
    except Exception as error:  # on damaged bytes a decoder may raise anything
        may_pass = isinstance(error, OSError) and error.errno and not isinstance(error, PermissionError)
        if may_pass or isinstance(error, Unreadable):
            raise
        raise Unreadable(" ".join(str(error).split()) or type(error).__name__) from error


def refuse_too_many(skipped: Collection[tuple[str, str]], total: int, max_bad: float, what: str) -> None:
    """Raise ValueError if more than the share `max_bad` of `what`, say "images of my-folder", is skipped."""
    if len(skipped) > max_bad * total:
        name, reason = min(skipped)
        raise ValueError(
            f"{len(skipped)} of {total} {what} cannot be read, more than data.max_bad = {max_bad:g} allows; "
            f"the first is {name}: {reason}"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any of Pillow's modes to 8-bit RGB: 16-bit grey is scaled, and transparency is laid on white.

    Colour profiles are not applied. Raises Unreadable for grey whose range is unknown.
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


def canvas(image: Image.Image, size: int, channels: int) -> NDArray[np.uint8]:
    """Resize the largest centred square to (C, S, S), with antialiasing. One channel is ITU-R 601 luma."""
    image = image.convert("RGB" if channels == 3 else "L")
    pixels = np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR))
    return pixels.reshape(size, size, channels).transpose(2, 0, 1)


def list_pictures(pictures: Pictures, size: int, ids: Sequence[str] | None = None) -> list[Source]:
    """List pictures to encode or to train on; their ids are by default 0, 1, 2, ...

    The layout is that of the library and never guessed from the numbers. NumPy's is (H, W), (H, W, C) or
    (N, H, W, C). PyTorch's is (H, W), (C, H, W) or (N, C, H, W). C is 1 or 3, and pixels are uint8. An
    iterable may mix pictures of all kinds and sizes.
    """
    singles = list(_singles(pictures))
    names = [*map(str, range(len(singles)))] if ids is None else ids
    if len(names) != len(singles):
        raise ValueError(f"there are {len(names)} ids for {len(singles)} images; there must be one for each")
    return [Source(name, None, partial(_open, each, size)) for name, each in zip(names, singles, strict=True)]


def _singles(pictures: Pictures) -> Iterable[Image.Image | Path | str | NDArray[np.uint8]]:
    if isinstance(pictures, Image.Image | Path | str):
        return [pictures]
    if not isinstance(pictures, np.ndarray | Tensor):
        return (single for picture in pictures for single in _singles(picture))
    array = pictures.detach().cpu().numpy() if isinstance(pictures, Tensor) else pictures
    if isinstance(pictures, Tensor) and array.ndim > 2:
        array = np.moveaxis(array, -3, -1)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim == 3:
        array = array[None]
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] not in (1, 3):
        raise ValueError(
            f"pixels are {pictures.dtype} {tuple(pictures.shape)}; they must be uint8, an array (H, W), "
            "(H, W, C) or (N, H, W, C), or a tensor (H, W), (C, H, W) or (N, C, H, W), with 1 or 3 channels"
        )
    return array


def _open(picture: Image.Image | Path | str | NDArray[np.uint8], size: int) -> Image.Image:
    if isinstance(picture, Path | str):
        return open_image(Path(picture).read_bytes, size)
    if isinstance(picture, Image.Image):
        return _to_rgb(ImageOps.exif_transpose(picture))
    return Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
