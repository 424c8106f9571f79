"""The networks of appendix A.3 and A.2: a backbone, a latent that is kept or none, and a linear head."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from stochcon.config import Config, Latent
from stochcon.method import backbones
from stochcon.method.model import StochCon
from stochcon.runs import load_model
from stochcon.train import loop as training

Mode = Literal["finetune", "frozen", "supervised", "supervised-bernoulli"]

TEMPERATURE = 0.1
"""Of the Bernoulli's relaxation, all the time."""
SKIP = 0.5
"""How often the supervised network's Bernoulli layer is dropped in training (A.2)."""


class Classifier(nn.Module):
    """Images to class scores, through a pretrained backbone and latent and a new linear head on z.

    A second head reads h, where z is something else. Nothing but that head learns from it.
    """

    def __init__(self, model: StochCon, classes: int, frozen: bool = False):
        super().__init__()
        self.backbone, self.pi, self.latent = model.backbone, model.pi, model.latent
        self.heads = nn.ModuleDict({"top1": nn.Linear(self.latent.dim, classes)})
        width = backbones.width(self.backbone)
        if self.latent.code(torch.empty(0, self.latent.dim * self.latent.n_parameters)) is not None:
            self.heads["h"] = nn.Linear(width, classes)
        self.frozen = frozen
        if frozen:
            self.backbone.requires_grad_(False)
            self.pi.requires_grad_(False)

    @property
    def trained(self) -> nn.Module:
        """All that training changes."""
        return self.heads if self.frozen else self

    def train(self, mode: bool = True) -> Classifier:
        super().train(mode)
        self.pi.eval()  # standardised logits keep the thresholds that pretraining measured
        if self.frozen:  # not even batch norm's statistics move
            self.backbone.eval()
        return self

    def forward(self, images: Tensor, draw: Tensor | None = None) -> dict[str, Tensor]:
        """(N, C, S, S) to each head's scores, (N, classes). draw: fixes the latent's randomness."""
        return self._scores(self.backbone(images), draw)

    def _scores(self, h: Tensor, draw: Tensor | None = None) -> dict[str, Tensor]:
        scores = {"top1": self.heads["top1"](self.z(h, draw))}
        return scores | ({"h": self.heads["h"](h.detach())} if "h" in self.heads else {})

    def readings(self, images: Tensor) -> dict[str, Tensor]:
        """The same, and `bits`: what the head on z makes of a Bernoulli's deterministic bits."""
        h = self.backbone(images)
        bits = self.bits(h)
        return self._scores(h) | ({} if bits is None else {"bits": self.heads["top1"](bits)})

    def z(self, h: Tensor, draw: Tensor | None = None) -> Tensor:
        """What the head reads: a sample of a latent with bits, the mean of another, h of none."""
        phi = self.pi(h)
        if self.latent.bits(phi) is not None:
            return self.latent(phi, phi, TEMPERATURE).rsample(draw=draw)
        mean = self.latent.code(phi)
        return h if mean is None else mean

    def bits(self, h: Tensor) -> Tensor | None:
        """In place of a sample, the bits, of a latent that has any."""
        bits = self.latent.bits(self.pi(h))
        return None if bits is None else bits.to(h.dtype)


class DroppedBernoulli(Classifier):
    """A.2: pi, a Bernoulli and rho between h and the head; in training, half of the images skip them."""

    def __init__(self, model: StochCon, classes: int):
        super().__init__(model, classes)
        self.rho = model.rho
        self.heads = nn.ModuleDict({"top1": nn.Linear(backbones.width(model.backbone), classes)})
        self.skip = SKIP

    def z(self, h: Tensor, draw: Tensor | None = None) -> Tensor:
        through = self.rho(super().z(h, draw))
        if not self.training:
            return through
        return torch.where(torch.rand(len(h), 1, device=h.device) < self.skip, h, through)

    def bits(self, h: Tensor) -> Tensor | None:
        return self.rho(super().bits(h))


def start(config: Config, directory: Path | None, mode: Mode, classes: int, seed: int) -> Classifier:
    """The network before its first step: of the run in `directory`, or in the supervised modes a new one."""
    torch.manual_seed(training.number(seed))
    if mode == "supervised":
        return Classifier(_new(config, Latent(kind="deterministic")), classes)
    if mode == "supervised-bernoulli":
        return DroppedBernoulli(_new(config, Latent(kind="bernoulli", hard=False)), classes)
    assert directory is not None
    return Classifier(load_model(directory)[0], classes, frozen=mode == "frozen")


def _new(config: Config, latent: Latent) -> StochCon:
    return StochCon(config.model_copy(update={"latent": latent})).to(memory_format=torch.channels_last)
