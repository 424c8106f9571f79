"""What there is to encode: a folder, an archive, a data set by its name, or pictures in memory."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial, reduce
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from stochcon.config import Data
from stochcon.data import sets as data
from stochcon.data.folder import EXTENSIONS, files, open_image, plain
from stochcon.data.images import Source, Split, Unreadable
from stochcon.data.listing import Names, Sources, chained
from stochcon.data.shards import shard_paths

Picture: TypeAlias = Image.Image | Path | str | NDArray[np.uint8] | Tensor
Pictures: TypeAlias = Picture | Iterable[Picture]
"""One or more; an array or a tensor may itself be several."""


def list_images(name: str, config: Data, split: Split | None) -> Sequence[Source]:
    """Of a folder of images or shards, a .tar or .zip archive, or a data set by its name (a folder of that name is ./NAME).

    One split, or all of them. Only names are in memory, and the pixels of a data set that is one file. A
    named set's files are where the run had them, if the run was on that set. Raises ValueError.

    >>> len(list_images("digits", Data(), "test")), len(list_images("digits", Data(), None))
    (360, 1797)
    """
    names = [known for known in data.LISTS if known != "folder"]
    splits = [split] if split else get_args(Split)
    if name in names:
        root = config.root if config.name == name else None
        one = Data.model_validate(config.model_dump() | {"name": name, "root": root})
        return [source for each in splits for source in data.LISTS[name](one, each)[1]]
    root = Path(name)
    if root.is_file():
        if split:
            raise ValueError(f"{name} is an archive, which has no splits: leave --split {split} away")
        return list_archive(root, config.size)
    if not root.is_dir():
        raise ValueError(
            f"{name} is neither a folder or an archive of images nor one of the data sets {', '.join(names)}"
        )
    if split or shard_paths(root):
        one = Data.model_validate(config.model_dump() | {"name": "folder", "root": root})
        return reduce(chained, [data.list_files(one, each)[1] for each in splits])
    below = Names.of(files(root, EXTENSIONS))
    return Sources(
        lambda i: Source(below[i], None, partial(open_image, root / below[i], config.size)),
        np.arange(len(below), dtype=np.int64),
    )


def list_archive(path: Path, size: int) -> list[Source]:
    """The images of a .tar or .zip archive, in its order, by their names there; nothing is unpacked.

    As in a folder, names that begin with a dot are passed over. Raises ValueError if it is no whole archive.
    """
    members: dict[str, Callable[[], bytes]] = {}  # of two members of a name the last counts, as in unpacking
    try:
        if zipfile.is_zipfile(path):
            archive = zipfile.ZipFile(path)
            members = {name: partial(archive.read, name) for name in archive.namelist()}
        else:
            with tarfile.open(path, "r:") as tar:
                members = {m.name: partial(_slice, path, m.offset_data, m.size) for m in tar if m.isreg()}
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(
            f"{path} is no whole archive ({error}); it must be a .zip, or a .tar that is not compressed"
        ) from None
    named = ((PurePosixPath(name), read) for name, read in members.items())
    return [
        Source(name.as_posix(), None, partial(_open_member, read, size))
        for name, read in named
        if name.suffix.lower() in EXTENSIONS and not any(part.startswith(".") for part in name.parts)
    ]


def _slice(path: Path, start: int, size: int) -> bytes:
    """Of a file that is opened each time, so that threads share nothing."""
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(size)


def _open_member(read: Callable[[], bytes], size: int) -> Image.Image:
    try:
        content = read()
    except Exception as error:  # of a damaged member, or one with a password
        raise Unreadable(" ".join(str(error).split()) or type(error).__name__) from error
    return open_image(BytesIO(content), size)


def list_pictures(pictures: Pictures, size: int, ids: Sequence[str] | None = None) -> list[Source]:
    """Pillow images, paths of image files, arrays or tensors; ids are by default 0, 1, 2, ...

    The layout is that of the library and never guessed from the numbers: NumPy's is (H, W), (H, W, C) or
    (N, H, W, C), PyTorch's (H, W), (C, H, W) or (N, C, H, W); C is 1 or 3, and pixels are uint8. An iterable
    may mix all of these, of any sizes. Raises ValueError for another layout, or another number of ids.

    >>> [source.id for source in list_pictures(np.zeros((2, 8, 8, 1), np.uint8), size=8)]
    ['0', '1']
    """
    singles = list(_singles(pictures))
    names = [str(i) for i in range(len(singles))] if ids is None else list(ids)
    if len(names) != len(singles):
        raise ValueError(f"there are {len(names)} ids for {len(singles)} images; there must be one for each")
    return [
        Source(name, None, partial(_open_picture, single, size))
        for name, single in zip(names, singles, strict=True)
    ]


def _singles(pictures: Pictures) -> Iterable[Image.Image | Path | NDArray[np.uint8]]:
    if isinstance(pictures, Image.Image | Path):
        return [pictures]
    if isinstance(pictures, str):
        return [Path(pictures)]
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
            f"pixels are {pictures.dtype} {tuple(pictures.shape)}; they must be uint8, an array (H, W), (H, W, C) "
            "or (N, H, W, C), or a tensor (H, W), (C, H, W) or (N, C, H, W), with 1 or 3 channels"
        )
    return array


def _open_picture(picture: Image.Image | Path | NDArray[np.uint8], size: int) -> Image.Image:
    if isinstance(picture, Path):
        return open_image(picture, size)
    if isinstance(picture, Image.Image):
        return plain(ImageOps.exif_transpose(picture))
    return Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else np.ascontiguousarray(picture))
