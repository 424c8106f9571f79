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
from stochcon.data.folder import files, list_folder, list_undivided
from stochcon.data.images import (
    SPLITS,
    Images,
    Listing,
    Source,
    Sources,
    Split,
    chained,
    read,
    refuse_too_many,
    stratified_subset,
)
from stochcon.data.photographs import list_photographs
from stochcon.data.training_images import TrainingImages


def load_data(config: Data, split: Split) -> Images:
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
        >>> images = load_data(Data(name="digits", size=8, channels=1), "validation")
        >>> images.pixels.shape, images.classes[:3], images.ids[:2]
        (torch.Size([360, 1, 8, 8]), ('0', '1', '2'), ('digits/13', 'digits/15'))
    """
    classes, sources = listed(config, split)
    images = read(sources, classes, config.size, config.channels)
    what = f"{split} images of {config.root or config.name}"
    refuse_too_many(images.skipped, len(sources), config.max_bad, what)
    return images


def load_labelled(config: Data, split: Split) -> tuple[Images, Tensor]:
    """Read one split, as `load_data` does, and its labels (N,). Raises ValueError if nothing is labelled."""
    images = load_data(config, split)
    if images.labels is None:
        wanted = "put images into root/class/"
        raise ValueError(f"{config.root} has no class folders, so there is nothing to classify: {wanted}")
    return images, images.labels


def load_training(config: Data) -> TrainingImages:
    """Prepare the training images: all in memory if `config.memory` allows, otherwise decoded on demand."""
    return TrainingImages(listed(config, "train")[1], config)


def list_images(name: str, config: Data, split: Split | None) -> Sequence[Source]:
    """List the images to encode: one split, or all. Only names are in memory, or a set that is one file.

    They are those of a folder of images or shards, of a .tar or .zip archive, or of a data set by its name (a
    folder of that name is ./NAME). If `config` is that data set, its files are where `config` has them.
    """
    root, named = Path(name), LISTS.keys() - {"folder"}
    if name in named:
        changes = {"name": name, "root": config.root if config.name == name else None}
    elif root.is_file():
        if split:
            raise ValueError(f"{name} is an archive, which has no splits: leave --split {split} away")
        return list_archive(root, config.size)
    elif root.is_dir():
        if not split and not any(files(root, (".tar",))):
            return list_undivided(root, config.size)
        changes = {"name": "folder", "root": root}
    else:
        wanted = f"a folder or an archive of images nor one of the data sets {', '.join(sorted(named))}"
        raise ValueError(f"{name} is neither {wanted}")
    config = config.model_copy(update=changes)
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
        wanted = "add more, or sort them into folders train, validation and test"
        raise ValueError(f"data.root: {config.root} has too few images, none for {split}; {wanted}")
    return classes, sources


def list_files(config: Data, split: Split) -> Listing:
    """Images in a folder, with or without folders for classes and splits below it; or in shards."""
    classes, splits = list_splits(config)
    return classes, splits[split]


def list_splits(config: Data) -> tuple[tuple[str, ...], dict[Split, Sources]]:
    """List the classes of a folder of images or shards, and the images of all its splits."""
    root = config.root
    if root is None or not root.is_dir():
        wrong = f"{root} is not a folder" if root else "not set"
        raise ValueError(f"data.root: {wrong}; data.name = folder needs a folder of images there")
    shards = list(files(root, (".tar",)))
    return list_shards(root, shards, config.size, cache()) if shards else list_folder(root, config.size)


LISTS: dict[str, Callable[[Data, Split], Listing]] = {
    "photographs": list_photographs,
    "digits": list_digits,
    "fashion-mnist": list_fashion,
    "cifar10": list_cifar,
    "folder": list_files,
}  # a model card describes the data with the docstring
