"""Small data and networks that several tests of this room share."""

import torch
from torch import Tensor

from stochcon.config import Config
from stochcon.recipebook import recipe


def blobs(n: int, dim: int, seed: int) -> tuple[Tensor, Tensor]:
    """Make features (n, dim) of three classes that overlap; their centres are the same for every seed."""
    labels = torch.arange(n) % 3
    centres = 2 * torch.randn(3, dim, generator=torch.Generator().manual_seed(0))
    return centres[labels] + torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), labels


def tiny(kind: str, dim: int, limit: int, seed: int = 0) -> Config:
    """Configure a network of width 1 on so many digits."""
    latent = {"latent.kind": kind, "latent.dim": dim}
    return recipe("digits", seed=seed, **latent, **{"data.limit": limit, "backbone.width": 1, "rebit.steps": 2})
