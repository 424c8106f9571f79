"""Few labels: a stratified share of the training labels, the same for everyone.

Beside this file are lists of image ids, for the data sets and shares that are commonly compared, which any
other code can use too. A share without a list is drawn as the lists were. `write_lists` makes them anew.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stochcon import atomic
from stochcon.config import Data
from stochcon.data.images import Images
from stochcon.data.sets import LISTS

NAMES = ("digits", "photographs", "fashion-mnist")
FRACTIONS = (0.01, 0.1)


def list_path(config: Data, fraction: float) -> Path | None:
    """Find the list for this share of a data set. There is none for a set that is cut short by a limit."""
    path = _path(config.name, fraction)
    return path if config.limit is None and path.exists() else None


def choose(images: Images, config: Data, fraction: float) -> Tensor:
    """Choose the training images whose labels are in use: those of the list, or else drawn ones.

    Args:
        images: The training images, with labels.
        config: The data set.
        fraction: The share of the labels, above 0 and at most 1.

    Returns:
        The indices of the images, ascending.

    Raises:
        ValueError: If there is no such share, or if the list has images that are not there.

    Example:
        >>> from stochcon.data.sets import load
        >>> config = Data(name="digits")
        >>> len(choose(load(config, "train"), config, 0.1))
        108
    """
    assert images.labels is not None
    path = list_path(config, fraction)
    if path is None:
        return draw(images.labels, images.classes, fraction)
    index = {name: i for i, name in enumerate(images.ids)}
    names = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    for name in names:
        if name not in index:
            raise ValueError(
                f"{path} lists {name}, which is no training image here: is data.root another data set?"
            )
    return torch.tensor(sorted(index[name] for name in names))


def draw(labels: Tensor, classes: tuple[str, ...], fraction: float) -> Tensor:
    """Draw the same share of every class. Always draws the same images; a smaller draw is part of a larger one.

    Args:
        labels: The class of each image, (N,).
        classes: The names of the classes, for messages.
        fraction: The share of the labels, above 0 and at most 1.

    Returns:
        The indices of the images, ascending.

    Raises:
        ValueError: If there is no such share, or if a class would have no image.

    Example:
        >>> draw(torch.tensor([0, 0, 0, 0, 1, 1]), ("cat", "dog"), 0.5)
        tensor([0, 2, 4])
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"labels is {fraction:g}; it must be a share above 0 and at most 1")
    chosen = []
    for c in labels.unique().tolist():
        members = (labels == c).nonzero()[:, 0].numpy()
        if fraction * len(members) < 1:
            raise ValueError(
                f"labels is {fraction:g}, which leaves none of the {len(members)} training images of class "
                f"{classes[c]}: use at least {np.ceil(1000 / len(members)) / 1000:g}"
            )
        order = np.random.default_rng([0, c]).permutation(members)
        chosen.append(order[: round(fraction * len(members))])
    return torch.from_numpy(np.sort(np.concatenate(chosen)))


def make_list(config: Data, fraction: float) -> str:
    """Draw the list for a share of a data set's training images, none of which is opened.

    >>> print(make_list(Data(name="digits"), 0.01).splitlines()[0])
    # 10 of the 1077 training images of digits: 1 % of each class, drawn by stochcon.labels.
    """
    classes, sources = LISTS[config.name](config, "train")
    chosen = draw(torch.tensor([source.label for source in sources]), classes, fraction).tolist()
    lines = [
        f"# {len(chosen)} of the {len(sources)} training images of {config.name}: "
        f"{100 * fraction:g} % of each class, drawn by stochcon.labels.",
        "# No validation or test image of stochcon is among them.",
        *(sources[i].id for i in chosen),
    ]
    return "".join(line + "\n" for line in lines)


def write_lists() -> None:
    """Write every list anew, from the data sets."""
    for name in NAMES:
        for fraction in FRACTIONS:
            text = make_list(Data.model_validate({"name": name}), fraction)
            atomic.write(_path(name, fraction), text.encode())


def _path(name: str, fraction: float) -> Path:
    return Path(__file__).parent / "labels" / f"{name}-{fraction:g}.txt"
