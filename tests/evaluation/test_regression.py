"""Ridge regression and its targets, against closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stochcon.evaluation.probes import ridge_r2, targets


def test_ridge_reads_what_is_there_and_nothing_else() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 8, generator=generator)
    x[:, 7] = 0  # a unit that never changes
    noise = torch.randn(600, generator=generator)
    signal = x @ torch.arange(8.0)
    nothing = torch.randn(600, generator=generator)
    y = torch.stack([signal + 100, signal / signal.std() + noise, nothing], 1)
    scale = torch.tensor([1e-3, 1e3, 1, 1, 1, 1, 1, 1])

    def r2(x: torch.Tensor, y: torch.Tensor) -> float:
        return ridge_r2(x[:400], y[:400], x[400:], y[400:])

    exact, half, none = (r2(x, column) for column in y.split(1, dim=1))
    assert -0.05 < none < 0.05
    assert 0.3 < half < 0.7 < 0.999 < exact
    assert r2(x, y) == pytest.approx((exact + half + none) / 3)  # each target has a penalty of its own
    assert r2(x * scale, y) == pytest.approx(r2(x, y), abs=1e-6)


def test_ridge_takes_bits_and_equals_the_closed_form_for_its_penalty() -> None:
    generator = torch.Generator().manual_seed(1)
    bits = torch.rand(300, 6, generator=generator) < 0.5
    y = bits.double() @ torch.arange(6.0).double() + torch.randn(300, generator=generator).double()
    train, test = bits[:200], bits[200:]
    got = ridge_r2(train, y[:200, None], test, y[200:, None])
    a = (train.double() - train.double().mean(0)) / train.double().std(0)
    b = (test.double() - train.double().mean(0)) / train.double().std(0)

    def fit(rows: torch.Tensor, alpha: float) -> torch.Tensor:
        x, t = a[rows], y[:200][rows]
        x_mean, t_mean = x.mean(0), t.mean()
        gram = (x - x_mean).T @ (x - x_mean) + alpha * torch.eye(6)
        weights = torch.linalg.solve(gram, (x - x_mean).T @ (t - t_mean))
        return torch.cat([weights, (t_mean - x_mean @ weights)[None]])

    def left_out(alpha: float) -> float:  # leave-one-out error, one fit for each image
        error = 0.0
        for i in range(200):
            w = fit(torch.arange(200) != i, alpha)
            error += float((a[i] @ w[:6] + w[6] - y[i]) ** 2)
        return error

    alphas = [10 ** (e / 2) for e in range(-4, 13)]
    w = fit(torch.ones(200, dtype=torch.bool), min(alphas, key=left_out))
    truth = y[200:]
    slow = 1 - (b @ w[:6] + w[6] - truth).square().sum() / (truth - truth.mean()).square().sum()
    assert got == pytest.approx(slow.item(), abs=1e-9)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 8), st.integers(0, 8), st.integers(1, 255))
def test_the_targets_of_a_rectangle(width: int, height: int, left: int, top: int, value: int) -> None:
    image = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    image[:, :, top : top + height, left : left + width] = value
    ink, x, y, shape = targets(image)[0].tolist()
    assert ink == pytest.approx(width * height * value / 255 / 256)
    assert x == pytest.approx((left + width / 2) / 16, abs=1e-3)
    assert y == pytest.approx((top + height / 2) / 16, abs=1e-3)
    # The faint ink that an empty image has everywhere counts most beside one pixel of value 1: 0.0211.
    assert shape == pytest.approx(math.log(width / height), abs=0.022)


def test_an_empty_image_has_targets_too() -> None:
    got = targets(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    assert got[0].tolist() == pytest.approx([0, 0.5, 0.5, 0], abs=5e-6)
