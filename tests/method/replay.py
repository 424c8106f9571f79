"""Latents whose noise is given, so that parts of a batch can be compared with the whole."""

from torch import Tensor
from torch.distributions import Distribution

from stochcon.method.latents import GumbelBernoulli, Latent, compute_hard


def replay(latent: Latent, noise: Tensor) -> Latent:
    """The same latent, which draws this noise (logistic for bits, normal otherwise) in place of its own."""

    class Replayed(type(latent)):  # type: ignore[misc]
        def forward(self, phi: Tensor, opposing: Tensor | None = None, relaxation: float = 0.1) -> Distribution:
            q = super().forward(phi, opposing, relaxation)
            given = noise[: len(phi)]

            def rsample() -> Tensor:
                if not isinstance(q, GumbelBernoulli):
                    return q.mean + q.stddev * given
                relaxed = ((q.logits + given) / q.temperature).sigmoid()
                return compute_hard(relaxed) if q.hard else relaxed

            q.rsample = rsample
            return q

    return Replayed(latent.dim, latent.options)
