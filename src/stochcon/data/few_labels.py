"""Few labels: a stratified share of the training labels, the same for everyone.

Beside this file are lists of image ids, one for each data set and share that is commonly compared on, for
use with any other code too. A share that has no list is drawn, as the lists were. They are made anew by

    python -c "from stochcon import labels; labels.write_lists()"
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stochcon import atomic
from stochcon.config import Data
from stochcon.data import sets as data
from stochcon.data.images import Images

NAMES = ("digits", "photographs", "fashion-mnist")
FRACTIONS = (0.01, 0.1)


def list_path(config: Data, fraction: float) -> Path | None:
    """The list for this share of a data set, if there is one; none for a set that is cut short by a limit."""
    path = Path(__file__).parent / "labels" / f"{config.name}-{fraction:g}.txt"
    return path if config.limit is None and path.exists() else None


def choose(images: Images, config: Data, fraction: float) -> Tensor:
    """Indices, ascending, of the training images whose labels are in use: those of the list, or drawn.

    Raises ValueError if there is no such share, or if the list has images that are not there.

    >>> config = Data(name="digits")
    >>> len(choose(data.load(config, "train"), config, 0.1))
    108
    """
    assert images.labels is not None
    path = list_path(config, fraction)
    if path is None:
        return draw(images.labels, images.classes, fraction)
    position = {name: i for i, name in enumerate(images.ids)}
    names = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    for name in names:
        if name not in position:
            raise ValueError(
                f"{path} lists {name}, which is no training image here: is data.root another data set?"
            )
    return torch.tensor(sorted(position[name] for name in names))


def draw(labels: Tensor, classes: tuple[str, ...], fraction: float) -> Tensor:
    """Indices, ascending, of a stratified share of the labels (N,).

    Always the same ones; those of a smaller share are among those of a larger. Raises ValueError if a
    class would have none.

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


def make_list(name: str, train: data.Listing, fraction: float) -> str:
    """The list of a share of a data set's training images, none of which is opened.

    >>> train = data.LISTS["digits"](Data(name="digits"), "train")
    >>> print(make_list("digits", train, 0.01).splitlines()[0])
    # 10 of the 1077 training images of digits: 1 % of each class, drawn by stochcon.labels.
    """
    classes, sources = train
    chosen = draw(torch.tensor([source.label for source in sources]), classes, fraction).tolist()
    lines = [
        f"# {len(chosen)} of the {len(sources)} training images of {name}: "
        f"{100 * fraction:g} % of each class, drawn by stochcon.labels.",
        "# No validation or test image of stochcon is among them.",
        *(sources[i].id for i in chosen),
    ]
    return "".join(line + "\n" for line in lines)


def write_lists() -> None:
    """Every list anew, from the data sets."""
    for name in NAMES:
        train = data.LISTS[name](Data.model_validate({"name": name}), "train")
        for fraction in FRACTIONS:
            path = Path(__file__).parent / "labels" / f"{name}-{fraction:g}.txt"
            atomic.write(path, make_list(name, train, fraction).encode())
