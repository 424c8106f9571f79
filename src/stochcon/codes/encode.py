"""Encoding a folder, an archive or a data set, however large, into a file of codes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from stochcon import atomic
from stochcon.codes import file
from stochcon.codes.encoder import Encoder
from stochcon.codes.packed import Codes
from stochcon.codes.sharding import writable
from stochcon.data.decode import refuse_too_many
from stochcon.data.images import Source, Split
from stochcon.data.sets import list_images
from stochcon.parallel import launched_rank, launched_world_size
from stochcon.report import progress_bar

SKIPPED = ".skipped.txt"
"""The ending of a list of images that cannot be read."""


class Encoded(NamedTuple):
    """The file that `encode` has written, how many codes it has, and the list of skipped images, if any."""

    path: Path
    written: int
    skipped: Path | None


def encode(
    directory: Path | str,
    name: str,
    out: Path | str,
    split: Split | None = None,
    batch_size: int = 512,
    progress: bool = True,
) -> Encoded:
    """Write the codes of images to a file.

    Only the names and one batch of pixels are in memory. Batches are kept in the folder NAME.parts until all
    are there. So after an interruption the same call goes on, and ends with the file that it would have made
    in one go. The images must not change meanwhile; parts of another run or of other images are made again.

    Under torchrun or SLURM each process writes one shard. `read_codes` and `search` take them together.

    Args:
        directory: A finished run, whose latent has a code.
        name: A folder of images or of shards, a .tar or .zip archive, or the name of a data set.
        out: The file of codes. NAME.skipped.txt beside it lists images that cannot be read, with reasons.
        split: Only the images of this split; by default all.
        batch_size: The number of images at once; an interruption loses at most so many.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If the run or the images cannot be used, or if a larger share of them cannot be read than
            `data.max_bad` of the run's configuration allows. `out` is left as it was.
    """
    rank, world = launched_rank(), launched_world_size()
    target = writable(out, rank, world)
    encoder = Encoder(directory)
    sources = list_images(name, encoder.config.data, split)
    if not sources:
        raise ValueError(f"{name} has no {split + ' ' if split else ''}images")
    sources = sources[rank * len(sources) // world : (rank + 1) * len(sources) // world]
    batches = [sources[i : i + batch_size] for i in range(0, max(1, len(sources)), batch_size)]
    folder = target.with_name(target.name + ".parts")
    parts = [folder / f"{_digest(encoder, name, batch)}.parquet" for batch in batches]

    listed = b""
    with progress_bar(progress and rank == 0) as bar:
        done = sum(len(batch) for batch, part in zip(batches, parts, strict=True) if part.exists())
        task = bar.add_task("encode", total=len(sources), completed=done, images=1)
        for batch, part in zip(batches, parts, strict=True):
            if not part.exists():
                made, skipped = encoder.encode(batch)
                _write([made], "".join(f"{path}\t{reason}\n" for path, reason in skipped).encode(), part)
                bar.update(task, advance=len(batch))
            if (listing := part.with_suffix(SKIPPED)).exists():
                listed += listing.read_bytes()
            try:
                bad = [(line.split("\t")[0], line.split("\t")[-1]) for line in listed.decode().splitlines()]
                refuse_too_many(bad, len(sources), encoder.config.data.max_bad, f"images of {name}")
            except ValueError:
                shutil.rmtree(folder)  # so that files that are mended are read again
                raise
    written = _write((file.read_files([part]) for part in parts), listed, target)
    shutil.rmtree(folder)
    return Encoded(target, written, target.with_suffix(SKIPPED) if listed else None)


def _write(batches: Iterable[Codes], listed: bytes, path: Path) -> int:
    """Write the list first, so that codes are never there without theirs."""
    listing = path.with_suffix(SKIPPED)
    if listed:
        atomic.write(listing, listed)
    else:
        listing.unlink(missing_ok=True)  # of an earlier file of this name
    return file.write(batches, path)


def _digest(encoder: Encoder, name: str, batch: Sequence[Source]) -> str:
    """Name the part of these images, as no part of another run or folder is named."""
    made_of = file.VERSION, encoder.hash, str(Path(name).absolute()), [source.id for source in batch]
    return sha256(json.dumps(made_of).encode()).hexdigest()[:32]
