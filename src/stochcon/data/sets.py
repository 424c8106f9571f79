"""Data sets by name: load a split, prepare the images to train on, or list the images to encode.

A set is first a list of images that are not open yet. So a split is read only when it is asked for (the test
split once, at the end), and a limit costs no more than the images that it leaves.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path

import numpy as np
from torch import Tensor

from stochcon.config import Data
from stochcon.data.archives import list_archive, list_shards
from stochcon.data.array_sets import cache, list_cifar, list_digits, list_fashion
from stochcon.data.decode import refuse_too_many
from stochcon.data.folder import files, list_folder, list_undivided
from stochcon.data.images import SPLITS, Images, Source, Sources, Split, chained, read, stratified_subset
from stochcon.data.photographs import PHOTOGRAPHS, list_patches
from stochcon.data.training_images import TrainingImages

Listing = tuple[tuple[str, ...], Sequence[Source]]  # the names of the classes, and the images of one split


def load(config: Data, split: Split) -> Images:
    """Read one split of a data set, and of that split only.

    Labels, order and ids depend on nothing but the configuration and the files.

    Args:
        config: The data set. `holdout` off adds the validation images to `train`; `limit` cuts `train`.
        split: `train`, `validation` or `test`.

    Returns:
        The images on square canvases, uint8 (N, C, S, S), with labels where there are any.

    Raises:
        ValueError: If files are missing, or if more than `config.max_bad` of the images cannot be read.
        OSError: If the disk refuses for a reason that may pass.

    Example:
        >>> images = load(Data(name="digits", size=8, channels=1), "validation")
        >>> images.pixels.shape, images.classes[:3], images.ids[:2]
        (torch.Size([360, 1, 8, 8]), ('0', '1', '2'), ('digits/13', 'digits/15'))
    """
    classes, sources = listed(config, split)
    images = read(sources, classes, config.size, config.channels)
    refuse_too_many(
        images.skipped, len(sources), config.max_bad, f"{split} images of {config.root or config.name}"
    )
    return images


def load_labelled(config: Data, split: Split) -> tuple[Images, Tensor]:
    """Read one split, as `load` does, and its labels (N,). Raises ValueError if nothing is labelled."""
    images = load(config, split)
    if images.labels is None:
        raise ValueError(
            f"{config.root} has no class folders, so there is nothing to classify: "
            "put images into root/class/"
        )
    return images, images.labels


def load_training(config: Data) -> TrainingImages:
    """Prepare the training images: all in memory if `config.memory` allows, otherwise decoded on demand."""
    return TrainingImages(listed(config, "train")[1], config)


def list_images(name: str, config: Data, split: Split | None) -> Sequence[Source]:
    """List the images to encode: one split, or all. Only names are in memory, or a set that is one file.

    They are those of a folder of images or shards, of a .tar or .zip archive, or of a data set by its name (a
    folder of that name is ./NAME). If `config` is that data set, its files are where `config` has them.

    >>> len(list_images("digits", Data(), "test")), len(list_images("digits", Data(), None))
    (360, 1797)
    """
    named = [known for known in LISTS if known != "folder"]
    root = Path(name)
    if name in named:
        changes = {"name": name, "root": config.root if config.name == name else None}
    elif root.is_file():
        if split:
            raise ValueError(f"{name} is an archive, which has no splits: leave --split {split} away")
        return list_archive(root, config.size)
    elif root.is_dir():
        if not split and not _shards(root):
            return list_undivided(root, config.size)
        changes = {"name": "folder", "root": root}
    else:
        raise ValueError(
            f"{name} is neither a folder or an archive of images nor one of the data sets {', '.join(named)}"
        )
    config = Data.model_validate(config.model_dump() | changes)
    return reduce(chained, [LISTS[config.name](config, each)[1] for each in ([split] if split else SPLITS)])


def listed(config: Data, split: Split) -> Listing:
    """List the classes, and the images of a split that `load` reads. Raises ValueError if there are none."""
    list_split = LISTS[config.name]
    classes, sources = list_split(config, split)
    if split == "train" and not config.holdout:
        sources = chained(sources, list_split(config, "validation")[1])
    if split == "train" and config.limit is not None:
        chosen = stratified_subset([source.label or 0 for source in sources], config.limit)
        sources = Sources(sources.__getitem__, np.array(chosen, np.int64))
    if not len(sources):
        raise ValueError(
            f"data.root: {config.root} has too few images, none for {split}; "
            "add more, or sort them into folders train, validation and test"
        )
    return classes, sources


def list_photographs(config: Data, split: Split) -> Listing:
    """25,200 patches of 18 photographs (scikit-image, scikit-learn): 3,600 each to validate and to test."""
    return tuple(PHOTOGRAPHS), list_patches(split)


def list_files(config: Data, split: Split) -> Listing:
    """Images in a folder, with or without folders for classes and splits below it; or in shards."""
    root = config.root
    if root is None:
        raise ValueError("data.root: not set; data.name = folder needs a folder of images there")
    shards = _shards(root)
    listing = list_shards(root, shards, config.size, cache()) if shards else list_folder(root, config.size)
    return listing[0], listing[1][split]


def _shards(root: Path) -> list[str]:
    return list(files(root, (".tar",))) if root.is_dir() else []


LISTS: dict[str, Callable[[Data, Split], Listing]] = {
    "photographs": list_photographs,
    "digits": list_digits,
    "fashion-mnist": list_fashion,
    "cifar10": list_cifar,
    "folder": list_files,
}  # a model card describes the data with the docstring
