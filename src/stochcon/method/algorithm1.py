"""Algorithm 1, the paper's listing. Training calls it; multi-crop, chunks, processes and schedules are around it.

Shapes: V views of one branch, N images, C channels, S pixels a side, D the latent's width.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from stochcon.method.model import StochCon


class Embeddings(NamedTuple):
    """The outputs of Algorithm 1 that an objective reads."""

    v: Tensor
    """v of the branch without a latent, (V, N, head.dim)."""
    v_prime: Tensor
    """v' of the branch that passes through the latent, (V', N, head.dim)."""
    logits: Tensor
    """The latent's logits, or means, (V', N, D)."""
    c: Tensor
    """Extension: centred samples of the branch without a latent, (V, N, D); without `latent.contrast` (V, N, 0)."""
    c_prime: Tensor
    """Those of the branch that passes through it, (V', N, D) or (V', N, 0)."""


Objective = Callable[[Embeddings], Tensor]
"""Embeddings to the scalar that training minimises."""


class Algorithm1(StochCon):
    """The model in training: its forward is the paper's listing, and each comment is a line of it.

    Fabric and DistributedDataParallel wrap a module's forward, so the listing runs on any number of processes.

    Example:
        >>> import torch
        >>> from stochcon.config import Config
        >>> from stochcon.method.objective import info_nce
        >>> views = torch.randn(2, 8, 3, 32, 32).split(1)
        >>> loss = Algorithm1(Config())(*views, 1.0, lambda e: info_nce(e.v[0], e.v_prime[0]))
        >>> loss.shape
        torch.Size([])
    """

    def forward(self, x: Tensor, x_prime: Tensor, relaxation: float, objective: Objective) -> Tensor:
        """Run Algorithm 1 for one batch.

        Args:
            x: Augmented images of the branch without a latent, (V, N, C, S, S).
            x_prime: Those of the branch that passes through it, (V', N, C, S', S').
            relaxation: The temperature of a relaxed latent.
            objective: L, equation 1 over pairs of views.

        Returns:
            The loss to minimise, a scalar.
        """
        h, h_prime = self.f(x, x_prime)  # {h, h'} = {f(x̂), f(x̂')}
        phi = self.phi(h_prime)  # φ' = π(h'), (optional) bottleneck projection
        reads = self.latent.reads_opposing or self.contrasts
        opposing = self.phi(h) if reads else None  # section 4.2: the opposing view's σ
        q = self.latent(phi, opposing, relaxation)
        z = q.rsample()  # z' ~ q(z|x), pathwise differentiable
        h_second = self.rho(z.to(h.dtype))  # h'' = ρ(z'), (optional) bottleneck upsampler
        v, v_prime = self.g(h, h_second)  # {v, v'} = {g(h), g(h'')}
        c, c_prime = h[..., :0], h_prime[..., :0]
        if opposing is not None and self.contrasts:
            c, c_prime = (self.latent.centred(x) for x in (self.latent(opposing, phi, relaxation).rsample(), z))
        return objective(Embeddings(v, v_prime, self.latent.logits(phi), c, c_prime))  # min L_InfoNCE(v, v')
