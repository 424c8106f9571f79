"""A finished run and images, however many, become codes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import file_digest, sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stochcon import atomic, runs
from stochcon.codes import file as codes
from stochcon.codes.file import Codes
from stochcon.codes.packed import mean_flips
from stochcon.data import images
from stochcon.data.images import Images, Source, Split, refuse_too_many
from stochcon.data.pictures import Pictures, list_pictures
from stochcon.data.sets import list_images
from stochcon.evaluation.features import Features, extract
from stochcon.method import backbones
from stochcon.report import Speed
from stochcon.runs import load_model


class Encoder:
    """The model of a finished run: pictures to codes, or to all features.

    device: by default the GPU if there is one. Raises ValueError if the run is not finished.
    """

    def __init__(self, directory: Path | str, device: torch.device | str | None = None):
        self.directory = Path(directory)
        self.model, self.config = load_model(directory)
        self.model.backbone = backbones.folded(self.model.backbone)
        self.model.to(device or _device())
        self.hash = model_hash(directory)

    def __call__(self, pictures: Pictures, ids: Sequence[str] | None = None) -> Codes:
        """Codes of Pillow images, paths, arrays or tensors, laid out as `pictures.list_pictures` says.

        Raises ValueError for another layout, for what cannot be read, and if the run's latent has no bits.
        """
        return self._codes(self._open(pictures, ids))

    def features(self, pictures: Pictures) -> Features:
        """h, z, bits and their probabilities of the same, whatever the latent. Raises ValueError."""
        return self._extract(self._open(pictures))

    def encode(self, sources: Sequence[Source]) -> tuple[Codes, tuple[tuple[str, str], ...]]:
        """Codes of what can be read, and the ids of the rest with the reasons. Raises ValueError without bits."""
        found = self._read(sources)
        return self._codes(found), found.skipped

    def file(self, path: Path) -> Codes:
        """The code of one image file. Raises ValueError if it cannot be read."""
        return self(path, [str(path)])

    def _open(self, pictures: Pictures, ids: Sequence[str] | None = None) -> Images:
        found = self._read(list_pictures(pictures, self.config.data.size, ids))
        for name, reason in found.skipped:
            raise ValueError(f"{name} cannot be read: {reason}")
        return found

    def _read(self, sources: Sequence[Source]) -> Images:
        return images.read(sources, (), self.config.data.size, self.config.data.channels)

    def _extract(self, found: Images) -> Features:
        return extract(self.model, found.pixels, self.config.views)

    def _codes(self, found: Images) -> Codes:
        kind, features = self.config.latent.kind, self._extract(found)
        code, flips = features.code, features.flips
        if code is None or flips is None:
            raise ValueError(
                f"{self.directory} has a {kind} latent, which has no bits; "
                "pretrain with --latent.kind bernoulli or gaussian"
            )
        rates = mean_flips(flips.double().sum(0).numpy(), len(found))
        made = replace(
            Codes.pack(code.numpy(), found.ids, flips.sum(1).numpy(), self.hash, kind, rates),
            size=self.config.data.size,
            channels=self.config.data.channels,
        )
        if features.bits is None and features.z is not None:
            mean, variance = features.z.numpy(), features.uncertainty.square().numpy()
            made = replace(made, mean=mean.astype(np.float16), variance=variance.astype(np.float16))
        return made


def load(directory: Path | str, device: torch.device | str | None = None) -> Encoder:
    """The encoder of a finished run.

    >>> import tempfile
    >>> from stochcon.train import pretrain as pretraining
    >>> from stochcon import recipebook as recipes
    >>> tiny = recipes.digits().model_copy(update={"epochs": 1})
    >>> encoder = load(pretraining.pretrain(tiny, tempfile.mkdtemp() + "/run", progress=False))
    >>> codes = encoder(np.zeros((2, 28, 28, 3), np.uint8))  # of any size and colour
    >>> codes.bits, codes.ids.tolist(), encoder.features(np.zeros((28, 28), np.uint8)).h.shape
    (16, ['0', '1'], torch.Size([1, 256]))
    """
    return Encoder(directory, device)


def model_hash(directory: Path | str) -> str:
    """SHA-256 of a finished run's weights and of how it looks at an image, by which codes say what made them."""
    config = runs.read_config(Path(directory))
    views, latent = config.views, config.latent
    with open(Path(directory) / runs.MODEL, "rb") as file:
        digest = file_digest(file, "sha256")
    looks = [config.data.size, config.data.channels, views.global_size, views.mean, views.std]
    digest.update(json.dumps([*looks, config.backbone.name, latent.kind, latent.logit_scale]).encode())
    return digest.hexdigest()


