from typing import Any, Literal

import pytest
import torch
from timm.models.resnet import ResNet
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stochcon.config import Backbone, Config, Data, Latent, Views
from stochcon.method import backbones
from stochcon.method.model import Embedded, Standardised, StochCon
from stochcon.method.objective import multi_crop_info_nce

N, D, WIDTH = 3, 8, 256  # images, units of the latent, the small backbone's width whatever its channels
LATENTS: dict[str, dict[str, Any]] = {
    "deterministic": {"kind": "deterministic"},
    "bernoulli-hard": {"kind": "bernoulli", "hard": True},
    "bernoulli-soft": {"kind": "bernoulli", "hard": False},
    "bernoulli-standardised": {"kind": "bernoulli", "logit_scale": 2.0},
    "gaussian-own": {"kind": "gaussian", "variance": "own"},
    "gaussian-cross": {"kind": "gaussian", "variance": "cross"},
}
all_latents = pytest.mark.parametrize("name", LATENTS)
all_placements = pytest.mark.parametrize("placement", ["top", "bottom"])
with_and_without_local = pytest.mark.parametrize("n_local", [0, 1, 4])


def build(backbone: str = "small", channels: Literal[1, 3] = 3, **latent: Any) -> StochCon:
    torch.manual_seed(0)
    views = Views(mean=(0.5,) * channels, std=(0.5,) * channels)
    config = Config(
        data=Data(channels=channels),
        views=views,
        backbone=Backbone(name=backbone, width=4),
        latent=Latent(**latent),
    )
    return StochCon(config)


def draw_views(n_local: int, channels: int = 3, n: int = N) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, n, channels, 16, 16), torch.randn(n_local, n, channels, 8, 8)


def draw_noise(placement: str, n_local: int, width: int = D) -> Tensor:
    """The latent's randomness, for as many views as the branch has that passes through it."""
    torch.manual_seed(2)
    views = 1 if n_local == 0 else 2 if placement == "top" else n_local
    return torch.randn(views, N, width)


