"""A finished run and images, however many, become a file of codes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from hashlib import file_digest
from pathlib import Path
from typing import get_args

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stochcon import codes, data, images, rundir
from stochcon.codes import Codes
from stochcon.config import Data
from stochcon.features import extract, load_model
from stochcon.folder import image_paths, list_folder, open_image
from stochcon.images import Source, Split


class Encoder:
    """The model of a finished run, from images that are not open yet to codes.

    Raises ValueError if the run is not finished, or if its latent has no bits.
    """

    def __init__(self, directory: Path | str):
        self.model, self.config = load_model(directory)
        self.hash = model_hash(directory)
        kind = self.config.latent.kind
        if kind != "bernoulli":
            raise ValueError(
                f"{directory} has a {kind} latent, which has no bits; pretrain with --latent.kind bernoulli"
            )

    def __call__(self, sources: Sequence[Source]) -> tuple[Codes, tuple[tuple[str, str], ...]]:
        """Codes of what can be read, and the ids of the rest with the reasons."""
        found = images.read(sources, (), self.config.data.size, self.config.data.channels)
        features = extract(self.model, found.pixels, self.config.views)
        assert features.bits is not None and features.z is not None  # the latent is Bernoulli
        flips = (features.z - features.bits.float()).abs().sum(1)  # min(p, 1 - p), as a bit is p > 1/2
        made = Codes.pack(features.bits.numpy(), found.ids, flips.numpy(), self.hash)
        return made, found.skipped

    def file(self, path: Path) -> Codes:
        """The code of one image file. Raises ValueError if it cannot be read."""
        code, skipped = self([file_source(path.parent, Path(path.name), self.config.data.size)])
        for _, reason in skipped:
            raise ValueError(f"{path} cannot be read: {reason}")
        return code


def model_hash(directory: Path | str) -> str:
    """SHA-256 of a finished run's weights, by which codes say what made them."""
    with open(Path(directory) / rundir.MODEL, "rb") as file:
        return file_digest(file, "sha256").hexdigest()


def file_source(root: Path, path: Path, size: int) -> Source:
    return Source(path.as_posix(), None, partial(open_image, root / path, size))


def list_images(name: str, config: Data, split: Split | None) -> Sequence[Source]:
    """Of a folder, or of a data set by its name (a folder of that name is ./NAME): one split, or all of them.

    A named set's files are where the run had them, if the run was on that set. Raises ValueError.

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
    if not root.is_dir():
        raise ValueError(f"{name} is neither a folder of images nor one of the data sets {', '.join(names)}")
    if split:
        return list_folder(root, config.size)[1][split]
    return [file_source(root, path, config.size) for path in image_paths(root)]


def encode(
    directory: Path | str,
    name: str,
    out: Path | str,
    split: Split | None = None,
    batch_size: int = 512,
    progress: bool = True,
) -> tuple[int, Path | None]:
    """Codes of a folder's or a data set's images into the file `out`: how many, and the list of those skipped.

    Only one batch of images is in memory. What cannot be read is listed beside the codes, in
    NAME.skipped.txt. Raises ValueError, and leaves `out` as it was, if the run or the images cannot be
    used, or if more than the share `data.max_bad` of the run's configuration cannot be read.
    """
    out = Path(out)
    encoder = Encoder(directory)
    sources = list_images(name, encoder.config.data, split)
    if not sources:
        raise ValueError(f"{name} has no {split + ' ' if split else ''}images")
    skipped: list[tuple[str, str]] = []

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task("images", total=len(sources))

        def batches() -> Iterator[Codes]:
            for start in range(0, len(sources), batch_size):
                chunk = sources[start : start + batch_size]
                made, bad = encoder(chunk)
                skipped.extend(bad)
                yield made
                bar.update(task, advance=len(chunk))
            if len(skipped) > encoder.config.data.max_bad * len(sources):
                first, reason = skipped[0]
                raise ValueError(
                    f"{len(skipped)} of {len(sources)} images of {name} cannot be read, more than "
                    f"data.max_bad = {encoder.config.data.max_bad:g} allows; the first is {first}: {reason}"
                )

        count = codes.write(batches(), out)

    listing = out.with_suffix(".skipped.txt")
    if not skipped:
        listing.unlink(missing_ok=True)  # of an earlier file of this name
        return count, None
    rundir.write(listing, "".join(f"{path}\t{reason}\n" for path, reason in skipped).encode())
    return count, listing
