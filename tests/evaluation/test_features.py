"""Features follow from the latent's contract alone; bits and variance are counted."""

import pytest
import torch

from stochcon.config import Backbone, Config, Latent
from stochcon.evaluation.features import Features, aggregate_variance, count_bits, extract
from stochcon.method.model import StochCon

IMAGES = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def features(kind: str) -> Features:
    torch.manual_seed(0)
    config = Config(latent=Latent(kind=kind, dim=8), backbone=Backbone(width=2))
    model = StochCon(config).train()
    found = extract(model, IMAGES, config.views, batch_size=2)
    assert model.training
    for one, together in zip(
        vars(extract(model, IMAGES[4:], config.views)).values(), vars(found).values(), strict=True
    ):
        if one is not None:
            torch.testing.assert_close(one, together[4:])
    return found


def test_simclr_has_no_code() -> None:
    found = features("deterministic")
    assert found.z is found.code is found.bits is found.probabilities is found.flips is None


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_a_code_is_where_a_sample_is_more_likely_a_one(kind: str) -> None:
    found = features(kind)
    assert found.z is not None and found.probabilities is not None and found.flips is not None
    assert found.z.shape == found.uncertainty.shape == (5, 8)
    assert found.code is not None and torch.equal(found.code, found.probabilities > 0.5)
    assert found.bits is (found.code if kind == "bernoulli" else None)
    torch.testing.assert_close(found.flips, 0.5 - (found.probabilities - 0.5).abs())
    if kind == "bernoulli":
        torch.testing.assert_close(found.uncertainty, (found.z * (1 - found.z)).sqrt())
        torch.testing.assert_close(found.z, found.probabilities)
    else:
        normal = torch.distributions.Normal(found.z, found.uncertainty)
        torch.testing.assert_close(found.probabilities, 1 - normal.cdf(torch.zeros(())))


def test_bits_are_counted() -> None:
    bits = torch.tensor([[1, 0, 1, 0], [1, 0, 0, 1]], dtype=torch.bool)
    assert count_bits(bits) == {"bits": 4, "active": 50.0, "dead": 2}


def test_aggregate_variance_is_the_noise_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    sigma = torch.rand(400, 3, generator=generator)
    mean = 10 * torch.randn(400, 3, generator=generator)
    draws = mean + sigma * torch.randn(2000, 400, 3, generator=generator)
    within = draws.var(0).mean().item()  # of every image and dimension over its draws
    assert aggregate_variance(sigma) == pytest.approx(within, rel=0.01)
    assert aggregate_variance(torch.zeros(5, 2)) == 0