@all_latents
@all_placements
@with_and_without_local
@pytest.mark.parametrize("projection", ["linear", "identity"])
def test_shapes(name: str, placement: str, n_local: int, projection: str) -> None:
    identity = name == "deterministic" or projection == "identity"
    dim = (WIDTH // 2 if "gaussian" in name else WIDTH) if identity else D
    latent = LATENTS[name] | ({"logit_scale": 0.0} if projection == "identity" else {})  # needs a linear pi
    model = build(**latent, dim=dim, placement=placement, projection=projection)
    out = model(*draw_views(n_local), relaxation=0.5)
    n_top, n_bottom = (2, n_local) if n_local else (1, 1)
    assert out.top.shape == (n_top, N, 128) and out.bottom.shape == (n_bottom, N, 128)
    assert out.logits.shape == (n_top if placement == "top" else n_bottom, N, dim)


# Not the standardised one: its batch norm takes pi's bias away.
@pytest.mark.parametrize("name", [name for name in LATENTS if name != "bernoulli-standardised"])
@all_placements
@with_and_without_local
def test_every_parameter_has_a_gradient(name: str, placement: str, n_local: int) -> None:
    model = build(**LATENTS[name], dim=D, placement=placement)
    out = model(*draw_views(n_local), relaxation=0.5)
    multi_crop_info_nce(out.top, out.bottom).backward()
    without = [
        key
        for key, p in model.named_parameters()
        if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()
    ]
    assert not without


@pytest.mark.parametrize("name", [name for name in LATENTS if name != "deterministic"])
@all_placements
@with_and_without_local
def test_only_the_placed_branch_passes_through_the_latent(name: str, placement: str, n_local: int) -> None:
    """In evaluation mode, where the head's batch norm does not mix the branches."""
    model = build(**LATENTS[name], dim=D, placement=placement).eval()
    views, noise = draw_views(n_local), draw_noise(placement, n_local)
    one, two = model(*views, 0.5, draw=noise), model(*views, 0.5, draw=-noise)
    stochastic, plain = ("top", "bottom") if placement == "top" else ("bottom", "top")
    assert getattr(one, plain).equal(getattr(two, plain))
    assert (getattr(one, stochastic) != getattr(two, stochastic)).any(dim=-1).all()


@all_placements
@pytest.mark.parametrize("hard", [True, False])
def test_hard_placed_branches_decode_bits_and_soft_ones_do_not(placement: str, hard: bool) -> None:
    model = build(kind="bernoulli", hard=hard, placement=placement, dim=D)
    decoded = []
    model.rho.register_forward_pre_hook(lambda module, inputs: decoded.append(inputs[0]))
    model(*draw_views(4), relaxation=1.0)
    (z,) = decoded
    assert z.shape == (2 if placement == "top" else 4, N, D)
    assert ((z == 0) | (z == 1)).all() == hard
    assert ((z >= 0) & (z <= 1)).all()


@all_placements
@with_and_without_local
@pytest.mark.parametrize("variance", ["own", "cross"])
def test_cross_variance_is_read_from_the_opposing_view_of_the_same_image(
    placement: str, n_local: int, variance: str
) -> None:
    model = build(kind="gaussian", variance=variance, placement=placement, dim=D).eval()
    noise = draw_noise(placement, n_local)

    def run(change: int | None = None) -> Embedded:
        """With another image 1 in view `change` of the branch that does not pass through the latent."""
        views = draw_views(n_local)
        opposing = views[0] if placement == "bottom" or n_local == 0 else views[1]
        if change is not None:
            opposing[change if n_local else int(placement == "top"), 1] += 1
        return model(*views, 0.5, draw=noise)

    before = getattr(run(), placement)
    n_opposing = 1 if n_local == 0 else 2 if placement == "bottom" else n_local
    for change in range(n_opposing):
        moved = (getattr(run(change), placement) - before).abs().amax(-1) > 1e-6
        expected = torch.zeros(len(before), N, dtype=torch.bool)
        if variance == "cross":
            expected[:, 1] = torch.arange(len(before)) % n_opposing == change
        assert moved.equal(expected)


def test_simclr_is_the_deterministic_latent() -> None:
    """The head on the backbone's h of both branches, and nothing between."""
    model = build(**LATENTS["deterministic"]).eval()
    global_views, _ = draw_views(0)
    out = model(*draw_views(0), relaxation=0.5)
    for v, view in zip((out.top, out.bottom), global_views, strict=True):
        torch.testing.assert_close(v[0], model.head(model.backbone(view)))


def test_logits_are_standardised_on_request() -> None:
    model = build(kind="bernoulli", dim=D, logit_scale=2.0)
    logits = model(*draw_views(4, n=16), relaxation=0.5).logits.flatten(0, 1)
    torch.testing.assert_close(logits.mean(0), torch.zeros(D), atol=1e-5, rtol=0)
    torch.testing.assert_close(logits.std(0, correction=0), torch.full((D,), 2.0), atol=0.01, rtol=0)


@torch.no_grad()
def test_in_evaluation_logits_are_standardised_by_the_given_statistics() -> None:
    pi, h = Standardised(16, D, scale=2.0).eval(), torch.randn(100, 16)
    pi.set_statistics(pi.linear(h))
    torch.testing.assert_close(pi(h).mean(0), torch.zeros(D), atol=1e-5, rtol=0)
    torch.testing.assert_close(pi(h).std(0), torch.full((D,), 2.0), atol=0.01, rtol=0)


def test_grey_images() -> None:
    out = build(channels=1, dim=D)(*draw_views(2, channels=1), relaxation=0.5)
    assert out.top.shape == (2, N, 128) and out.bottom.shape == (2, N, 128)


def test_standardised_logits_need_a_linear_pi() -> None:
    with pytest.raises(ValueError, match="logit_scale needs"):
        build(kind="bernoulli", dim=WIDTH, projection="identity", logit_scale=2)


@pytest.mark.parametrize(
    ("latent", "fits"),
    [
        ({"kind": "bernoulli", "dim": 64}, 256),
        ({"kind": "gaussian", "dim": 64}, 128),
        ({"kind": "gaussian"}, 128),
    ],
)
def test_identity_of_another_width_is_refused_with_the_right_one(latent: dict[str, Any], fits: int) -> None:
    with pytest.raises(ValueError) as error:
        build(**latent, projection="identity")
    assert str(error.value) == f"latent.projection: identity needs latent.dim = {fits}"


def test_resnet18_with_the_small_stem_trains_on_a_true_multi_crop() -> None:
    model = build("resnet18", dim=64)
    out = model(torch.randn(2, 2, 3, 32, 32), torch.randn(8, 2, 3, 16, 16), relaxation=1.0)
    assert out.top.shape == (2, 2, 128) and out.bottom.shape == (8, 2, 128)
    multi_crop_info_nce(out.top, out.bottom).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_resnet50_at_full_width() -> None:
    f = backbones.build(Backbone(name="resnet50"), channels=3).eval()
    assert backbones.width(f) == 2048
    with torch.no_grad():
        assert f(torch.randn(1, 3, 32, 32)).shape == (1, 2048)


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
    ("backbone", "line"),
    [
        (Backbone(name="resnet19"), "backbone.name: timm has no 'resnet19'; it has resnet18, resnet50, resnet200 ..."),
        (Backbone(name="resnet18d"), "backbone.stem: 'small' is for plain ResNets; resnet18d needs 'standard'"),
        (Backbone(name="vit_tiny_patch16_224"), "backbone.stem: 'small' is for plain ResNets; vit_tiny_patch16_224 needs 'standard'"),
    ],
)  # fmt: skip
def test_a_backbone_that_cannot_be_is_refused_with_one_line(backbone: Backbone, line: str) -> None:
    with pytest.raises(ValueError) as error:
        backbones.build(backbone, channels=3)
    assert str(error.value) == line


@pytest.mark.parametrize("name", ["small", "resnet18"])
def test_folded_batch_norm_leaves_h_as_it_is(name: str) -> None:
    torch.manual_seed(0)
    network = backbones.build(Backbone(name=name, width=4), channels=3).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            parts = module.weight.data, module.bias.data, module.running_mean, module.running_var
            for tensor in parts:
                tensor.uniform_(0.5, 1.5)
    images = torch.rand(5, 3, 32, 32, dtype=torch.float64)
    expected = network.eval()(images)
    folded = backbones.folded(network)
    torch.testing.assert_close(folded(images), expected, rtol=1e-10, atol=1e-10)
    assert backbones.width(folded) == backbones.width(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert expected.std() > 0.1


def test_what_is_no_resnet_is_not_folded() -> None:
    network = backbones.build(Backbone(name="test_vit", stem="standard"), channels=3)
    assert backbones.folded(network) is network
