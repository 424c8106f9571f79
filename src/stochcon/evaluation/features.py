"""A frozen model and images become features: h, z, bits, and how uncertain each dimension is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stochcon.config import Views
from stochcon.method.model import StochCon
from stochcon.views import eval_view


@dataclass(frozen=True)
class Features:
    """Of N images, in their order, on the CPU."""

    h: Tensor
    """(N, H) the backbone's output"""
    z: Tensor | None
    """(N, D) probabilities of a Bernoulli latent, mean of a Gaussian; none for SimCLR, whose z is h"""
    bits: Tensor | None
    """(N, D) booleans; none for a latent without bits"""
    uncertainty: Tensor
    """(N, D) standard deviation of each dimension"""

    @property
    def code(self) -> Tensor | None:
        """(N, D) booleans to store: the bits, or the signs of a Gaussian's mean; none for SimCLR."""
        return self.bits if self.bits is not None or self.z is None else self.z > 0

    @property
    def probabilities(self) -> Tensor | None:
        """(N, D) how likely each bit of a sample from q(z'|x) is a one; none for SimCLR.

        Of a Gaussian the bits are signs, so it is Phi(mean / standard deviation).
        """
        if self.bits is not None or self.z is None:
            return self.z
        return torch.special.ndtr(self.z / self.uncertainty)

    @property
    def flips(self) -> Tensor | None:
        """(N, D) how likely each bit of a sample differs from that of the code, min(p, 1 - p)."""
        p = self.probabilities
        return None if p is None else torch.minimum(p, 1 - p)


@torch.inference_mode()
def extract(model: StochCon, pixels: Tensor, views: Views, batch_size: int = 256) -> Features:
    """Features of uint8 images (N, C, S, S), a batch at a time, with the model in evaluation mode.

    >>> model = StochCon(Config())
    >>> extract(model, torch.zeros(3, 3, 32, 32, dtype=torch.uint8), Config().views).h.shape
    torch.Size([3, 256])
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    parts: list[tuple[Tensor, Tensor]] = []
    for batch in pixels.split(batch_size):
        images = eval_view(batch.to(device), views).contiguous(memory_format=torch.channels_last)
        h = model.backbone(images)
        parts.append((h.cpu(), model.pi(h).cpu()))
    model.train(was_training)
    h, phi = (torch.cat(part) for part in zip(*parts, strict=True))
    latent = model.latent
    uncertainty = latent.uncertainty(phi)
    if not latent.has_code:
        return Features(h, None, None, uncertainty)
    return Features(h, latent.mean(phi), latent.logits(phi) > 0 if latent.binary else None, uncertainty)
