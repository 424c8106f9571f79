"""q(z'|x), the paper's contribution: a layer whose forward returns a distribution (sections 3, 4.2, A.1).

Every latent turns the natural parameters phi of a batch into a `torch.distributions.Distribution` with
`rsample`, and names its deterministic code, its bits if it has any, and its uncertainty per dimension.
Callers never ask which latent they have. Sampling is in float32 whatever the autocast (float64 stays).
"""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Size, Tensor, nn
from torch.distributions import Distribution, Normal, constraints

from stochcon import config


class Pathwise(Distribution):
    """A distribution whose samples are a differentiable function of its parameters and of a standard draw."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = True

    def standard_draw(self, shape: Size) -> Tensor:
        """Random numbers that do not depend on the parameters, of `sample_shape + batch_shape`."""
        raise NotImplementedError

    def push(self, draw: Tensor) -> Tensor:
        """The sample that a standard draw becomes."""
        raise NotImplementedError

    def rsample(
        self, sample_shape: Size | list[int] | tuple[int, ...] = (), draw: Tensor | None = None
    ) -> Tensor:
        """A sample of sample_shape + batch_shape; `draw` fixes its randomness (to split a batch, or to replay it)."""
        return self.push(
            self.standard_draw(self._extended_shape(Size(sample_shape))) if draw is None else draw
        )


class Point(Pathwise):
    """All mass on one value: what SimCLR's latent is.

    >>> Point(torch.tensor([1.0, 2.0])).rsample()
    tensor([1., 2.])
    """

    def __init__(self, value: Tensor):
        self.value = value
        super().__init__(value.shape, validate_args=False)

    def __repr__(self) -> str:
        return f"Point({tuple(self.value.shape)})"

    @property
    def mean(self) -> Tensor:
        return self.value

    @property
    def variance(self) -> Tensor:
        return torch.zeros_like(self.value)

    def standard_draw(self, shape: Size) -> Tensor:
        return self.value.new_zeros(shape)

    def push(self, draw: Tensor) -> Tensor:
        return self.value.expand(draw.shape).clone()


class GumbelBernoulli(Pathwise):
    """The relaxed Bernoulli of Jang et al. and Maddison et al. (2017): sigmoid((logit + logistic noise) / temperature).

    logits: (..., D). temperature: positive; towards 0 samples become 0 or 1. hard: samples are exactly 0
    or 1 and carry the gradient of the relaxation (listing 1).

    >>> q = GumbelBernoulli(torch.tensor([-2.0, 0.0, 2.0]), temperature=0.1, hard=True)
    >>> sorted(set(q.rsample((100,)).flatten().tolist()))
    [0.0, 1.0]
    """

    support = constraints.unit_interval

    def __init__(self, logits: Tensor, temperature: float, hard: bool):
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}; it must be positive")
        self.logits, self.temperature, self.hard = logits, temperature, hard
        super().__init__(logits.shape, validate_args=False)

    def __repr__(self) -> str:
        return (
            f"GumbelBernoulli({tuple(self.logits.shape)}, temperature={self.temperature}, hard={self.hard})"
        )

    @property
    def mean(self) -> Tensor:
        """The probability of a one: exact for hard samples, and for the relaxation's rounded ones."""
        return self.logits.sigmoid()

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 - self.mean)

    def standard_draw(self, shape: Size) -> Tensor:
        u = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        return torch.logit(u, eps=torch.finfo(u.dtype).eps)  # eps: a draw may round to 0 or 1

    def push(self, draw: Tensor) -> Tensor:
        relaxed = torch.sigmoid((self.logits + draw) / self.temperature)
        return compute_hard(relaxed) if self.hard else relaxed


class Gaussian(Pathwise):
    """The isotropic Gaussian of Kingma and Welling (2014): mean + sigma * noise.

    >>> Gaussian(torch.zeros(3), torch.ones(3)).rsample((5,)).shape
    torch.Size([5, 3])
    """

    support = constraints.real

    def __init__(self, mean: Tensor, sigma: Tensor):
        self.normal = Normal(mean, sigma, validate_args=False)
        super().__init__(mean.shape, validate_args=False)

    def __repr__(self) -> str:
        return f"Gaussian({tuple(self.mean.shape)})"

    @property
    def mean(self) -> Tensor:
        return self.normal.loc

    @property
    def variance(self) -> Tensor:
        return self.normal.variance

    def standard_draw(self, shape: Size) -> Tensor:
        return torch.randn(shape, dtype=self.mean.dtype, device=self.mean.device)

    def push(self, draw: Tensor) -> Tensor:
        return self.mean + self.normal.scale * draw


def compute_hard(relaxed: Tensor) -> Tensor:
    """Listing 1: the relaxed sample rounded to 0 or 1, with the gradient of the relaxed one.

    >>> compute_hard(torch.tensor([0.2, 0.5, 0.9]))
    tensor([0., 1., 1.])
    """
    hard = (relaxed >= 0.5).to(relaxed.dtype)
    return relaxed + (hard - relaxed).detach() if relaxed.requires_grad else hard


