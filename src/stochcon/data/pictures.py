"""Pictures in memory: Pillow images, arrays and tensors, beside paths of image files."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from stochcon.data.images import Source, open_image, to_rgb

Picture = Image.Image | Path | str | NDArray[np.uint8] | Tensor
Pictures = Picture | Iterable[Picture]  # an array or a tensor may itself be several


def list_pictures(pictures: Pictures, size: int, ids: Sequence[str] | None = None) -> list[Source]:
    """List pictures to encode or to train on; their ids are by default 0, 1, 2, ...

    The layout is that of the library and never guessed from the numbers. NumPy's is (H, W), (H, W, C) or
    (N, H, W, C). PyTorch's is (H, W), (C, H, W) or (N, C, H, W). C is 1 or 3, and pixels are uint8. An
    iterable may mix pictures of all kinds and sizes.
    """
    singles = list(_singles(pictures))
    names = [str(i) for i in range(len(singles))] if ids is None else list(ids)
    if len(names) != len(singles):
        raise ValueError(f"there are {len(names)} ids for {len(singles)} images; there must be one for each")
    pairs = zip(names, singles, strict=True)
    return [Source(name, None, partial(_open, single, size)) for name, single in pairs]


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
        return to_rgb(ImageOps.exif_transpose(picture))
    return Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
