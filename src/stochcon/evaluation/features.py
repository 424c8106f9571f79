"""A frozen model turns images into features, of which bits and variance can be counted without labels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from stochcon.config import Views
from stochcon.method.model import StochCon
from stochcon.views import eval_view


@dataclass(frozen=True)
class Features:
    """The features of N images in their order, on the CPU.

    Attributes:
        h: The output of the backbone, (N, H).
        uncertainty: The standard deviation of each dimension of z, (N, D).
        z: The deterministic z, (N, D): probabilities of a Bernoulli latent, means of a Gaussian. This and all
            that follows is None for SimCLR, whose z is h.
        code: The booleans to store, (N, D).
        bits: The code of a latent whose samples are bits; None for every other latent.
        probabilities: How likely each bit of a sample from q(z|x) is a one, (N, D).
    """

    h: Tensor
    uncertainty: Tensor
    z: Tensor | None = None
    code: Tensor | None = None
    bits: Tensor | None = None
    probabilities: Tensor | None = None

    @property
    def flips(self) -> Tensor | None:
        """How likely each bit of a sample differs from the code, min(p, 1 - p) of (N, D) probabilities."""
        p = self.probabilities
        return None if p is None else torch.minimum(p, 1 - p)


@torch.inference_mode()
def extract(model: StochCon, pixels: Tensor, views: Views, batch_size: int = 256) -> Features:
    """Compute the features of images, each in its one evaluation view (section 4).

    Args:
        model: A model on any device. It computes in evaluation mode and is left in the mode that it had.
        pixels: Images, uint8 (N, C, S, S).
        views: The views that the model was trained with.
        batch_size: How many images are computed at a time.

    Example:
        >>> from stochcon import Config
        >>> model = StochCon(Config())
        >>> extract(model, torch.zeros(3, 3, 32, 32, dtype=torch.uint8), Config().views).h.shape
        torch.Size([3, 256])
    """
    was_training, device = model.training, next(model.parameters()).device
    parts: list[tuple[Tensor, Tensor]] = []
    model.eval()
    try:
        for batch in pixels.split(batch_size):
            h = model.backbone(eval_view(batch.to(device), views))
            parts.append((h.cpu(), model.pi(h).cpu()))
    finally:
        model.train(was_training)
    h, phi = (torch.cat(part) for part in zip(*parts, strict=True))
    latent, uncertainty = model.latent, model.latent.uncertainty(phi)
    if not latent.has_code:
        return Features(h, uncertainty)
    code = latent.logits(phi) > 0
    return Features(h, uncertainty, latent.mean(phi), code, code if latent.binary else None, latent.probabilities(phi))


def count_bits(bits: Tensor) -> dict[str, float]:
    """Count (N, D) booleans: D, how many are ones in per cent (section 4.3), and how many never change."""
    ones = bits.sum(0)
    active, dead = 100 * bits.float().mean().item(), int(((ones == 0) | (ones == len(bits))).sum())
    return {"bits": bits.shape[1], "active": active, "dead": dead}


def aggregate_variance(uncertainty: Tensor) -> float:
    """Average the variance of q(z|x) (figure 3 right) over images and dimensions, given (N, D) deviations."""
    return uncertainty.double().square().mean().item()
