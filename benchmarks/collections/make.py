"""Makes collections of pictures from Debian packages.

    python -m benchmarks.collections.make [icons] [wallpapers] [drawings] [--root ~/.cache/stochcon/collections]

A collection is a folder of image files in `train`, `validation` and `test`, which a run reads as it is
(`--data.name folder --data.root ROOT/icons`), and a groups.json: {path: {"group": ..., "variant": "SOURCE/RENDERING"}}.
All images of one group are in one split, by a hash of the group. The groups are:

- `icons`: icons of one name. A source is a theme, and a rendering is a size in pixels.
- `wallpapers`: overlapping crops of one picture. A source is a crop, and a rendering is a quality of JPEG.
- `drawings`: one drawing of clip art. A source is the whole or a crop, and a rendering is a size and quality of JPEG.

Transparent pictures are laid on white. Of files with the same bytes one is kept, and a wallpaper that looks like an
earlier one (by its perceptual hash) is left out. Nothing is downloaded twice.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import imagehash
from PIL import Image

from stochcon import atomic
from stochcon.data.folder import files
from stochcon.data.images import SPLITS, Split, Unreadable, open_image

ROOT = Path("~/.cache/stochcon/collections")
PACKAGES = {
    "icons": (
        "oxygen-icon-theme",
        "gnome-icon-theme",
        "mate-icon-theme",
        "tango-icon-theme",
        "faenza-icon-theme",
        "elementary-xfce-icon-theme",
    ),
    "wallpapers": (
        "gnome-backgrounds",
        "mate-backgrounds",
        "plasma-workspace-wallpapers",
        "lomiri-wallpapers-16.04",
        "lomiri-wallpapers-20.04",
        "ukui-wallpapers",
        "sway-backgrounds",
        "desktop-base",
    ),
    "drawings": ("openclipart-png",),
}
SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
THEMES = (
    "oxygen",
    "gnome",
    "mate",
    "Tango",
    "Faenza",
    "elementary-xfce",
)  # their variants, such as Faenza-Dark, are not
SIZES = (22, 32, 48, 64)
MOST_ICONS, MOST_DRAWINGS = 1200, 1200
SHORTEST_SIDE = 600  # of a wallpaper; smaller pictures are previews and parts of screens
CROPS, CROP_SIZE = 24, 160
NEAR = 6  # bits in which the hashes of two pictures that look alike differ at most


class Item(NamedTuple):
    """An image of a collection."""

    group: str
    variant: str
    """Its source and rendering, with a slash between them."""
    ending: str
    content: bytes


def split_of(group: str) -> Split:
    """Draw the split of a group by a hash of its name.

    >>> [split_of(name) for name in ("go-up", "go-down", "edit-find")]
    ['train', 'train', 'train']
    """
    position = int.from_bytes(sha256(group.encode()).digest()[:8]) / 2**64
    for split in SPLITS:
        position -= SHARES[split]
        if position < 0:
            return split
    return SPLITS[-1]


def fetch(package: str, cache: Path) -> Path:
    """Download and unpack a package of Debian, and give the folder of its files."""
    folder = cache / package
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        if not (archives := sorted(cache.glob(f"{package}_*.deb"))):
            subprocess.run(["apt-get", "download", package], cwd=cache, check=True)
            archives = sorted(cache.glob(f"{package}_*.deb"))
        partial = cache / f"{package}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        subprocess.run(["dpkg", "-x", archives[-1].absolute(), partial.absolute()], check=True)
        partial.rename(folder)
    return folder


def write(items: Iterable[Item], folder: Path) -> int:
    """Write a collection without files of the same bytes, and count its images."""
    groups: dict[str, dict[str, str]] = {}
    seen: set[bytes] = set()
    shutil.rmtree(folder, ignore_errors=True)
    for item in items:
        digest = sha256(item.content).digest()
        if digest in seen:
            continue
        seen.add(digest)
        stem = re.sub(r"[^\w.@+-]+", "-", f"{item.group}@{item.variant}")
        path = f"{split_of(item.group)}/{stem}{item.ending}"
        if path in groups:
            raise ValueError(f"two images are called {path}")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(item.content)
        groups[path] = {"group": item.group, "variant": item.variant}
    atomic.write_json(folder / "groups.json", dict(sorted(groups.items())))
    return len(groups)


def jpeg(image: Image.Image, quality: int) -> bytes:
    """Compress an image."""
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def png(image: Image.Image) -> bytes:
    """Compress an image without loss."""
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def pictures(folders: Iterable[Path]) -> list[Path]:
    """List the files of pictures in the unpacked packages; links are copies, and no pictures."""
    found = (folder / name for folder in folders for name in files(folder, (".jpeg", ".jpg", ".png", ".webp")))
    return [path for path in found if not path.is_symlink()]


def opened(path: Path, size: int) -> Image.Image | None:
    """Open a picture on white, or give nothing if it is damaged."""
    try:
        return open_image(path.read_bytes, size)
    except Unreadable:
        return None


def icons(folders: list[Path]) -> Iterator[Item]:
    """Give every icon of a name that at least two themes have, at up to four sizes."""
    by_name: dict[str, dict[tuple[str, int], Path]] = {}
    for path in pictures(folders):
        parts = path.parts
        place = next((i for i, part in enumerate(parts) if part in THEMES and parts[i - 1] == "icons"), None)
        sizes = [match[1] for part in parts[place:-1] if (match := re.fullmatch(r"(\d+)(?:x\1)?", part))]
        if place is not None and sizes and int(sizes[0]) in SIZES:
            by_name.setdefault(path.stem, {}).setdefault((parts[place], int(sizes[0])), path)
    shared = [name for name, found in by_name.items() if len({theme for theme, _ in found}) > 1]
    for name in sorted(shared, key=lambda name: sha256(name.encode()).digest())[:MOST_ICONS]:
        for (theme, size), path in sorted(by_name[name].items()):
            image = opened(path, size)
            if image is not None and image.size == (size, size):
                yield Item(name, f"{theme}/{size}", ".png", png(image))


def wallpapers(folders: list[Path]) -> Iterator[Item]:
    """Give overlapping crops of every picture, each compressed well and badly."""
    largest: dict[str, Path] = {}
    for path in pictures(folders):
        name = path.parts[-4] if path.parent.name in ("images", "images_dark") else path.stem
        name = re.sub(r"[-_](l|d|dark|light|\d+x\d+|\d+_\d+)$", "", name)
        if name not in largest or path.stat().st_size > largest[name].stat().st_size:
            largest[name] = path
    hashes: list[imagehash.ImageHash] = []
    for name, path in sorted(largest.items()):
        image = opened(path, SHORTEST_SIDE)
        if image is None or min(image.size) < SHORTEST_SIDE or max(image.size) > 3 * min(image.size):
            continue
        image.thumbnail((1280, 1280))
        seen = imagehash.phash(image)
        if any(seen - other <= NEAR for other in hashes):
            continue
        hashes.append(seen)
        draw = random.Random(name)
        for number in range(CROPS):
            side = int(min(image.size) * draw.uniform(0.4, 0.8))
            x, y = draw.randint(0, image.width - side), draw.randint(0, image.height - side)
            crop = image.crop((x, y, x + side, y + side)).resize((CROP_SIZE, CROP_SIZE), Image.Resampling.LANCZOS)
            yield Item(name, f"{number}/90", ".jpg", jpeg(crop, 90))
            small = crop.resize((CROP_SIZE // 2, CROP_SIZE // 2), Image.Resampling.BILINEAR)
            yield Item(name, f"{number}/30", ".jpg", jpeg(small, 30))


def drawings(folders: list[Path]) -> Iterator[Item]:
    """Give the whole and a crop of drawings, each compressed well and badly, one of a numbered series."""
    by_series = {re.sub(r"\d+", "", path.stem): path for path in pictures(folders)}
    chosen = sorted(by_series.values(), key=lambda path: sha256(path.name.encode()).digest())[:MOST_DRAWINGS]
    for path in chosen:
        image = opened(path, 256)
        if image is None or min(image.size) < 48:
            continue
        within = str(path).rpartition("/openclipart/png/")[2]  # many drawings have one name in several folders
        name, draw = f"{path.stem}-{sha256(within.encode()).hexdigest()[:8]}", random.Random(within)
        width, height = (int(side * draw.uniform(0.6, 0.8)) for side in image.size)
        x, y = draw.randint(0, image.width - width), draw.randint(0, image.height - height)
        for source, each in (("whole", image), ("crop", image.crop((x, y, x + width, y + height)))):
            each = each.copy()
            each.thumbnail((160, 160))
            yield Item(name, f"{source}/90", ".jpg", jpeg(each, 90))
            each.thumbnail((80, 80))
            yield Item(name, f"{source}/30", ".jpg", jpeg(each, 30))


KINDS = {"icons": icons, "wallpapers": wallpapers, "drawings": drawings}


def main() -> None:
    """Make some of the collections, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("collections", nargs="*", default=[], metavar="|".join(KINDS))
    parser.add_argument("--root", type=Path, default=ROOT)
    options = parser.parse_args()
    if wrong := [name for name in options.collections if name not in KINDS]:
        parser.error(f"there is no collection {wrong[0]!r}; there are {', '.join(KINDS)}")
    root = options.root.expanduser()
    for name in options.collections or KINDS:
        folders = [fetch(package, root / "packages") for package in PACKAGES[name]]
        print(f"{name}: {write(KINDS[name](folders), root / name):,} images", flush=True)


if __name__ == "__main__":
    main()
