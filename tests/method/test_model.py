"""Figure 1 and Algorithm 1: shapes, gradients, and which branch reads what."""

from typing import Any, Literal

import pytest
import torch
from timm.models.resnet import ResNet
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stochcon.config import Backbone, Config, Data, Latent, Views
from stochcon.method import backbones
from stochcon.method.algorithm1 import Algorithm1, Embeddings
from stochcon.method.objective import multi_crop_info_nce
from tests.method.replay import replay

N, D, WIDTH = 3, 8, 256  # images, units of the latent, the small backbone's width whatever its channels
LATENTS: dict[str, dict[str, Any]] = {
    "deterministic": {"kind": "deterministic"},
    "bernoulli-hard": {"kind": "bernoulli", "hard": True},
    "bernoulli-soft": {"kind": "bernoulli", "hard": False},
    "bernoulli-standardised": {"kind": "bernoulli", "logit_scale": 2.0},
    "gaussian-own": {"kind": "gaussian", "variance": "own"},
    "gaussian-cross": {"kind": "gaussian", "variance": "cross"},
}
STOCHASTIC = [name for name in LATENTS if name != "deterministic"]
branches = pytest.mark.parametrize(("v", "v_prime"), [(1, 1), (2, 4), (4, 2)])


def build(backbone: str = "small", channels: Literal[1, 3] = 3, **latent: Any) -> Algorithm1:
    torch.manual_seed(0)
    grey = Views(mean=(0.5,) * channels, std=(0.5,) * channels)
    parts: dict[str, Any] = {"data": Data(channels=channels), "views": grey, "latent": Latent(**latent)}
    return Algorithm1(Config(backbone=Backbone(name=backbone, width=4), **parts))


