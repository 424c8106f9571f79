from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.functional import softplus

from stochcon.config import Backbone, Config, Latent
from stochcon.method import latents
from stochcon.method.latents import Bernoulli, Deterministic, GumbelBernoulli, IsotropicGaussian, compute_hard
from stochcon.method.model import StochCon

D = 8
ALL = {
    "deterministic": Latent(kind="deterministic"),
    "bernoulli-hard": Latent(kind="bernoulli", hard=True),
    "bernoulli-soft": Latent(kind="bernoulli", hard=False),
    "gaussian-own": Latent(kind="gaussian", variance="own"),
    "gaussian-cross": Latent(kind="gaussian", variance="cross"),
}
AnyLatent = Deterministic | Bernoulli | IsotropicGaussian


@pytest.fixture(params=ALL)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def latent(name: str) -> AnyLatent:
    return latents.build(ALL[name], D)


def draw_phi(latent: AnyLatent, *shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(
        *shape, latent.n_parameters * latent.dim, generator=generator, dtype=dtype
    ).requires_grad_()


@pytest.mark.parametrize("sample_shape", [(), (5,), (2, 3)])
def test_a_latent_returns_a_distribution_of_shape_dim(
    latent: AnyLatent, sample_shape: tuple[int, ...]
) -> None:
    phi = draw_phi(latent, 2, 4)
    q = latent(phi, draw_phi(latent, 2, 4, seed=1), 0.5)
    assert isinstance(q, Distribution) and q.has_rsample
    assert q.rsample(sample_shape).shape == q.sample(sample_shape).shape == (*sample_shape, 2, 4, D)
    assert q.rsample().requires_grad and not q.sample().requires_grad
    named = [q.mean, q.variance, q.stddev, latent.logits(phi), latent.uncertainty(phi)]
    assert [x.shape for x in named] == [(2, 4, D)] * len(named)


def test_the_gradient_reaches_phi_and_only_for_cross_variance_the_opposing_phi(
    latent: AnyLatent, name: str
) -> None:
    phi, opposing = draw_phi(latent, 4), draw_phi(latent, 4, seed=1)
    z = latent(phi, opposing, 0.7).rsample()
    reached = [
        g != 0
        for g in torch.autograd.grad(z.square().sum() + z.sum(), (phi, opposing), materialize_grads=True)
    ]
    if name == "gaussian-cross":
        of_mean = (torch.arange(2 * D) < D).expand(4, -1)
        assert reached[0].equal(of_mean) and reached[1].equal(~of_mean)
    else:
        assert reached[0].all() and not reached[1].any()


def test_a_seed_or_a_draw_replays_a_sample(latent: AnyLatent, name: str) -> None:
    q = latent(draw_phi(latent, 6), draw_phi(latent, 6, seed=1), 0.5)
    samples = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        samples.append(q.rsample())
    assert samples[0].equal(samples[1])
    assert samples[0].equal(samples[2]) == (name == "deterministic")

    torch.manual_seed(0)
    draw = q.standard_draw(q.batch_shape)
    assert q.rsample(draw=draw).equal(samples[0])


def test_a_slice_of_the_draw_gives_a_slice_of_the_sample(latent: AnyLatent) -> None:
    phi, opposing = draw_phi(latent, 2, 6), draw_phi(latent, 2, 6, seed=1)
    q = latent(phi, opposing, 0.5)
    draw = q.standard_draw(q.batch_shape)
    for part in (slice(0, 2), slice(2, 6)):
        z = latent(phi[:, part], opposing[:, part], 0.5).rsample(draw=draw[:, part])
        assert z.equal(q.rsample(draw=draw)[:, part])


def test_samples_have_the_stated_mean_and_variance(latent: AnyLatent) -> None:
    """Of the Bernoulli in the limit of temperature 0, where relaxed samples are bits."""
    torch.manual_seed(0)
    n = 50_000
    q = latent(
        2 * draw_phi(latent, 3, dtype=torch.float64), draw_phi(latent, 3, seed=1, dtype=torch.float64), 1e-6
    )
    z = q.sample((n,))
    assert ((z.mean(0) - q.mean).abs() <= 5 * (q.variance / n).sqrt() + 1e-9).all()
    torch.testing.assert_close(z.var(0), q.variance, rtol=0.05, atol=0.01)


def test_code_and_uncertainty_are_those_of_the_distribution(latent: AnyLatent, name: str) -> None:
    phi = draw_phi(latent, 50, dtype=torch.float64)
    q, code = latent(phi, phi, 0.5), latent.code(phi)
    torch.testing.assert_close(latent.uncertainty(phi), q.stddev)
    if name == "deterministic":  # has no code but h
        assert code is None
    else:
        torch.testing.assert_close(code, q.mean)


def test_bits_are_the_likelier_values_and_only_bernoulli_has_them(latent: AnyLatent, name: str) -> None:
    phi = draw_phi(latent, 500, dtype=torch.float64)
    bits, code = latent.bits(phi), latent.code(phi)
    if not name.startswith("bernoulli"):
        assert bits is None
    else:
        assert bits is not None and code is not None and bits.dtype == torch.bool
        assert bits.equal(code > 0.5) and bits.equal(latent.logits(phi) > 0)


def test_millions_of_samples_are_finite_in_bf16_autocast(latent: AnyLatent) -> None:
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
        z = Bernoulli(2, hard)(phi, phi, 0.1).rsample((n,))
    assert z.dtype == torch.float32
    rare = torch.stack([z[:, 0].round().mean(), 1 - z[:, 1].round().mean()])
    p = torch.tensor(-8.0).sigmoid()
    assert ((rare - p).abs() < 5 * (p / n).sqrt()).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_precision_of_phi_is_kept(latent: AnyLatent, dtype: torch.dtype) -> None:
    phi = draw_phi(latent, 3, dtype=dtype)
    q = latent(phi, phi, 0.5)
    assert {x.dtype for x in (q.rsample(), q.mean, latent.logits(phi), latent.uncertainty(phi))} == {dtype}


@pytest.mark.parametrize(
    ("name", "module", "distribution"),
    [
        ("deterministic", "Deterministic(dim=8)", "Point((3, 8))"),
        (
            "bernoulli-hard",
            "Bernoulli(dim=8, hard=True)",
            "GumbelBernoulli((3, 8), temperature=0.5, hard=True)",
        ),
        (
            "bernoulli-soft",
            "Bernoulli(dim=8, hard=False)",
            "GumbelBernoulli((3, 8), temperature=0.5, hard=False)",
        ),
        ("gaussian-own", "IsotropicGaussian(dim=8, variance=own)", "Gaussian((3, 8))"),
        ("gaussian-cross", "IsotropicGaussian(dim=8, variance=cross)", "Gaussian((3, 8))"),
    ],
)
def test_repr(latent: AnyLatent, module: str, distribution: str) -> None:
    phi = draw_phi(latent, 3)
    assert repr(latent) == module
    assert repr(latent(phi, phi, 0.5)) == distribution


def test_a_model_that_was_saved_and_loaded_gives_the_same_embeddings(name: str, tmp_path: Path) -> None:
    config = Config(latent=ALL[name].model_copy(update={"dim": D}), backbone=Backbone(width=4))
    views, crops = torch.randn(2, 4, 3, 16, 16), torch.randn(3, 4, 3, 8, 8)
    saved, loaded = StochCon(config), StochCon(config)
    saved(views, crops, 0.5)  # statistics of batch norm, too, are then not the initial ones
    safetensors.torch.save_file(saved.state_dict(), tmp_path / "model.safetensors")
    loaded.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    outputs = []
    for model in (saved, loaded):
        torch.manual_seed(0)
        outputs.append(model.eval()(views, crops, 0.5))
    assert all(a.equal(b) for a, b in zip(*outputs, strict=True))


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


@settings(deadline=None)
@given(temperature=st.floats(0.01, 10), scale=st.sampled_from([1e-3, 1, 30]), seed=st.integers(0, 999))
def test_hard_samples_are_bits_with_the_gradient_of_the_soft_ones(
    temperature: float, scale: float, seed: int
) -> None:
    logits = (scale * torch.randn(200, generator=torch.Generator().manual_seed(seed))).requires_grad_()
    soft, hard = (GumbelBernoulli(logits, temperature, hard) for hard in (False, True))
    torch.manual_seed(seed)
    draw = soft.standard_draw(soft.batch_shape)
    z_soft, z_hard = soft.rsample(draw=draw), hard.rsample(draw=draw)
    assert ((z_hard == 0) | (z_hard == 1)).all()
    assert z_hard.equal((logits + draw >= 0).float())
    gradients = [
        torch.autograd.grad((z * torch.linspace(-1, 1, 200)).sum(), logits)[0] for z in (z_soft, z_hard)
    ]
    assert gradients[0].equal(gradients[1])


def test_soft_samples_tend_to_the_hard_ones_as_the_temperature_falls() -> None:
    logits, draw = torch.randn(2, 1000, dtype=torch.float64)
    hard = GumbelBernoulli(logits, 1.0, hard=True).rsample(draw=draw)
    away = [
        (GumbelBernoulli(logits, t, hard=False).rsample(draw=draw) - hard).abs().mean()
        for t in (1, 0.1, 0.01)
    ]
    assert away[0] > 5 * away[1] > 25 * away[2]


def test_the_variance_of_a_gaussian_is_read_from_the_view_it_should_be() -> None:
    phi, opposing = torch.zeros(1, 2 * D), torch.full((1, 2 * D), 2.0)
    own, cross = (IsotropicGaussian(D, cross)(phi, opposing, 1.0) for cross in (False, True))
    assert (own.mean == 0).all() and (cross.mean == 0).all()
    torch.testing.assert_close(own.variance, softplus(torch.zeros(1, D)) ** 2)
    torch.testing.assert_close(cross.variance, softplus(torch.full((1, D), 2.0)) ** 2)


@pytest.mark.parametrize("temperature", [0, -1])
def test_the_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature is {temperature}; it must be positive"):
        Bernoulli(D, hard=True)(torch.zeros(D), torch.zeros(D), temperature)
