"""Figure 1 in one module: f, pi, q, rho and g.

Shapes: T top views, B bottom views, N images, H the backbone's width, D the latent's width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from stochcon.config import Config
from stochcon.method import backbones, latents


class Embedded(NamedTuple):
    """What the objective reads."""

    top: Tensor
    """v of the top branch, (T, N, head dim)."""
    bottom: Tensor
    """v of the bottom branch, (B, N, head dim)."""
    logits: Tensor
    """Of the branch that passes through the latent, (T or B, N, D)."""


class Standardised(nn.Module):
    """Extension: pi followed by a batch norm without parameters, to a fixed standard deviation."""

    def __init__(self, inputs: int, outputs: int, scale: float):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)  # the norm would take it out again
        self.norm = nn.BatchNorm1d(outputs, affine=False)
        self.scale = scale

    def forward(self, h: Tensor) -> Tensor:
        return self.scale * self.norm(self.linear(h))

    def set_statistics(self, logits: Tensor) -> None:
        """Standardise by these (N, outputs) outputs of the linear map when in evaluation mode."""
        variance, mean = torch.var_mean(logits, dim=0)
        self.norm.running_mean.copy_(mean)  # type: ignore[union-attr]
        self.norm.running_var.copy_(variance)  # type: ignore[union-attr]


class StochCon(nn.Module):
    """Both branches of figure 1, which share all their parameters; only one passes through the latent.

    >>> from stochcon.config import Config, Latent
    >>> model = StochCon(Config(latent=Latent(kind="bernoulli", dim=16)))
    >>> views, crops = torch.randn(2, 4, 3, 32, 32), torch.randn(6, 4, 3, 16, 16)
    >>> out = model(views, crops, relaxation=1.0)
    >>> out.top.shape, out.bottom.shape, out.logits.shape
    (torch.Size([2, 4, 128]), torch.Size([6, 4, 128]), torch.Size([6, 4, 16]))
    """

    def __init__(self, config: Config):
        super().__init__()
        self.placement = config.latent.placement
        self.backbone = backbones.build(config.backbone, config.data.channels)
        width = backbones.width(self.backbone)
        self.latent = latents.build(config.latent, width)
        if config.latent.kind == "deterministic" or config.latent.projection == "identity":
            if self.latent.dim * self.latent.n_parameters != width:
                raise ValueError(
                    f"latent.projection: identity needs latent.dim = {width // self.latent.n_parameters}"
                )
            self.pi: nn.Module = nn.Identity()
            self.rho: nn.Module = (
                nn.Identity() if self.latent.dim == width else nn.Linear(self.latent.dim, width)
            )
        else:
            parameters = self.latent.dim * self.latent.n_parameters
            scale = config.latent.logit_scale
            self.pi = Standardised(width, parameters, scale) if scale else nn.Linear(width, parameters)
            self.rho = nn.Linear(self.latent.dim, width)
        self.head = nn.Sequential(
            nn.Linear(width, config.head.hidden, bias=False),
            nn.BatchNorm1d(config.head.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(config.head.hidden, config.head.dim, bias=False),
        )

    def centre(self, mean: Tensor) -> None:
        """The latent's zero moves to this point (D,): pi's bias takes it away, rho's bias gives it back."""
        with torch.no_grad():
            self.pi.bias[: len(mean)] -= mean  # type: ignore[index, operator]
            self.rho.bias += self.rho.weight @ mean  # type: ignore[operator]

    def forward(
        self, global_views: Tensor, local_views: Tensor, relaxation: float, draw: Tensor | None = None
    ) -> Embedded:
        """Algorithm 1 up to the loss.

        global_views: (2, N, C, G, G); local_views: (n, N, C, L, L), n may be 0, then the second global view
        is the bottom branch. relaxation: the Bernoulli's temperature. draw: fixes the latent's randomness.
        """
        if len(local_views):
            h, h_prime = self._features(global_views), self._features(local_views)
        else:
            h, h_prime = self._features(global_views).split(1)
        if self.placement == "top":
            h, logits = self._through_latent(h, h_prime, relaxation, draw)
        else:
            h_prime, logits = self._through_latent(h_prime, h, relaxation, draw)
        v = self.head(torch.cat([h, h_prime]).flatten(0, 1)).unflatten(0, (-1, h.shape[1]))
        return Embedded(v[: len(h)], v[len(h) :], logits)

    def _features(self, views: Tensor) -> Tensor:
        """(V, N, C, S, S) to h of shape (V, N, H)."""
        images = views.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return self.backbone(images).unflatten(0, views.shape[:2])

    def _phi(self, h: Tensor) -> Tensor:
        return self.pi(h.flatten(0, 1)).unflatten(0, h.shape[:2])

    def _through_latent(
        self, h: Tensor, h_opposing: Tensor, relaxation: float, draw: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """h'' = rho(z') with z' from q(z'|x), and the logits of q; (V, N, H) to (V, N, H), (V, N, D)."""
        phi = self._phi(h)
        phi_opposing = self._phi(h_opposing) if self.latent.reads_opposing else phi
        partner = torch.arange(len(phi), device=phi.device) % len(phi_opposing)
        z = self.latent(phi, phi_opposing[partner], relaxation).rsample(draw=draw)
        return self.rho(z.to(h.dtype)), self.latent.logits(phi)
