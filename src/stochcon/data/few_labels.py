"""Few labels: a stratified share of the training labels, the same for everyone.

Beside this file are lists of image ids, for the data sets and shares that are commonly compared, which any
other code can use too. A list is what `draw` gives for the training images; a share without a list is drawn.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stochcon.config import Data
from stochcon.data.images import Images


def list_path(config: Data, fraction: float) -> Path | None:
    """Find the list for this share of a data set. There is none for a set that is cut short by a limit."""
    path = Path(__file__).parent / "labels" / f"{config.name}-{fraction:g}.txt"
    return path if config.limit is None and path.exists() else None


def choose(images: Images, config: Data, fraction: float) -> Tensor:
    """Choose the training images whose labels are in use, by the list or drawn: ascending indices.

    Raises ValueError if there is no such share, or if the list has images that are not there.
    """
    assert images.labels is not None
    path = list_path(config, fraction)
    if path is None:
        return draw(images.labels, images.classes, fraction)
    index = {name: i for i, name in enumerate(images.ids)}
    names = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    for name in sorted(set(names) - index.keys()):
        raise ValueError(
            f"{path} lists {name}, which is no training image here: is data.root another data set?"
        )
    return torch.tensor(sorted(index[name] for name in names))


def draw(labels: Tensor, classes: tuple[str, ...], fraction: float) -> Tensor:
    """Draw the same share of the labels (N,) of every class: ascending indices, always the same ones.

    Those of a smaller share are among those of a larger. Raises ValueError if a class would have none.

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
