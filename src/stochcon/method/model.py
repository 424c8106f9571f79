"""Figure 1: the networks f, π, q, ρ and g, which both branches share."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from stochcon.config import Config
from stochcon.method import backbones, latents


class BatchNormedLinear(nn.Module):
    """Extension: π followed by a batch norm without parameters, to logits of a fixed standard deviation.

    Args:
        inputs: The width of h.
        outputs: The number of natural parameters.
        scale: The standard deviation.
    """

    def __init__(self, inputs: int, outputs: int, scale: float):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)  # the norm would take a bias out again
        self.norm = nn.BatchNorm1d(outputs, affine=False)
        self.scale = scale

    def forward(self, h: Tensor) -> Tensor:
        """Return standardised logits (N, outputs) of h (N, inputs)."""
        return self.scale * self.norm(self.linear(h))


class StochCon(nn.Module):
    """The networks of figure 1: backbone f, bottleneck π, latent q, upsampler ρ and head g.

    SimCLR is the deterministic latent with the identity for π and ρ. `Algorithm1` adds the paper's listing as forward.

    Args:
        config: The configuration, of which it reads `backbone`, `latent`, `head` and `data.channels`.

    Raises:
        ValueError: If the parts do not fit together.

    Example:
        >>> from stochcon.config import Latent
        >>> model = StochCon(Config(latent=Latent(kind="bernoulli", dim=16)))
        >>> h = model.f(torch.randn(2, 4, 3, 32, 32))[0]
        >>> h.shape, model.phi(h).shape
        (torch.Size([2, 4, 256]), torch.Size([2, 4, 16]))
    """

    def __init__(self, config: Config):
        super().__init__()
        self.backbone = backbones.build(config.backbone, config.data.channels)
        self.width = width = backbones.width(self.backbone)
        self.latent = latents.build(config.latent, width)
        self.contrasts = bool(config.latent.contrast) and self.latent.has_code
        parameters = self.latent.dim * self.latent.n_parameters
        scale = config.latent.logit_scale
        self.pi: nn.Module
        if config.latent.projection == "identity" or not self.latent.has_code:
            if parameters != width:
                wanted = width // self.latent.n_parameters
                raise ValueError(f"latent.projection: identity needs latent.dim = {wanted}")
            self.pi = nn.Identity()
        else:
            self.pi = BatchNormedLinear(width, parameters, scale) if scale else nn.Linear(width, parameters)
        whole = isinstance(self.pi, nn.Identity) and self.latent.dim == width
        self.rho: nn.Module = nn.Identity() if whole else nn.Linear(self.latent.dim, width)
        self.head = nn.Sequential(
            nn.Linear(width, config.head.hidden, bias=False),
            nn.BatchNorm1d(config.head.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(config.head.hidden, config.head.dim, bias=False),
        )

    def f(self, *branches: Tensor) -> list[Tensor]:
        """Make h of the views of each branch: (V, N, C, S, S) to (V, N, H). Equal shapes pass as one batch."""
        if len({branch.shape for branch in branches}) == 1:
            return [*self._over_views(self.backbone, torch.cat(branches)).split(len(branches[0]))]
        return [self._over_views(self.backbone, branch) for branch in branches]

    def phi(self, h: Tensor) -> Tensor:
        """Make the natural parameters of the views' latents, (V, N, H) to (V, N, n_parameters * D)."""
        return self._over_views(self.pi, h)

    def g(self, *branches: Tensor) -> list[Tensor]:
        """Make v of the h of each branch, (V, N, H) to (V, N, head.dim); the head's batch norm sees them together."""
        sizes = [len(branch) for branch in branches]
        return [*self._over_views(self.head, torch.cat(branches)).split(sizes)]

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Scale and centre a linear π by images (N, C, S, S) before the first step; nothing else changes."""
        if isinstance(self.pi, nn.Linear):
            self.latent.initialise(self.pi, deepcopy(self.backbone)(x))  # a copy's batch statistics move

    @torch.no_grad()
    def calibrate(self, h: Tensor) -> None:
        """Extension: set the thresholds of bits by plain images, since codes are made of plain images and not of views.

        Standardised logits take their mean and variance from h (N, H). A latent that translates moves its zero to the
        mean, which π's bias takes away and ρ's bias gives back, so that nothing but signs changes.
        """
        if isinstance(self.pi, BatchNormedLinear):
            variance, mean = torch.var_mean(self.pi.linear(h), dim=0)
            self.pi.norm.load_state_dict({"running_mean": mean, "running_var": variance}, strict=False)
        elif self.latent.translates and isinstance(self.pi, nn.Linear) and isinstance(self.rho, nn.Linear):
            mean = self.latent.logits(self.pi(h)).mean(0)
            self.pi.bias[: len(mean)] -= mean
            self.rho.bias.add_(self.rho.weight @ mean)

    @staticmethod
    def _over_views(module: nn.Module, x: Tensor) -> Tensor:
        """Apply a module of batches to (V, N, ...)."""
        batch = x.flatten(0, 1)
        if batch.dim() == 4:
            batch = batch.contiguous(memory_format=torch.channels_last)
        out: Tensor = module(batch)
        return out.unflatten(0, x.shape[:2])
