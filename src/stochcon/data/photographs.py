"""Patches of the photographs that the scikit-image and scikit-learn wheels ship; the label is the photograph.

Each photograph is cut into three strips that do not touch, so no pixel of a test patch is in any training
patch. The patches are always the same ones.
"""

from collections.abc import Iterator
from functools import partial
from importlib.resources import as_file, files

import numpy as np
from PIL import Image

from stochcon.config import Data
from stochcon.data.images import Listing, Source, Split

PHOTOGRAPHS = {
    "astronaut": "skimage/data/astronaut.png",
    "brick": "skimage/data/brick.png",
    "camera": "skimage/data/camera.png",
    "cat": "skimage/data/chelsea.png",
    "cell": "skimage/data/cell.png",
    "china": "sklearn/datasets/images/china.jpg",
    "clock": "skimage/data/clock_motion.png",
    "coffee": "skimage/data/coffee.png",
    "coins": "skimage/data/coins.png",
    "flower": "sklearn/datasets/images/flower.jpg",
    "galaxies": "skimage/data/hubble_deep_field.jpg",
    "grass": "skimage/data/grass.png",
    "gravel": "skimage/data/gravel.png",
    "moon": "skimage/data/moon.png",
    "motorcycle": "skimage/data/motorcycle_left.png",
    "retina": "skimage/data/retina.jpg",
    "rocket": "skimage/data/rocket.jpg",
    "tissue": "skimage/data/ihc.png",
}
PATCHES = {"train": 1000, "validation": 200, "test": 200}  # of each photograph
SIDES = (32, 72)  # smallest and largest side of a patch, in pixels of the photograph
GAP = 8  # pixels between two splits
FLAT = 1.0  # standard deviation of grey below which a patch is drawn again: black corners, a burnt-out sky


def photograph(name: str) -> Image.Image:
    """Open one of the 18, whole, as it is shipped (grey or colour)."""
    package, path = PHOTOGRAPHS[name].split("/", 1)
    with as_file(files(package) / path) as file, Image.open(file) as image:
        return image.copy()


def _boxes(image: Image.Image, split: Split, seed: tuple[int, int]) -> Iterator[tuple[int, int, int]]:
    """Draw left, top and side of square patches of one split. No two are the same, and none is flat.

    On the longer side, validation, train and test share the pixels 20 / 60 / 20. Train is in the middle, so
    that validation and test are equally far from it. What is chosen on the one should hold on the other.
    """
    length, breadth = max(image.size), min(image.size)
    fifth = (length - 2 * GAP) // 5
    inner = (fifth + GAP, length - fifth - GAP)
    low, high = {"validation": (0, fifth), "train": inner, "test": (length - fifth, length)}[split]
    grey = np.asarray(image.convert("L"))
    rng = np.random.default_rng(seed)
    drawn: set[tuple[int, int, int]] = set()
    while len(drawn) < PATCHES[split]:
        side = int(rng.integers(SIDES[0], SIDES[1] + 1))
        along = int(rng.integers(low, high - side + 1))
        across = int(rng.integers(0, breadth - side + 1))
        x, y = (along, across) if image.width >= image.height else (across, along)
        if (x, y, side) not in drawn and grey[y : y + side, x : x + side].std() >= FLAT:
            drawn.add((x, y, side))
            yield x, y, side


def list_photographs(config: Data, split: Split) -> Listing:
    """25,200 patches of 18 photographs (scikit-image, scikit-learn): 3,600 each to validate and to test."""
    sources = []
    for label, name in enumerate(PHOTOGRAPHS):
        image = photograph(name)
        for x, y, side in _boxes(image, split, seed=(label, list(PATCHES).index(split))):
            patch = partial(image.crop, (x, y, x + side, y + side))  # nothing is cut out yet
            sources.append(Source(f"{name}/{x}/{y}/{side}", label, patch))
    return tuple(PHOTOGRAPHS), sources
