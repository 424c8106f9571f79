"""q(z|φ), the paper's contribution: a layer whose forward returns a distribution (sections 3, 4.2 and A.1).

A latent turns natural parameters φ into a `torch.distributions.Distribution`, and names the code that is stored
and its uncertainty. Nothing outside this file asks which latent it has: a new one is one class, put into `LATENTS`.

Samples are drawn in float32 under autocast too, since a draw in bfloat16 has 8 bits; float64 stays float64.
"""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Normal, constraints
from torch.types import _size

from stochcon import config


def compute_hard(relaxed: Tensor) -> Tensor:
    """Round a relaxed sample, numbers from 0 to 1, and keep the gradient of the relaxed one (listing 1).

    Example:
        >>> compute_hard(torch.tensor([0.2, 0.5, 0.9]))
        tensor([0., 1., 1.])
    """
    hard = (relaxed >= 0.5).to(relaxed.dtype)
    return relaxed + (hard - relaxed).detach() if relaxed.requires_grad else hard


class GumbelBernoulli(Distribution):
    """The relaxed Bernoulli of Jang et al. and Maddison et al. (2017): sigmoid((logit + logistic noise) / temperature).

    Args:
        logits: Log odds of a one, (..., D).
        temperature: The relaxation's, above 0; towards 0 every sample becomes 0 or 1.
        hard: Samples are exactly 0 or 1 and carry the gradient of the relaxation (listing 1).

    Raises:
        ValueError: If the temperature is not positive.

    Example:
        >>> q = GumbelBernoulli(torch.tensor([-2.0, 0.0, 2.0]), temperature=0.1, hard=True)
        >>> sorted(set(q.rsample((100,)).flatten().tolist()))
        [0.0, 1.0]
    """

    has_rsample = True
    support = constraints.unit_interval
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"logits": constraints.real}

    def __init__(self, logits: Tensor, temperature: float = 0.1, hard: bool = True):
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}; it must be positive")
        self.logits, self.temperature, self.hard = logits, temperature, hard
        super().__init__(logits.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The probability of a one: exact for hard samples, and for relaxed ones that are rounded."""
        return self.logits.sigmoid()

    @property
    def variance(self) -> Tensor:
        """The variance of a bit."""
        return self.mean * (1 - self.mean)

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draw samples of `sample_shape` + (..., D), differentiable with respect to the logits."""
        shape = self._extended_shape(torch.Size(sample_shape))
        u = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        noise = torch.logit(u, eps=torch.finfo(u.dtype).eps)  # a draw may round to 0 or 1
        relaxed = torch.sigmoid((self.logits + noise) / self.temperature)
        return compute_hard(relaxed) if self.hard else relaxed


class Latent(nn.Module):
    """A family of distributions q(z|φ); subclasses need no more than `forward`.

    Args:
        dim: The width D of z.
        options: The configuration's `latent`, of which a subclass reads what concerns it.
    """

    n_parameters: ClassVar[int] = 1
    """Natural parameters of each dimension: φ has n_parameters * D numbers."""
    has_code: ClassVar[bool] = True
    """Whether z is worth storing; SimCLR's is h itself."""
    binary: ClassVar[bool] = False
    """Whether samples are bits."""
    noise: ClassVar[float] = 0.0
    """Standard deviation of a sample about its logit, or mean, before the first step."""
    translates: ClassVar[bool] = False
    """Whether a constant added to the first D parameters is added to z, so that ρ's bias can undo it."""
    reads_opposing: bool = False
    """Whether q depends on the opposing views; if not, their parameters need not be made."""

    def __init__(self, dim: int, options: config.Latent | None = None):
        super().__init__()
        self.dim, self.options = dim, options or config.Latent()

    def extra_repr(self) -> str:
        """Name the width in a printed model."""
        return f"dim={self.dim}"

    def forward(self, phi: Tensor, opposing: Tensor | None = None, relaxation: float = 0.1) -> Distribution:
        """Return q(z|φ).

        Args:
            phi: Natural parameters, (..., n_parameters * D).
            opposing: The natural parameters of the opposing views, for a latent that reads them (section 4.2).
            relaxation: The temperature of a relaxed latent.

        Returns:
            A distribution of shape (..., D) that has `rsample`, `mean` and `stddev`.
        """
        raise NotImplementedError

    def logits(self, phi: Tensor) -> Tensor:
        """Return the real numbers (..., D) whose signs are the bits of the stored code."""
        return phi[..., : self.dim]

    def centred(self, z: Tensor) -> Tensor:
        """Return samples (..., D) about the threshold of their bits, so that their cosine ranks as the code does."""
        return z

    @torch.no_grad()
    def initialise(self, pi: nn.Linear, h: Tensor) -> None:
        """Scale and shift π, in place, so that the first samples say which image they are of, as `initial_spread` asks.

        Args:
            pi: The projection from h to φ.
            h: Features of images, (N, H).

        Example:
            >>> latent, pi, h = Bernoulli(8, config.Latent(initial_spread=2)), nn.Linear(32, 8), torch.rand(50, 32)
            >>> latent.initialise(pi, h)
            >>> logits = pi(h)
            >>> bool((logits.std(0) / latent.noise - 2).abs().max() < 1e-3), bool(logits.mean(0).abs().max() < 1e-3)
            (True, True)
        """
        wanted = self.options.initial_spread * self.noise
        if wanted:
            pi.weight[: self.dim] *= wanted / self.logits(pi(h)).std(0).clamp_min(1e-6)[:, None]
            pi.bias[: self.dim] -= self.logits(pi(h)).mean(0)

    def mean(self, phi: Tensor) -> Tensor:
        """Return the deterministic z, (..., D)."""
        return self(phi).mean

    def uncertainty(self, phi: Tensor) -> Tensor:
        """Return the standard deviation of each dimension, (..., D)."""
        return self(phi).stddev

    def probabilities(self, phi: Tensor) -> Tensor:
        """Return how likely each bit of a sample is a one, (..., D); as if z were normal about the logits."""
        return torch.special.ndtr(self.logits(phi) / self.uncertainty(phi))

    def readout(self, phi: Tensor) -> Tensor:
        """Return what a classifier's head reads (A.3), (..., D): the mean, "similar to VAEs at inference time"."""
        return self.mean(phi)


class Deterministic(Latent):
    """SimCLR: z is φ."""

    has_code = False

    def forward(self, phi: Tensor, opposing: Tensor | None = None, relaxation: float = 0.1) -> Distribution:
        """Return all mass on φ."""
        return Normal(phi, torch.zeros_like(phi), validate_args=False)

    def readout(self, phi: Tensor) -> Tensor:
        """Return φ."""
        return phi


class Bernoulli(Latent):
    """Bits: φ is one logit for each (Gumbel-Bernoulli, section 3)."""

    binary = True
    noise = math.pi / math.sqrt(3)  # of a logistic variable

    def extra_repr(self) -> str:
        """Name the width and the variant."""
        return f"dim={self.dim}, hard={self.options.hard}"

    def forward(self, phi: Tensor, opposing: Tensor | None = None, relaxation: float = 0.1) -> GumbelBernoulli:
        """Return relaxed bits at the temperature `relaxation`."""
        return GumbelBernoulli(_in_float32(phi), relaxation, self.options.hard)

    def centred(self, z: Tensor) -> Tensor:
        """Return samples from -1 to 1, whose inner product is D - 2 * Hamming distance."""
        return 2 * z - 1

    def probabilities(self, phi: Tensor) -> Tensor:
        """Return the probability of a one."""
        return phi.sigmoid()

    def readout(self, phi: Tensor) -> Tensor:
        """Return a sample at temperature 0.1, which A.3 fixes "for the entire finetuning process"."""
        return self(phi).rsample()


class IsotropicGaussian(Latent):
    """Real numbers: φ is the mean and, before its softplus, the standard deviation (Kingma and Welling, 2014).

    With `variance` "cross" a view's standard deviation is read from the opposing view, so that it cannot collapse
    (section 4.2). View k is opposed by view k mod m of the other branch's m views.
    """

    n_parameters = 2
    noise = math.log(2)  # σ is the softplus of about 0
    translates = True

    def __init__(self, dim: int, options: config.Latent | None = None):
        super().__init__(dim, options)
        self.reads_opposing = self.options.variance == "cross"

    def extra_repr(self) -> str:
        """Name the width and whose variance is read."""
        return f"dim={self.dim}, variance={self.options.variance}"

    def forward(self, phi: Tensor, opposing: Tensor | None = None, relaxation: float = 0.1) -> Normal:
        """Return a normal distribution; without opposing views its variance is read from φ itself."""
        source = phi
        if self.reads_opposing and opposing is not None:
            source = opposing[torch.arange(len(phi), device=phi.device) % len(opposing)]
        # Softplus and not exp: the opposing view pays nothing for a wide sigma, which would grow without bound.
        sigma = F.softplus(_in_float32(source)[..., self.dim :])
        return Normal(_in_float32(phi)[..., : self.dim], sigma, validate_args=False)


LATENTS: dict[str, type[Latent]] = {
    "deterministic": Deterministic,
    "bernoulli": Bernoulli,
    "gaussian": IsotropicGaussian,
}
"""Every latent by the name that `latent.kind` has."""


def build(options: config.Latent, width: int) -> Latent:
    """Make the latent that a configuration names.

    Args:
        options: The configuration's `latent`.
        width: The width of h, which is that of a latent without a bottleneck, and always SimCLR's.

    Raises:
        ValueError: If no latent has this name.

    Example:
        >>> build(config.Latent(kind="bernoulli", dim=16), width=256)
        Bernoulli(dim=16, hard=True)
    """
    if options.kind not in LATENTS:
        raise ValueError(f"latent.kind: there is no {options.kind!r}; there are {', '.join(LATENTS)}")
    latent = LATENTS[options.kind]
    return latent(options.dim or width if latent.has_code else width, options)


def _in_float32(phi: Tensor) -> Tensor:
    return phi if phi.dtype == torch.float64 else phi.float()
