import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightly.loss import NTXentLoss
from torch import Tensor
from torch.nn.functional import cosine_similarity

from stochcon.method import objective
from stochcon.method.objective import decorrelation, info_nce, multi_crop_info_nce

SIZES = {
    "n": st.integers(1, 6),
    "d": st.integers(2, 6),
    "temperature": st.floats(0.02, 5),
    "seed": st.integers(0, 999),
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def equation_1(v: Tensor, i: int, j: int, tau: float) -> Tensor:
    """Transcribed: anchor i, its other view j, candidates k = 1 ... 2N."""
    numerator = torch.exp(cosine_similarity(v[i], v[j], dim=0) / tau)
    denominator = v.new_zeros(())
    for k in range(len(v)):
        if k != i:
            denominator = denominator + torch.exp(cosine_similarity(v[i], v[k], dim=0) / tau)
    return -torch.log(numerator / denominator)


def slow_info_nce(v: Tensor, v_prime: Tensor, tau: float) -> Tensor:
    n, both = len(v), torch.cat([v, v_prime])
    return torch.stack([equation_1(both, i, (i + n) % (2 * n), tau) for i in range(2 * n)]).mean()


def slow_multi_crop(top: Tensor, bottom: Tensor, tau: float) -> Tensor:
    views = [*top, *bottom]
    pairs = [(a, w) for a in range(len(top)) for w in range(a + 1, len(views))]
    return torch.stack([slow_info_nce(views[a], views[w], tau) for a, w in pairs]).mean()


@given(**SIZES)
def test_info_nce_is_equation_1(n: int, d: int, temperature: float, seed: int) -> None:
    v, v_prime = draw(2, n, d, seed=seed)
    torch.testing.assert_close(
        info_nce(v, v_prime, temperature), slow_info_nce(v, v_prime, temperature), rtol=1e-10, atol=1e-10
    )


@given(**SIZES)
def test_info_nce_is_ntxent_of_lightly(n: int, d: int, temperature: float, seed: int) -> None:
    v, v_prime = draw(2, n, d, seed=seed)
    torch.testing.assert_close(
        info_nce(v, v_prime, temperature), NTXentLoss(temperature)(v, v_prime), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize(("n_top", "n_bottom"), [(1, 1), (2, 1), (1, 3), (2, 4), (3, 2)])
def test_multi_crop_is_the_mean_over_pairs_with_a_top_view(n_top: int, n_bottom: int, n: int) -> None:
    top, bottom = draw(n_top, n, 5, seed=1), draw(n_bottom, n, 5, seed=2)
    results = []
    for loss in (multi_crop_info_nce, slow_multi_crop):
        leaves = (top.clone().requires_grad_(), bottom.clone().requires_grad_())
        value = loss(*leaves, 0.3)
        results.append([value, *torch.autograd.grad(value, leaves)])
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("n_top", [1, 2])
def test_blocks_of_a_large_batch_have_the_loss_and_gradient_of_the_whole(
    n_top: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    views, results = draw(5, 7, 5), []
    for block in (objective.BLOCK, 4 * 7 * 3, 1):  # all images, three at a time, one at a time
        monkeypatch.setattr(objective, "BLOCK", block)
        leaf = views.clone().requires_grad_()
        value = 3 * multi_crop_info_nce(leaf[:n_top], leaf[n_top:], 0.2)
        results.append([value.detach(), *torch.autograd.grad(value, leaf)])
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(results[2], results[0], rtol=1e-12, atol=1e-12)


def test_info_nce_of_paired_views_is_below_that_of_shuffled_ones() -> None:
    v = draw(32, 16)
    assert info_nce(v, v + 0.1 * draw(32, 16, seed=1), 0.2) < info_nce(v, v.roll(1, 0), 0.2) - 1


@given(scale=st.sampled_from([1e-8, 1.0, 1e15]), seed=st.integers(0, 99))
def test_stable_in_float32_whatever_the_scale_and_at_a_small_temperature(scale: float, seed: int) -> None:
    views = draw(2, 3, 8, 16, seed=seed)
    top, bottom = (scale * views).float().requires_grad_().unbind()
    value = multi_crop_info_nce(top, bottom, 0.02)
    (gradient,) = torch.autograd.grad(value, top)
    assert gradient.isfinite().all()
    torch.testing.assert_close(value.double(), multi_crop_info_nce(views[0], views[1], 0.02), rtol=1e-4, atol=1e-4)


def test_stable_for_views_that_are_all_alike_opposite_or_zero() -> None:
    for v, v_prime in [
        (torch.ones(4, 8),) * 2,
        (torch.ones(4, 8), -torch.ones(4, 8)),
        (torch.zeros(4, 8),) * 2,
    ]:
        leaves = v.clone().requires_grad_(), v_prime.clone().requires_grad_()
        value = info_nce(*leaves, 0.01)
        assert all(x.isfinite().all() for x in (value, *torch.autograd.grad(value, leaves)))


def test_autocast_leaves_the_similarities_in_float32() -> None:
    v, v_prime = draw(2, 16, 32).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = info_nce(v, v_prime, 0.02)
    torch.testing.assert_close(value.double(), slow_info_nce(v.double(), v_prime.double(), 0.02), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("v", "v_prime", "line"),
    [
        ((4, 3), (5, 3), r"info_nce needs two (N, D) tensors, not (4, 3) and (5, 3)"),
        ((4,), (4,), r"info_nce needs two (N, D) tensors, not (4,) and (4,)"),
    ],
)
def test_info_nce_names_shapes_that_do_not_pair_up(v: tuple[int], v_prime: tuple[int], line: str) -> None:
    with pytest.raises(ValueError) as error:
        info_nce(torch.ones(v), torch.ones(v_prime))
    assert str(error.value) == line


def test_multi_crop_names_shapes_that_do_not_pair_up() -> None:
    with pytest.raises(ValueError, match=r"do not pair up: \(2, 4, 3\), \(2, 5, 3\)"):
        multi_crop_info_nce(torch.ones(2, 4, 3), torch.ones(2, 5, 3))


@pytest.mark.parametrize("temperature", [0, -0.1])
def test_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature is {temperature}; it must be positive"):
        info_nce(torch.ones(2, 3), torch.ones(2, 3), temperature)


@given(n=st.integers(3, 20), d=st.integers(2, 6), seed=st.integers(0, 999))
def test_decorrelation_is_that_of_numpy(n: int, d: int, seed: int) -> None:
    phi = draw(2, n, d, seed=seed) * 3 + 7
    correlation = np.corrcoef(phi.flatten(0, 1).numpy(), rowvar=False)
    expected = ((correlation - np.eye(d)) ** 2).sum() / d
    np.testing.assert_allclose(decorrelation(phi).item(), expected, rtol=1e-9, atol=1e-12)


def test_decorrelation_of_a_unit_that_never_changes_is_finite() -> None:
    phi = torch.cat([draw(9, 2).float(), torch.ones(9, 1)], dim=1).requires_grad_()
    decorrelation(phi).backward()
    assert phi.grad is not None and phi.grad.isfinite().all()
