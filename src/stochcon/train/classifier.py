"""The networks of appendix A.3 and A.2: a backbone, a latent that is kept or none, and a linear head."""

from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor, nn

from stochcon.config import Config, Latent
from stochcon.method.model import StochCon
from stochcon.runs import load_model

Mode = Literal["finetune", "finetune-h", "frozen", "supervised", "supervised-bernoulli"]

SKIP = 0.5
"""How often the supervised network's Bernoulli layer is dropped in training (A.2)."""


class Classifier(nn.Module):
    """Images to class scores, through a pretrained backbone and latent and a new linear head on z.

    A second head reads h, where z is something else. Nothing but that head learns from it. `frozen` trains the
    heads alone.
    """

    def __init__(self, model: StochCon, classes: int, frozen: bool = False):
        super().__init__()
        self.backbone, self.pi, self.latent = model.backbone, model.pi, model.latent
        self.heads = nn.ModuleDict({"top1": nn.Linear(self.latent.dim, classes)})
        if self.latent.has_code:
            self.heads["h"] = nn.Linear(model.width, classes)
        self.frozen = frozen
        if frozen:
            self.backbone.requires_grad_(False)
            self.pi.requires_grad_(False)

    @property
    def trained(self) -> nn.Module:
        """Return all that training changes."""
        return self.heads if self.frozen else self

    def train(self, mode: bool = True) -> Self:
        """Switch to training, in which π keeps the thresholds that pretraining measured."""
        super().train(mode)
        self.pi.eval()
        if self.frozen:  # not even batch norm's statistics move
            self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return each head's scores, (N, classes), of images (N, C, S, S).

        In evaluation of a binary latent the head on z reads two more things: `mean`, the probabilities of the bits,
        and `bits`, the deterministic ones.
        """
        h = self.backbone(images)
        scores = {"top1": self.heads["top1"](self.z(h))}
        if "h" in self.heads:
            scores["h"] = self.heads["h"](h.detach())
        if self.latent.binary and not self.training:
            phi = self.pi(h)
            readings = {"mean": self.latent.mean(phi), "bits": self.latent.logits(phi) > 0}
            scores |= {name: self.heads["top1"](self.upsampled(z.to(h.dtype))) for name, z in readings.items()}
        return scores

    def z(self, h: Tensor) -> Tensor:
        """Return what the head learns from, of h (N, H)."""
        return self.upsampled(self.latent.readout(self.pi(h)).to(h.dtype))

    def upsampled(self, z: Tensor) -> Tensor:
        """Return what the head reads of z (N, D): z itself."""
        return z


class DroppedBernoulli(Classifier):
    """A.2: π, a Bernoulli and ρ between h and the head; in training, half of the images skip them."""

    def __init__(self, model: StochCon, classes: int):
        super().__init__(model, classes)
        self.rho = model.rho
        self.heads = nn.ModuleDict({"top1": nn.Linear(model.width, classes)})

    def z(self, h: Tensor) -> Tensor:
        """Return ρ of a sample, or h itself where the layer is dropped."""
        through = super().z(h)
        if not self.training:
            return through
        return torch.where(torch.rand(len(h), 1, device=h.device) < SKIP, h, through)

    def upsampled(self, z: Tensor) -> Tensor:
        """Return ρ of z."""
        upsampled: Tensor = self.rho(z)
        return upsampled


def start(config: Config, directory: Path | None, mode: Mode, classes: int) -> Classifier:
    """Make the network before its first step: from the run in `directory`, or in the supervised modes a new one."""
    if mode == "supervised":
        return Classifier(_new(config, Latent(kind="deterministic")), classes)
    if mode == "supervised-bernoulli":
        return DroppedBernoulli(_new(config, Latent(kind="bernoulli", hard=False)), classes)
    assert directory is not None
    pretrained = load_model(directory)[0]
    if mode == "finetune-h":
        model = _new(config, Latent(kind="deterministic"))
        model.backbone.load_state_dict(pretrained.backbone.state_dict())
        return Classifier(model, classes)
    model = _new(config, config.latent)
    model.load_state_dict(pretrained.state_dict())
    return Classifier(model, classes, frozen=mode == "frozen")


def _new(config: Config, latent: Latent) -> StochCon:
    return StochCon(config.model_copy(update={"latent": latent})).to(memory_format=torch.channels_last)
