"""A finished run as an encoder: pictures, a folder or a data set become codes; pictures also all features."""

import json
import shutil
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from stochcon import atomic, runs
from stochcon.codes import file
from stochcon.codes.packed import Codes, mean_flips
from stochcon.data.images import Images, Pictures, Source, Split, list_pictures, read, refuse_too_many
from stochcon.data.sets import list_images
from stochcon.evaluation.features import Features, extract
from stochcon.method import backbones
from stochcon.parallel import launched_rank, launched_world_size
from stochcon.report import progress_bar

SKIPPED = ".skipped.txt"
"""The ending of a list of images that cannot be read."""


class Encoder:
    """The model of a finished run, which encodes pictures.

    A picture is a Pillow image, the path of an image file, an array or a tensor, of any size and colour. An
    array or a tensor may hold several; `stochcon.data.images.list_pictures` describes the layouts.

    Args:
        directory: The run directory.
        device: By default the GPU if there is one.

    Raises:
        ValueError: If the run is not finished.

    Example:
        >>> import tempfile
        >>> from stochcon import pretrain, recipe
        >>> tiny = recipe("digits", epochs=1, rebit={"steps": 3})
        >>> encoder = Encoder(pretrain(tiny, tempfile.mkdtemp() + "/run", progress=False))
        >>> codes = encoder(np.zeros((2, 28, 28, 3), np.uint8))
        >>> codes.bits, codes.ids.tolist(), encoder.features(np.zeros((28, 28), np.uint8)).h.shape
        (16, ['0', '1'], torch.Size([1, 256]))
    """

    def __init__(self, directory: Path | str, device: torch.device | str | None = None):
        self.directory = Path(directory)
        self.model, self.config = runs.load_model(directory)
        self.model.backbone = backbones.folded(self.model.backbone)
        # torchrun and SLURM start one process for each GPU of a machine
        gpus = torch.cuda.device_count()
        self.model.to(device or (f"cuda:{launched_rank() % gpus}" if gpus else "cpu"))
        self.hash = model_hash(directory)

    def __call__(self, pictures: Pictures, ids: Sequence[str] | None = None) -> Codes:
        """Encode pictures, under the ids 0, 1, 2, ... if none are given.

        Raises:
            ValueError: If the layout is another, if a picture cannot be read, or if the latent has no code.
        """
        return self._codes(self._open(pictures, ids))

    def file(self, path: Path) -> Codes:
        """Encode one image file, whose id is its path."""
        return self(path, [str(path)])

    def features(self, pictures: Pictures) -> Features:
        """Extract h, z, bits and their probabilities, whatever the latent. Raises as a call does."""
        return extract(self.model, self._open(pictures).pixels, self.config.views)

    def _read(self, sources: Sequence[Source]) -> Images:
        return read(sources, (), self.config.data.size, self.config.data.channels)

    def _open(self, pictures: Pictures, ids: Sequence[str] | None = None) -> Images:
        found = self._read(list_pictures(pictures, self.config.data.size, ids))
        for name, reason in found.skipped:
            raise ValueError(f"{name} cannot be read: {reason}")
        return found

    def _codes(self, found: Images) -> Codes:
        features, latent = extract(self.model, found.pixels, self.config.views), self.config.latent.kind
        if features.code is None or features.flips is None or features.z is None:
            raise ValueError(f"{self.directory} has a {latent} latent, which has no code to store")
        about: dict[str, Any] = self.config.data.model_dump(include={"size", "channels"})
        if not self.model.latent.binary:
            about["mean"] = features.z.numpy().astype(np.float16)
            about["variance"] = features.uncertainty.square().numpy().astype(np.float16)
        uncertainty = features.flips.sum(1).numpy()
        flips = mean_flips(features.flips.double().sum(0).numpy(), len(found))
        code = features.code.numpy()
        return Codes.pack(code, found.ids, uncertainty, flips, model=self.hash, latent=latent, **about)


def load(directory: Path | str, device: torch.device | str | None = None) -> Encoder:
    """Load the encoder of a finished run; `Encoder` describes the arguments, and has an example."""
    return Encoder(directory, device)


def model_hash(directory: Path | str) -> str:
    """Compute SHA-256 of a finished run's weights and of how it looks at an image; codes carry it."""
    config = runs.read_config(Path(directory))
    views, latent = config.views, config.latent
    digest = sha256((Path(directory) / runs.MODEL).read_bytes())
    looks = [config.data.size, config.data.channels, views.global_size, views.mean, views.std]
    digest.update(json.dumps([*looks, config.backbone.name, latent.kind, latent.logit_scale]).encode())
    return digest.hexdigest()


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
    target = file.writable(out, rank, world)
    encoder = Encoder(directory)
    sources = list_images(name, encoder.config.data, split)
    if not sources:
        raise ValueError(f"{name} has no {split + ' ' if split else ''}images")
    sources = sources[rank * len(sources) // world : (rank + 1) * len(sources) // world]
    batches = [sources[i : i + batch_size] for i in range(0, max(1, len(sources)), batch_size)]
    folder = target.with_name(target.name + ".parts")
    parts: list[tuple[Path, Sequence[Source]]] = []
    for batch in batches:  # no part of another run or folder is named like one of these
        made_of = file.VERSION, encoder.hash, str(Path(name).absolute()), [source.id for source in batch]
        parts.append((folder / f"{sha256(json.dumps(made_of).encode()).hexdigest()[:32]}.parquet", batch))

    listed = b""
    with progress_bar(progress and rank == 0) as bar:
        done = sum(len(batch) for part, batch in parts if part.exists())
        task = bar.add_task("encode", total=len(sources), completed=done, images=1)
        for part, batch in parts:
            listing = part.with_suffix(SKIPPED)
            if not part.exists():
                found = encoder._read(batch)
                skipped = "".join(f"{path}\t{reason}\n" for path, reason in found.skipped)
                _write([encoder._codes(found)], skipped.encode(), part)
                bar.update(task, advance=len(batch))
            listed += listing.read_bytes() if listing.exists() else b""
            bad = [line.partition("\t")[::2] for line in listed.decode().splitlines()]
            try:
                refuse_too_many(bad, len(sources), encoder.config.data.max_bad, f"images of {name}")
            except ValueError:
                shutil.rmtree(folder)  # so that files that are mended are read again
                raise
    images = file.seen_from(target, name) if Path(name).exists() else name
    made = {"run": file.seen_from(target, directory), "images": images}
    written = _write((file.read_files([part]) for part, _ in parts), listed, target, **made)
    shutil.rmtree(folder)
    return Encoded(target, written, target.with_suffix(SKIPPED) if listed else None)


def _write(batches: Iterable[Codes], listed: bytes, path: Path, **made_of: str) -> int:
    """Write the list first, so that codes are never there without theirs."""
    listing = path.with_suffix(SKIPPED)
    if listed:
        atomic.write(listing, listed)
    else:
        listing.unlink(missing_ok=True)  # of an earlier file of this name
    return file.write(batches, path, **made_of)
