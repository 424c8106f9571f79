"""The one decoder: the bytes of a file -> an 8-bit RGB image -> a square canvas.

It has the one policy for what cannot be read. A damaged image raises `Unreadable`; it is skipped, counted and
listed. A disk that refuses raises OSError, since it may work again later: no image is given up for it.
"""

from collections.abc import Callable, Collection
from io import BytesIO
from math import inf

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


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
            return to_rgb(image)
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


def to_rgb(image: Image.Image) -> Image.Image:
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
    """Resize the largest centred square to (C, S, S), with antialiasing. One channel is ITU-R 601 luma.

    >>> canvas(Image.new("RGB", (30, 20), "white"), size=8, channels=1).shape
    (1, 8, 8)
    """
    image = image.convert("RGB" if channels == 3 else "L")
    pixels = np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR))
    return pixels.reshape(size, size, channels).transpose(2, 0, 1)
