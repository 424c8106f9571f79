"""Probes against slow oracles."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from stochcon import probes


def blobs(n: int, dim: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    centres = 2 * torch.randn(3, dim, generator=torch.Generator().manual_seed(0))
    return centres[labels] + torch.randn(n, dim, generator=generator), labels


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(3, 30), st.integers(1, 5), st.integers(0, 1000))
def test_hamming_knn_equals_a_loop(bits: int, n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    train, test = rng.random((n, bits)) < 0.5, rng.random((7, bits)) < 0.5
    labels = rng.integers(0, 2, n)
    # ties in distance may be broken any way: keep only queries without a tie at the k-th neighbour
    right = total = 0
    kept = []
    for i, query in enumerate(test):
        distance = (train != query).sum(1)
        order = np.sort(distance)
        if k < n and order[k - 1] == order[k]:
            continue
        votes = np.bincount(labels[distance <= order[min(k, n) - 1]], minlength=2)
        kept.append(i)
        total += 1
        right += votes.argmax() == 0
    if total:
        x, y = torch.from_numpy(train), torch.from_numpy(test[kept])
        zeros = torch.zeros(total, dtype=torch.long)
        got = probes.knn_top1(x, torch.from_numpy(labels), y, zeros, k=k)
        assert got == 100 * right / total


def test_cosine_knn_equals_scikit_learn() -> None:
    (train, labels), (test, truth) = blobs(300, 5, 1), blobs(100, 5, 2)
    mean = train.mean(0)
    oracle = KNeighborsClassifier(10, metric="cosine").fit(train - mean, labels)
    accuracy = 100 * oracle.score(test - mean, truth)
    assert accuracy < 100
    assert abs(probes.knn_top1(train, labels, test, truth) - accuracy) < 1e-9
    assert probes.knn_top1(train + 50, labels, test + 50, truth) > accuracy - 2  # centred first


def test_linear_probe_ignores_scale_and_dead_units() -> None:
    (train, labels), (test, truth) = blobs(300, 5, 1), blobs(100, 5, 2)
    accuracy = probes.linear_top1(train, labels, test, truth)
    scale = torch.tensor([1e-3, 1.0, 1e3, 10.0, 0.1])
    dead = torch.ones(300, 1)
    other = probes.linear_top1(
        torch.cat([train * scale, dead], 1), labels, torch.cat([test * scale, dead[:100]], 1), truth
    )
    assert accuracy > 80
    assert abs(other - accuracy) <= 1


def test_binary_codes_of_others_have_the_bits_asked_for_and_keep_neighbours() -> None:
    (train, labels), (test, truth) = blobs(300, 20, 1), blobs(100, 20, 2)
    for method in (probes.pca_sign, probes.itq):
        a, b = method(train, test, 8)
        assert a.shape == (300, 8) and b.shape == (100, 8)
        assert a.dtype == b.dtype == torch.bool
        assert probes.knn_top1(a, labels, b, truth) > 80
        assert method(train, test, 64)[0].shape[1] == 20  # no more than there are dimensions


def test_itq_loses_less_than_pca_signs() -> None:
    """The quantity that ITQ minimises: the distance from the projected data to its signs."""
    train, _ = blobs(500, 20, 3)
    train = train - train.mean(0)
    u, s, _ = torch.linalg.svd(train, full_matrices=False)
    projected = (u * s)[:, :8]
    signs = {
        name: method(train, train, 8)[0] for name, method in (("pca", probes.pca_sign), ("itq", probes.itq))
    }

    def loss(bits: torch.Tensor) -> float:  # after the best rotation of the data onto these signs
        target = 2.0 * bits - 1
        left, _, right = torch.linalg.svd(projected.T @ target)
        return (projected @ left @ right - target).square().sum().item()

    assert loss(signs["itq"]) < loss(signs["pca"])


def test_bits_are_counted() -> None:
    bits = torch.tensor([[1, 0, 1, 0], [1, 0, 0, 1]], dtype=torch.bool)
    assert probes.count_bits(bits) == {"bits": 4, "active": 50.0, "dead": 2}