def _sampling_precision(phi: Tensor) -> Tensor:
    return phi if phi.dtype == torch.float64 else phi.float()


class Latent(Protocol):
    """What every latent offers; phi is (..., n_parameters * dim)."""

    dim: int
    n_parameters: int
    """Natural parameters per dimension: the width that pi must have is n_parameters * dim."""
    reads_opposing: bool
    """Whether q depends on the opposing view; if not, that view's phi need not be made."""

    def __call__(self, phi: Tensor, opposing: Tensor, temperature: float) -> Pathwise:
        """q(z'|x) of shape (..., dim). opposing: the phi of the opposing view; temperature: of the relaxation."""
        ...

    def logits(self, phi: Tensor) -> Tensor:
        """(..., dim): the numbers whose signs, means or values are the code."""
        ...

    def code(self, phi: Tensor) -> Tensor | None:
        """The deterministic z, (..., dim) floats: probabilities of a Bernoulli, mean of a Gaussian; None if it is h."""
        ...

    def bits(self, phi: Tensor) -> Tensor | None:
        """The deployed code, (..., dim) booleans; None where a latent has no bits."""
        ...

    def uncertainty(self, phi: Tensor) -> Tensor:
        """Standard deviation per dimension, (..., dim)."""
        ...


class Deterministic(nn.Module):
    """SimCLR: z is phi."""

    n_parameters = 1
    reads_opposing = False

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def extra_repr(self) -> str:
        return f"dim={self.dim}"

    def forward(self, phi: Tensor, opposing: Tensor, temperature: float) -> Point:
        return Point(phi)

    def logits(self, phi: Tensor) -> Tensor:
        return phi

    def code(self, phi: Tensor) -> Tensor | None:
        return None

    def bits(self, phi: Tensor) -> Tensor | None:
        return None

    def uncertainty(self, phi: Tensor) -> Tensor:
        return torch.zeros_like(phi)


class Bernoulli(nn.Module):
    """Phi is one logit a bit. hard: feed zeros and ones forward, as listing 1 does."""

    n_parameters = 1
    reads_opposing = False

    def __init__(self, dim: int, hard: bool):
        super().__init__()
        self.dim, self.hard = dim, hard

    def extra_repr(self) -> str:
        return f"dim={self.dim}, hard={self.hard}"

    def forward(self, phi: Tensor, opposing: Tensor, temperature: float) -> GumbelBernoulli:
        return GumbelBernoulli(_sampling_precision(phi), temperature, self.hard)

    def logits(self, phi: Tensor) -> Tensor:
        return phi

    def code(self, phi: Tensor) -> Tensor | None:
        return phi.sigmoid()

    def bits(self, phi: Tensor) -> Tensor | None:
        return phi > 0

    def uncertainty(self, phi: Tensor) -> Tensor:
        p = phi.sigmoid()
        return (p * (1 - p)).sqrt()


class IsotropicGaussian(nn.Module):
    """Phi is (mean, sigma before its softplus) side by side. cross: the variance is read from the opposing view (section 4.2)."""

    n_parameters = 2

    def __init__(self, dim: int, cross: bool):
        super().__init__()
        self.dim, self.cross = dim, cross

    @property
    def reads_opposing(self) -> bool:
        return self.cross

    def extra_repr(self) -> str:
        return f"dim={self.dim}, variance={'cross' if self.cross else 'own'}"

    def _mean_sigma(self, phi: Tensor, opposing: Tensor) -> tuple[Tensor, Tensor]:
        mean = _sampling_precision(phi)[..., : self.dim]
        # Softplus, not exp: cross variance pays for a wide sigma with nothing, and would grow without bound.
        return mean, F.softplus(_sampling_precision(opposing if self.cross else phi)[..., self.dim :])

    def forward(self, phi: Tensor, opposing: Tensor, temperature: float) -> Gaussian:
        return Gaussian(*self._mean_sigma(phi, opposing))

    def logits(self, phi: Tensor) -> Tensor:
        return phi[..., : self.dim]

    def code(self, phi: Tensor) -> Tensor | None:
        return phi[..., : self.dim]

    def bits(self, phi: Tensor) -> Tensor | None:
        return None

    def uncertainty(self, phi: Tensor) -> Tensor:
        return self._mean_sigma(phi, phi)[1]


def build(latent: config.Latent, width: int) -> Deterministic | Bernoulli | IsotropicGaussian:
    """The latent that the configuration names; width: that of the backbone's output, the default dim."""
    dim = latent.dim or width
    if latent.kind == "deterministic":
        return Deterministic(width)
    if latent.kind == "bernoulli":
        return Bernoulli(dim, latent.hard)
    return IsotropicGaussian(dim, cross=latent.variance == "cross")
