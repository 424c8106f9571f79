"""A folder of images is looked at in seconds, before anything is trained on it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import Image

from stochcon.config import Data
from stochcon.data.folder import ending, walk
from stochcon.data.images import EXTENSIONS, SPLITS, Split, Unreadable
from stochcon.data.sets import list_splits

OPENED = 200  # images that are opened, spread over the folder
MOST_HASHED = 2**26  # bytes that are read in search of equal files
GREY = 6  # levels by which the channels of a picture differ at most that is called grey


@dataclass(frozen=True)
class Survey:
    """The result of `survey`."""

    splits: dict[Split, int]
    classes: int
    ignored: dict[str, int]
    """Files that are no images that can be read, by the ending of their names, the most frequent first."""
    links: int
    """Image files that are links; links to folders are followed too."""
    twins: int
    """Image files that have the same bytes as an earlier one; of a large folder, those among the smallest files."""
    sides: tuple[int, int, int]
    """The smallest, the median and the largest shorter side, in pixels, of the images that were opened."""
    cut: float
    """The mean share of a picture that the largest centred square leaves out."""
    grey: bool
    """Whether all images that were opened are grey."""

    def lines(self) -> Iterator[str]:
        """Say in words what was found."""
        parts = ", ".join(f"{self.splits[split]:,} for {use}" for split, use in zip(SPLITS, USES, strict=True))
        kinds = f"{self.classes} class folders" if self.classes else "no class folders"
        yield f"{sum(self.splits.values()):,} images: {parts}; {kinds}"
        if self.ignored:
            named = ", ".join(f"{count:,} {ending or 'without an ending'}" for ending, count in self.ignored.items())
            yield f"not images that can be read, by the endings of their names: {named}"
        if self.links:
            yield f"links to files, which are followed: {self.links:,}"
        if self.twins:
            yield f"files with the same bytes as another: {self.twins:,}"
        low, middle, high = self.sides
        yield f"shorter sides of {low:,} to {high:,} pixels, {middle:,} in the middle"
        if self.cut > 0.01:
            yield f"each is cut to its central square, which leaves out {100 * self.cut:.0f} % of a picture on average"


USES = ("training", "validation", "test")


def survey(config: Data) -> Survey:
    """Look at a folder of images: names and sizes of all files, and the content of a few.

    Args:
        config: The data, of which `root` is a folder of image files or of shards.

    Returns:
        What is there.

    Raises:
        ValueError: If there are no images.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for i in range(40):
        ...     Image.new("L", (20 + i, 30), i).save(folder / f"{i}.png")
        >>> found = survey(Data(name="folder", root=folder))
        >>> sum(found.splits.values()), found.sides, found.grey
        (40, (20, 30, 30), True)
    """
    classes, splits = list_splits(config)
    sources = [source for split in splits.values() for source in split[:: max(1, 3 * len(split) // OPENED)]]
    sizes, greys = [], []
    for source in sources:
        try:
            image = source.open()
        except Unreadable:
            continue
        sizes.append(_size(Path(config.root or ".") / source.id) or image.size)  # a large JPEG was decoded smaller
        small = np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BOX)).astype(int)
        greys.append(np.ptp(small, axis=2).max() <= GREY)
    width, height = np.array(sizes or [(1, 1)]).T
    shorter, longer = np.minimum(width, height), np.maximum(width, height)
    endings, links, twins = _files(Path(config.root or "."))
    return Survey(
        splits={split: len(sources) for split, sources in splits.items()},
        classes=len(classes),
        ignored={last: count for last, count in endings.most_common() if last not in (*EXTENSIONS, ".tar")},
        links=links,
        twins=twins,
        sides=(int(shorter.min()), int(np.median(shorter)), int(shorter.max())),
        cut=float(1 - (shorter / longer).mean()),
        grey=all(greys),
    )


def _size(path: Path) -> tuple[int, int] | None:
    if not path.is_file():  # in a shard
        return None
    with Image.open(path) as image:
        return image.size


def _files(root: Path) -> tuple[Counter[str], int, int]:
    """Count the files by ending, the images that are links, and those that have the same bytes as another."""
    endings, links, by_size = Counter[str](), 0, dict[int, list[str]]()
    for name, entry in walk(root):
        last = ending(entry.name)
        endings[last] += 1
        if last in EXTENSIONS:
            links += entry.is_symlink()
            by_size.setdefault(entry.stat().st_size, []).append(name)
    left, twins = MOST_HASHED, 0
    for size, names in sorted(by_size.items()):
        if len(names) > 1 and (left := left - size * len(names)) >= 0:
            twins += len(names) - len({sha256((root / name).read_bytes()).digest() for name in names})
    return endings, links, twins