def _device() -> torch.device:
    """This process's GPU, as torchrun numbers them; or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


SKIPPED = ".skipped.txt"
"""What the name of a list of images that cannot be read ends in."""


class Encoded(NamedTuple):
    """What `encode` has written."""

    path: Path
    """The file of codes, or this process's shard of it"""
    written: int
    """How many codes are in it"""
    skipped: Path | None
    """The list of images that cannot be read, a line each, its id and the reason; none if all can"""


def encode(
    directory: Path | str,
    name: str,
    out: Path | str,
    split: Split | None = None,
    batch_size: int = 512,
    progress: bool = True,
) -> Encoded:
    """Codes of a folder's, an archive's or a data set's images into the file `out`.

    Only the images' names and one batch of pixels are in memory. Batches are kept in the folder NAME.parts until all are there; so
    when this is interrupted, the same call goes on, and ends with the file that it would have made in one go.
    (The images must not change meanwhile; if the run or their names do, what depends on them is made again.)
    Under torchrun each process makes one shard, of images that follow each other; `codes.read` reads them
    all as `out`. What cannot be read is listed beside the codes, in NAME.skipped.txt, before they are there.

    Raises ValueError, and leaves `out` as it was, if the run or the images cannot be used, or if more than
    the share `data.max_bad` of the run's configuration cannot be read.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    file = codes.writable(out, rank, world)
    encoder = Encoder(directory)
    sources = list_images(name, encoder.config.data, split)
    if not sources:
        raise ValueError(f"{name} has no {split + ' ' if split else ''}images")
    sources = sources[rank * len(sources) // world : (rank + 1) * len(sources) // world]
    batches = [sources[i : i + batch_size] for i in range(0, max(1, len(sources)), batch_size)]
    folder = file.with_name(file.name + ".parts")
    parts = [folder / f"{_digest(encoder, name, batch)}.parquet" for batch in batches]
    max_bad = encoder.config.data.max_bad

    listed = b""
    with _progress_bar(progress and rank == 0) as bar:
        done = sum(len(batch) for batch, part in zip(batches, parts, strict=True) if part.exists())
        task = bar.add_task("encode", total=len(sources), completed=done, images=1)
        for batch, part in zip(batches, parts, strict=True):
            if not part.exists():
                made, skipped = encoder.encode(batch)
                _write([made], "".join(f"{path}\t{reason}\n" for path, reason in skipped).encode(), part)
                bar.update(task, advance=len(batch))
            listing = part.with_suffix(SKIPPED)
            listed += listing.read_bytes() if listing.exists() else b""
            bad = [
                (line, reason)
                for line, _, reason in (line.partition("\t") for line in listed.decode().splitlines())
            ]
            try:
                refuse_too_many(bad, len(sources), max_bad, f"images of {name}")
            except ValueError:
                shutil.rmtree(folder)  # so that files that were mended are read again
                raise
    written, where = _write(map(codes.read_one, parts), listed, file)
    shutil.rmtree(folder)
    return Encoded(file, written, where)


def _write(batches: Iterable[Codes], listed: bytes, path: Path) -> tuple[int, Path | None]:
    """First the list, so that wherever there are codes there is theirs."""
    listing = path.with_suffix(SKIPPED)
    if listed:
        atomic.write(listing, listed)
    else:
        listing.unlink(missing_ok=True)  # of an earlier file of this name
    return codes.write(batches, path), listing if listed else None


def _digest(encoder: Encoder, name: str, batch: Sequence[Source]) -> str:
    """A name for the codes of these images, which no other run's or folder's have."""
    made_of = codes.VERSION, encoder.hash, str(Path(name).absolute()), [source.id for source in batch]
    return sha256(json.dumps(made_of).encode()).hexdigest()[:32]


def _progress_bar(shown: bool) -> Progress:
    text, left = TextColumn("{task.description}"), TimeRemainingColumn()
    columns = text, BarColumn(bar_width=None), MofNCompleteColumn(), Speed(), left
    return Progress(*columns, disable=not shown, speed_estimate_period=60)
