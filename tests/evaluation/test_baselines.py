"""Codes of others: as many bits as asked for, from the training images alone, and what ITQ promises."""

import faiss
import numpy as np
import pytest
import torch

from stochcon.config import Data
from stochcon.data import sets as data
from stochcon.evaluation import baselines, probes
from tests.evaluation.examples import blobs


def pca_signs(train: torch.Tensor, test: torch.Tensor, bits: int) -> baselines.Representation:
    a, b = baselines.principal(train, test, bits)
    return a > 0, b > 0


MAKERS = [pca_signs, baselines.itq, baselines.random_projections, baselines.above_median]


@pytest.mark.parametrize("make", MAKERS)
def test_codes_keep_neighbours_wherever_the_data_is(make: type) -> None:
    (train, labels), (test, truth) = blobs(300, 20, 1), blobs(100, 20, 2)
    bits = 8 if make in MAKERS[:2] else 16
    a, b = make(train, test, bits)
    assert a.shape == (300, bits) and b.shape == (100, bits)
    assert a.dtype == b.dtype == torch.bool
    assert probes.knn_top1(a, labels, b, truth) > 80
    if make in MAKERS[2:]:  # rounding in float32 turns principal components
        assert (make(train + 50, test + 50, bits)[0] == a).float().mean() > 0.999
    if make is not baselines.random_projections:
        assert make(train, test, 64)[0].shape[1] == 20  # no more than there are dimensions
    if make is baselines.above_median:
        assert (a.sum(0) == 150).all()


def test_itq_loses_less_than_pca_signs_and_leaves_the_threads_of_faiss() -> None:
    """ITQ minimises the distance from the projected data to its signs."""
    train, _ = blobs(500, 20, 3)
    train = train - train.mean(0)
    u, s, _ = torch.linalg.svd(train, full_matrices=False)
    projected = (u * s)[:, :8]

    def loss(bits: torch.Tensor) -> float:  # after the best rotation of the data onto these signs
        target = 2.0 * bits - 1
        left, _, right = torch.linalg.svd(projected.T @ target)
        return (projected @ left @ right - target).square().sum().item()

    threads = faiss.omp_get_max_threads()
    assert loss(baselines.itq(train, train, 8)[0]) < loss(pca_signs(train, train, 8)[0])
    assert faiss.omp_get_max_threads() == threads


def test_pixels_projected_once_and_cut_are_as_if_projected_for_each_width() -> None:
    digits = Data(name="digits", size=8, channels=1)
    train, test = (data.load_data(digits, split) for split in ("train", "validation"))
    cut, exact = (baselines.codes_of_pixels(train, test, widths)[8] for widths in ([8, 32], [8]))
    for name in ("pixels-pca-sign", "pixels-itq"):
        for x, y in zip(cut[name], exact[name], strict=True):
            assert np.mean((x == y).numpy()) > 0.999