def draw_views(v: int, size: int, channels: int = 3, n: int = N, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(v, n, channels, size, size, generator=generator)


def embed(model: Algorithm1, x: Tensor, x_prime: Tensor, relaxation: float = 0.5) -> Embeddings:
    kept: list[Embeddings] = []

    def keep(embeddings: Embeddings) -> Tensor:
        kept.append(embeddings)
        return embeddings.v.sum()

    model(x, x_prime, relaxation, keep)
    return kept[0]


@pytest.mark.parametrize("name", LATENTS)
@branches
@pytest.mark.parametrize("projection", ["linear", "identity"])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(name: str, v: int, v_prime: int, projection: str, channels: Literal[1, 3]) -> None:
    identity = name == "deterministic" or projection == "identity"
    dim = (WIDTH // 2 if "gaussian" in name else WIDTH) if identity else D
    latent = LATENTS[name] | ({"logit_scale": 0.0} if projection == "identity" else {})  # needs a linear π
    model = build(**latent, dim=dim, projection=projection, channels=channels)
    out = embed(model, draw_views(v, 16, channels), draw_views(v_prime, 8, channels))
    assert out.v.shape == (v, N, 128) and out.v_prime.shape == (v_prime, N, 128)
    assert out.logits.shape == (v_prime, N, dim)


@pytest.mark.parametrize("name", LATENTS)
@branches
def test_every_parameter_has_a_gradient(name: str, v: int, v_prime: int) -> None:
    model = build(**LATENTS[name], dim=D)
    out = embed(model, draw_views(v, 16), draw_views(v_prime, 8))
    multi_crop_info_nce(out.v, out.v_prime).backward()
    for key, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.any(), key


@pytest.mark.parametrize("name", STOCHASTIC)
@branches
def test_only_one_branch_passes_through_the_latent(name: str, v: int, v_prime: int) -> None:
    """In evaluation mode, where the head's batch norm does not mix the branches."""
    model = build(**LATENTS[name], dim=D).eval()
    noise, latent = torch.randn(v_prime, N, D), model.latent
    outs = []
    for sign in (1, -1):
        model.latent = replay(latent, sign * noise)
        outs.append(embed(model, draw_views(v, 16), draw_views(v_prime, 8)))
    assert outs[0].v.equal(outs[1].v)
    assert (outs[0].v_prime != outs[1].v_prime).any(dim=-1).all()


@pytest.mark.parametrize("hard", [True, False])
def test_hard_branches_decode_bits_and_soft_ones_do_not(hard: bool) -> None:
    model = build(kind="bernoulli", hard=hard, dim=D)
    decoded = []
    model.rho.register_forward_pre_hook(lambda module, inputs: decoded.append(inputs[0]))
    embed(model, draw_views(2, 16), draw_views(4, 8), relaxation=1.0)
    (z,) = decoded
    assert z.shape == (4, N, D)
    assert ((z == 0) | (z == 1)).all() == hard
    assert ((z >= 0) & (z <= 1)).all()


@branches
@pytest.mark.parametrize("variance", ["own", "cross"])
def test_cross_variance_is_read_from_the_opposing_view_of_the_same_image(v: int, v_prime: int, variance: str) -> None:
    model = build(kind="gaussian", variance=variance, dim=D).eval()
    model.latent = replay(model.latent, torch.randn(v_prime, N, D))
    x, x_prime = draw_views(v, 16), draw_views(v_prime, 8)
    before = embed(model, x, x_prime).v_prime
    for changed in range(v):
        other = x.clone()
        other[changed, 1] += 1  # another image 1 in one view of the branch without a latent
        moved = (embed(model, other, x_prime).v_prime - before).abs().amax(-1) > 1e-6
        expected = torch.zeros(v_prime, N, dtype=torch.bool)
        if variance == "cross":
            expected[:, 1] = torch.arange(v_prime) % v == changed
        assert moved.equal(expected)


def test_simclr_is_the_deterministic_latent() -> None:
    """The head on the backbone's h of both branches, and nothing between."""
    model = build(**LATENTS["deterministic"]).eval()
    views = draw_views(2, 16)
    out = embed(model, *views.split(1))
    for v, view in zip((out.v, out.v_prime), views, strict=True):
        torch.testing.assert_close(v[0], model.head(model.backbone(view)))


def test_branches_of_one_shape_share_the_statistics_of_batch_norm() -> None:
    model, views = build(dim=D), draw_views(2, 16)
    together = model.f(*views.split(1))
    torch.testing.assert_close(torch.cat(together).flatten(0, 1), model.backbone(views.flatten(0, 1)))


def test_logits_are_standardised_on_request() -> None:
    model = build(kind="bernoulli", dim=D, logit_scale=2.0)
    logits = embed(model, draw_views(4, 8, n=16), draw_views(2, 16, n=16)).logits.flatten(0, 1)
    torch.testing.assert_close(logits.mean(0), torch.zeros(D), atol=1e-5, rtol=0)
    torch.testing.assert_close(logits.std(0, correction=0), torch.full((D,), 2.0), atol=0.01, rtol=0)


@torch.no_grad()
def test_calibration_sets_the_thresholds_by_plain_images() -> None:
    h = torch.randn(100, WIDTH) + 1
    model = build(kind="bernoulli", dim=D, logit_scale=2.0).eval()
    model.calibrate(h)
    torch.testing.assert_close(model.pi(h).mean(0), torch.zeros(D), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.pi(h).std(0), torch.full((D,), 2.0), atol=0.01, rtol=0)

    plain = build(kind="bernoulli", dim=D).eval()
    state = {key: value.clone() for key, value in plain.state_dict().items()}
    plain.calibrate(h)
    assert all(value.equal(state[key]) for key, value in plain.state_dict().items())


@pytest.mark.parametrize("variance", ["own", "cross"])
@torch.no_grad()
def test_a_gaussians_zero_is_the_mean_of_plain_images_and_nothing_else_changes(variance: str) -> None:
    model = build(kind="gaussian", variance=variance, dim=D).eval()
    h, noise = torch.randn(100, WIDTH) + 1, torch.randn(D)

    def output() -> Tensor:
        q = model.latent(model.pi(h), opposing=model.pi(h.flip(0)))
        return model.rho(q.mean + q.stddev * noise)

    before = output()
    model.calibrate(h)
    torch.testing.assert_close(model.latent.mean(model.pi(h)).mean(0), torch.zeros(D), atol=1e-5, rtol=0)
    torch.testing.assert_close(output(), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("latent", "line"),
    [
        ({"kind": "bernoulli", "dim": WIDTH, "logit_scale": 2}, "logit_scale needs"),
        ({"kind": "bernoulli", "dim": 64}, "latent.projection: identity needs latent.dim = 256"),
        ({"kind": "gaussian", "dim": 64}, "latent.projection: identity needs latent.dim = 128"),
        ({"kind": "gaussian"}, "latent.projection: identity needs latent.dim = 128"),
    ],
)
def test_an_identity_that_does_not_fit_is_refused(latent: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        build(**latent, projection="identity")


@pytest.mark.parametrize(("stem", "side"), [("small", 4), ("standard", 1)])
def test_the_small_stem_keeps_the_resolution(stem: Literal["small", "standard"], side: int) -> None:
    f = backbones.build(Backbone(name="resnet18", stem=stem), channels=3).eval()
    assert isinstance(f, ResNet)
    assert f.forward_features(torch.zeros(1, 3, 32, 32)).shape == (1, 512, side, side)


def test_the_small_resnet_has_tens_of_megaflops_at_28_pixels() -> None:
    f = backbones.build(Backbone(), channels=1).eval()
    with FlopCounterMode(display=False) as counter:
        f(torch.zeros(1, 1, 28, 28))
    assert 10e6 < counter.get_total_flops() < 50e6


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("resnet19", "timm has no 'resnet19'; it has resnet18, resnet50, resnet200"),
        ("vit_tiny_patch16_224", "'small' is for plain ResNets; vit_tiny_patch16_224 needs 'standard'"),
    ],
)
def test_a_backbone_that_cannot_be_is_refused(name: str, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        backbones.build(Backbone(name=name), channels=3)


@pytest.mark.parametrize("name", ["small", "resnet18"])
def test_folded_batch_norm_leaves_h_as_it_is(name: str) -> None:
    torch.manual_seed(0)
    network = backbones.build(Backbone(name=name, width=4), channels=3).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (*module.parameters(), module.running_mean, module.running_var):
                assert tensor is not None
                tensor.data.uniform_(0.5, 1.5)
    images = torch.rand(5, 3, 32, 32, dtype=torch.float64)
    expected = network.eval()(images)
    folded = backbones.folded(network)
    torch.testing.assert_close(folded(images), expected, rtol=1e-10, atol=1e-10)
    assert backbones.width(folded) == backbones.width(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert expected.std() > 0.1
    other = backbones.build(Backbone(name="test_vit", stem="standard"), channels=3)
    assert backbones.folded(other) is other
