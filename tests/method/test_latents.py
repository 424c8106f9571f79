from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import softplus

from stochcon.config import Latent as Options
from stochcon.method import latents
from stochcon.method.latents import GumbelBernoulli, Latent, compute_hard

D = 8
ALL: dict[str, dict[str, Any]] = {
    "deterministic": {"kind": "deterministic"},
    "bernoulli-hard": {"kind": "bernoulli", "hard": True},
    "bernoulli-soft": {"kind": "bernoulli", "hard": False},
    "gaussian-own": {"kind": "gaussian", "variance": "own"},
    "gaussian-cross": {"kind": "gaussian", "variance": "cross"},
}


@pytest.fixture(params=ALL)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def latent(name: str) -> Latent:
    return latents.build(Options(**ALL[name]), D)


def draw_phi(latent: Latent, *shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    width = latent.n_parameters * latent.dim
    return torch.randn(*shape, width, generator=generator, dtype=dtype).requires_grad_()


@pytest.mark.parametrize("sample_shape", [(), (5,), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_latent_returns_a_distribution_of_width_dim_in_the_precision_of_phi(
    latent: Latent, sample_shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    phi, opposing = draw_phi(latent, 2, 4, dtype=dtype), draw_phi(latent, 2, 4, seed=1, dtype=dtype)
    q = latent(phi, opposing, 0.5)
    assert isinstance(q, Distribution) and q.has_rsample
    shape = torch.Size(sample_shape)
    assert q.rsample(shape).shape == q.sample(shape).shape == (*sample_shape, 2, 4, D)
    assert q.rsample().requires_grad and not q.sample().requires_grad
    named = [q.mean, q.stddev, latent.logits(phi), latent.mean(phi), latent.uncertainty(phi)]
    named += [latent.probabilities(phi), latent.readout(phi)]
    assert {(x.shape, x.dtype) for x in named} == {(torch.Size([2, 4, D]), dtype)}


def test_only_cross_variance_sends_a_gradient_to_the_opposing_phi(latent: Latent, name: str) -> None:
    phi, opposing = draw_phi(latent, 4), draw_phi(latent, 4, seed=1)
    z = latent(phi, opposing, 0.7).rsample()
    gradients = torch.autograd.grad(z.square().sum() + z.sum(), (phi, opposing), materialize_grads=True)
    reached = [gradient != 0 for gradient in gradients]
    if name == "gaussian-cross":
        of_mean = (torch.arange(2 * D) < D).expand(4, -1)
        assert reached[0].equal(of_mean) and reached[1].equal(~of_mean)
    else:
        assert reached[0].all() and not reached[1].any()
    assert latent.reads_opposing == (name == "gaussian-cross")


def test_a_seed_replays_a_sample(latent: Latent, name: str) -> None:
    q = latent(draw_phi(latent, 6), draw_phi(latent, 6, seed=1), 0.5)
    samples = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        samples.append(q.rsample())
    assert samples[0].equal(samples[1])
    assert samples[0].equal(samples[2]) == (name == "deterministic")


def test_samples_have_the_stated_mean_variance_and_probabilities(latent: Latent) -> None:
    """A Bernoulli's in the limit of temperature 0, where relaxed samples are bits."""
    torch.manual_seed(0)
    n, phi = 50_000, 2 * draw_phi(latent, 3, dtype=torch.float64)
    q = latent(phi, None, 1e-6)
    z = q.sample((n,))
    assert ((z.mean(0) - q.mean).abs() <= 5 * (q.variance / n).sqrt() + 1e-9).all()
    torch.testing.assert_close(z.var(0), q.variance, rtol=0.05, atol=0.01)
    torch.testing.assert_close(latent.uncertainty(phi), q.stddev)
    torch.testing.assert_close(latent.mean(phi), q.mean)
    if latent.has_code:
        ones = (z > (0.5 if latent.binary else 0)).double().mean(0)
        assert ((ones - latent.probabilities(phi)).abs() < 5 * 0.5 / n**0.5).all()
        assert ((latent.probabilities(phi) > 0.5) == (latent.logits(phi) > 0)).all()


def test_a_head_reads_h_a_mean_or_a_sample_of_bits(latent: Latent, name: str) -> None:
    phi = draw_phi(latent, 50)
    if name == "bernoulli-hard":
        assert set(latent.readout(phi).unique().tolist()) == {0.0, 1.0}
    elif name == "bernoulli-soft":  # at temperature 0.1 most of it is near a bit
        assert ((latent.readout(phi) - 0.5).abs() > 0.4).float().mean() > 0.8
    else:
        assert latent.readout(phi).equal(phi[..., :D])


def test_millions_of_samples_are_finite_in_bf16_autocast(latent: Latent) -> None:
    torch.manual_seed(0)
    huge = 1e37
    phi = torch.tensor([-huge, -1e4, -20, -1, 0, 20, 1e4, huge], dtype=torch.bfloat16)
    phi = phi.repeat(100, latent.n_parameters).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        z = latent(phi, phi, 0.01).rsample((2_500,))
        (gradient,) = torch.autograd.grad(z.sum(), phi)
    assert z.numel() == 2_000_000
    assert z.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("hard", [True, False])
def test_rare_bits_keep_their_probability_in_bf16_autocast(hard: bool) -> None:
    """A draw in bf16 has 8 bits: it would never, or far too often, beat a logit of -8."""
    torch.manual_seed(0)
    n, phi = 2_000_000, torch.tensor([-8.0, 8.0], dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        z = latents.Bernoulli(2, Options(hard=hard))(phi).rsample((n,))
    assert z.dtype == torch.float32
    rare = torch.stack([z[:, 0].round().mean(), 1 - z[:, 1].round().mean()])
    p = torch.tensor(-8.0).sigmoid()
    assert ((rare - p).abs() < 5 * (p / n).sqrt()).all()


def listing_1(relaxed: Tensor) -> Tensor:
    hard = relaxed.clone()
    hard[relaxed < 0.5] = 0.0
    hard[relaxed >= 0.5] = 1.0
    hard_diff = hard - relaxed  # sub the relaxed tensor backprop path
    return hard_diff.detach() + relaxed  # add back to keep bp path


def test_compute_hard_is_listing_1() -> None:
    relaxed = torch.cat([torch.rand(10_000), torch.tensor([0, 0.5, 1, 0.5 - 2**-25, 1e-30])]).requires_grad_()
    ours, oracle = compute_hard(relaxed), listing_1(relaxed)
    assert ours.equal(oracle)
    assert set(ours.tolist()) == {0.0, 1.0}
    gradients = [torch.autograd.grad(hard.square().sum(), relaxed)[0] for hard in (ours, oracle)]
    assert gradients[0].equal(gradients[1])


@given(temperature=st.floats(0.01, 10), scale=st.sampled_from([1e-3, 1, 30]), seed=st.integers(0, 999))
def test_hard_samples_are_rounded_soft_ones_with_the_same_gradient(temperature: float, scale: float, seed: int) -> None:
    logits = (scale * torch.randn(200, generator=torch.Generator().manual_seed(seed))).requires_grad_()
    samples = []
    for hard in (False, True):
        torch.manual_seed(seed)
        samples.append(GumbelBernoulli(logits, temperature, hard).rsample())
    soft, hard_ = samples
    assert hard_.equal((soft >= 0.5).float())
    weights = torch.linspace(-1, 1, 200)
    gradients = [torch.autograd.grad((z * weights).sum(), logits)[0] for z in samples]
    assert gradients[0].equal(gradients[1])


def test_soft_samples_tend_to_bits_as_the_temperature_falls() -> None:
    logits = torch.randn(1000, dtype=torch.float64)
    away = []
    for temperature in (1, 0.1, 0.01):
        torch.manual_seed(0)
        z = GumbelBernoulli(logits, temperature, hard=False).rsample()
        away.append((z - z.round()).abs().mean())
    assert away[0] > 5 * away[1] > 25 * away[2]


def test_the_variance_of_a_gaussian_is_read_from_the_view_it_should_be() -> None:
    phi, opposing = torch.zeros(3, 1, 2 * D), torch.arange(2.0)[:, None, None].expand(2, 1, 2 * D)
    own, cross = (latents.IsotropicGaussian(D, Options(variance=v))(phi, opposing) for v in ("own", "cross"))
    assert (own.mean == 0).all() and (cross.mean == 0).all()
    torch.testing.assert_close(own.variance, softplus(torch.zeros(3, 1, D)) ** 2)
    opposed_by = torch.tensor([0.0, 1.0, 0.0])[:, None, None]  # view k by view k mod 2
    torch.testing.assert_close(cross.variance, (softplus(opposed_by) ** 2).expand(3, 1, D))


@pytest.mark.parametrize("temperature", [0, -1])
def test_the_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature is {temperature}; it must be positive"):
        latents.Bernoulli(D)(torch.zeros(D), relaxation=temperature)


def test_a_latent_works_without_options_and_an_unknown_one_is_refused_with_those_there_are() -> None:
    assert repr(latents.Bernoulli(4)) == "Bernoulli(dim=4, hard=True)"
    assert repr(latents.IsotropicGaussian(4)) == "IsotropicGaussian(dim=4, variance=cross)"
    with pytest.raises(ValueError, match="there is no 'gauss'; there are deterministic, bernoulli, gaussian"):
        latents.build(Options(kind="gauss"), D)


@given(st.integers(1, 30), st.integers(0, 99))
def test_centred_bits_have_the_cosine_of_their_hamming_distance(dim: int, seed: int) -> None:
    latent = latents.build(Options(kind="bernoulli", dim=dim), width=7)
    phi = torch.randn(2, dim, generator=torch.Generator().manual_seed(seed))
    z = latent(phi).rsample()
    a, b = latent.centred(z)
    assert torch.cosine_similarity(a, b, dim=0).item() == pytest.approx(
        1 - 2 * (z[0] != z[1]).float().mean().item(), abs=1e-5
    )


def test_the_first_parameters_are_as_far_apart_as_asked_and_sigma_is_left_alone(latent: Latent) -> None:
    pi, h = nn.Linear(32, latent.n_parameters * D), torch.rand(200, 32)
    before = pi(h)
    latent.initialise(pi, h)
    logits = pi(h)[:, :D]
    if not latent.noise:
        assert torch.equal(logits, before[:, :D])
        return
    torch.testing.assert_close(logits.std(0), torch.full((D,), 2 * latent.noise), rtol=1e-3, atol=0)
    torch.testing.assert_close(logits.mean(0), torch.zeros(D), rtol=0, atol=1e-3)
    assert torch.equal(pi(h)[:, D:], before[:, D:])


@pytest.mark.parametrize(("kind", "hard"), [("gaussian", True), ("bernoulli", False)])
def test_the_noise_before_the_first_step_is_as_said(kind: str, hard: bool) -> None:
    latent = latents.build(Options(kind=kind, hard=hard), D)
    z = latent(torch.zeros(20_000, latent.n_parameters * D), relaxation=1.0).rsample()
    assert (z.logit() if latent.binary else z).std().item() == pytest.approx(latent.noise, rel=0.02)


def test_pi_can_be_left_as_pytorch_initialises_it() -> None:
    pi = nn.Linear(32, D)
    before = pi.weight.clone()
    latents.build(Options(initial_spread=0), D).initialise(pi, torch.rand(200, 32))
    assert torch.equal(pi.weight, before)
