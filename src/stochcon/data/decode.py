"""The one decoder: the bytes of a file -> an 8-bit RGB image -> a square canvas.

It has the one policy for what cannot be read. An image that is damaged raises `Unreadable`: it is skipped,
counted and listed. A disk that refuses raises OSError: it may work again later, so no image is given up for it.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from math import inf

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""How the name of an image file ends, in lower case."""


class Unreadable(ValueError):
    """An image that cannot be read; the text says why in a few words."""


def open_image(read: Callable[[], bytes], size: int) -> Image.Image:
    """Decode the first picture of an image file as 8-bit RGB, upright.

    Args:
        read: Gives the bytes of the file.
        size: The side of the canvas to come. A large JPEG is decoded at a fraction of its size that leaves more.

    Returns:
        The image; at least size x size pixels if the file has as many.

    Raises:
        Unreadable: If the file is damaged, is no image, has more pixels than Pillow's limit, or is forbidden to us.
        OSError: If the disk refuses for a reason that may pass.

    Example:
        >>> open_image(lambda: b"hello", 8)
        Traceback (most recent call last):
        stochcon.data.decode.Unreadable: not an image
    """
    content = b""
    try:
        content = read()
        with Image.open(BytesIO(content)) as image:
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or inf):
                raise Image.DecompressionBombError  # Pillow itself only warns, up to twice its limit
            image.draft(None, (2 * size, 2 * size))
            ImageOps.exif_transpose(image, in_place=True)
            return to_rgb(image)
    except UnidentifiedImageError:
        raise Unreadable("not an image" if content else "an empty file") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise Unreadable(f"more than {Image.MAX_IMAGE_PIXELS} pixels") from None
    except Exception as error:  # a decoder may raise anything when bytes are damaged
        may_pass = isinstance(error, OSError) and error.errno and not isinstance(error, PermissionError)
        if may_pass or isinstance(error, Unreadable):
            raise
        raise Unreadable(" ".join(str(error).split()) or type(error).__name__) from error


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
    """Cut the largest centred square and resize it to (C, S, S): grey with one channel, colour with three.

    Pillow averages all pixels that fall into one (antialiasing). Grey is ITU-R 601 luma.

    >>> canvas(Image.new("RGB", (30, 20), "white"), size=8, channels=1).shape
    (1, 8, 8)
    """
    image = image.convert("RGB" if channels == 3 else "L")
    pixels = np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR))
    return pixels.reshape(size, size, channels).transpose(2, 0, 1)
