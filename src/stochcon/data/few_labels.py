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
    """Choose the training images whose labels are in use, by the list or drawn: ascending indices."""
    assert images.labels is not None
    path = list_path(config, fraction)
    if path is None:
        return draw(images.labels, images.classes, fraction)
    listed = {line for line in path.read_text().splitlines() if not line.startswith("#")}
    if missing := listed.difference(images.ids):
        wrong = f"{min(missing)}, which is no training image here: is data.root another data set?"
        raise ValueError(f"{path} lists {wrong}")
    return torch.tensor([i for i, name in enumerate(images.ids) if name in listed])


def draw(labels: Tensor, classes: tuple[str, ...], fraction: float) -> Tensor:
    """Draw the same share of the labels (N,) of every class: ascending indices, always the same ones.

    Those of a smaller share are among those of a larger. Raises ValueError if a class would have none.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"labels is {fraction:g}; it must be a share above 0 and at most 1")
    chosen = []
    for c in labels.unique().tolist():
        members = (labels == c).nonzero()[:, 0].numpy()
        if fraction * len(members) < 1:
            none = f"none of the {len(members)} training images of class {classes[c]}"
            least = np.ceil(1000 / len(members)) / 1000
            raise ValueError(f"labels is {fraction:g}, which leaves {none}: use at least {least:g}")
        order = np.random.default_rng([0, c]).permutation(members)
        chosen.append(order[: round(fraction * len(members))])
    return torch.from_numpy(np.sort(np.concatenate(chosen)))
