"""A finished run as an encoder: pictures become codes, or all features."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import file_digest
from pathlib import Path

import numpy as np
import torch

from stochcon import runs
from stochcon.codes.packed import Codes, mean_flips
from stochcon.data import images
from stochcon.data.images import Images, Source
from stochcon.data.pictures import Pictures, list_pictures
from stochcon.evaluation.features import Features, extract
from stochcon.method import backbones
from stochcon.parallel import launched_rank


class Encoder:
    """The model of a finished run, which encodes pictures.

    A picture is a Pillow image, the path of an image file, an array or a tensor, of any size and colour. An
    array or a tensor may hold several; `stochcon.data.pictures.list_pictures` describes the layouts.

    Args:
        directory: The run directory.
        device: By default the GPU if there is one.

    Raises:
        ValueError: If the run is not finished.

    Example:
        >>> import tempfile
        >>> from stochcon import pretrain, recipe
        >>> tiny = recipe("digits").model_copy(update={"epochs": 1})
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
        return extract(self.model, self._open(pictures, None).pixels, self.config.views)

    def encode(self, sources: Sequence[Source]) -> tuple[Codes, tuple[tuple[str, str], ...]]:
        """Encode the images that can be read; returns also the ids of the others, with the reasons."""
        found = images.read(sources, (), self.config.data.size, self.config.data.channels)
        return self._codes(found), found.skipped

    def _open(self, pictures: Pictures, ids: Sequence[str] | None) -> Images:
        size, channels = self.config.data.size, self.config.data.channels
        found = images.read(list_pictures(pictures, size, ids), (), size, channels)
        for name, reason in found.skipped:
            raise ValueError(f"{name} cannot be read: {reason}")
        return found

    def _codes(self, found: Images) -> Codes:
        features, latent = extract(self.model, found.pixels, self.config.views), self.config.latent.kind
        if features.code is None or features.flips is None or features.z is None:
            raise ValueError(f"{self.directory} has a {latent} latent, which has no code to store")
        moments = {}
        if not self.model.latent.binary:
            both = {"mean": features.z, "variance": features.uncertainty.square()}
            moments = {name: values.numpy().astype(np.float16) for name, values in both.items()}
        return Codes.pack(
            features.code.numpy(),
            found.ids,
            uncertainty=features.flips.sum(1).numpy(),
            flips=mean_flips(features.flips.double().sum(0).numpy(), len(found)),
            model=self.hash,
            latent=latent,
            size=self.config.data.size,
            channels=self.config.data.channels,
            **moments,
        )


def load(directory: Path | str, device: torch.device | str | None = None) -> Encoder:
    """Load the encoder of a finished run; `Encoder` describes the arguments, and has an example."""
    return Encoder(directory, device)


def model_hash(directory: Path | str) -> str:
    """Compute SHA-256 of a finished run's weights and of how it looks at an image; codes carry it."""
    config = runs.read_config(Path(directory))
    views, latent = config.views, config.latent
    with open(Path(directory) / runs.MODEL, "rb") as file:
        digest = file_digest(file, "sha256")
    looks = [config.data.size, config.data.channels, views.global_size, views.mean, views.std]
    digest.update(json.dumps([*looks, config.backbone.name, latent.kind, latent.logit_scale]).encode())
    return digest.hexdigest()
