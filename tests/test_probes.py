"""Probes against slow oracles."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier

from stochcon.evaluation import probes


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


def test_other_codes_do_not_depend_on_where_the_data_is() -> None:
    (train, labels), (test, truth) = blobs(300, 20, 1), blobs(100, 20, 2)
    for method in (probes.random_projections, probes.above_median):
        a, b = method(train, test, 16)
        assert a.shape == (300, 16) and b.shape == (100, 16)
        assert a.dtype == b.dtype == torch.bool
        assert probes.knn_top1(a, labels, b, truth) > 80
        moved = method(train + 50, test + 50, 16)
        assert (moved[0] == a).float().mean() > 0.999
    assert (a.sum(0) == 150).all()  # above the median are half of the images
    assert probes.above_median(train, test, 64)[0].shape[1] == 20


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


def slow_forest_f1(x: np.ndarray, y: np.ndarray, count: int, seed: int, rank_on_all: bool = False) -> float:
    """Section 4.1 as it reads, with F1 from its definition. rank_on_all: the mistake of looking at the test fold."""
    over_folds = []
    for train, test in StratifiedKFold(5, shuffle=True, random_state=seed).split(x, y):
        seen = np.concatenate([train, test]) if rank_on_all else train
        importance = RandomForestClassifier(100, random_state=seed).fit(x[seen], y[seen]).feature_importances_
        best = sorted(range(x.shape[1]), key=lambda unit: -importance[unit])[:count]
        guesses = RandomForestClassifier(100, random_state=seed).fit(x[train][:, best], y[train])
        guess, truth = guesses.predict(x[test][:, best]), y[test]
        over_classes = []
        for c in np.unique(y):
            hits = sum((guess == c) & (truth == c))
            wrong = sum((guess == c) & (truth != c)) + sum((guess != c) & (truth == c))
            over_classes.append(2 * hits / (2 * hits + wrong))
        over_folds.append(sum(over_classes) / len(over_classes))
    return sum(over_folds) / len(over_folds)


def test_forest_f1_equals_a_slow_transcription() -> None:
    x, labels = blobs(90, 6, 4)
    features = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    got = probes.forest_f1(features, labels, [1, 4], seed=7)
    assert got[4] == pytest.approx(slow_forest_f1(features.numpy(), labels.numpy(), 4, seed=7))
    assert 0.3 < got[1] < got[4] < 1


def test_forest_ranks_units_without_the_held_out_fold() -> None:
    """Among many units of noise some fit any labels: chosen with the held-out images, they would seem to tell."""
    noise = torch.rand(40, 800, generator=torch.Generator().manual_seed(0)) < 0.5
    labels = torch.arange(40) % 2
    honest = probes.forest_f1(noise, labels, [10])[10]
    peeking = slow_forest_f1(noise.numpy(), labels.numpy(), 10, seed=0, rank_on_all=True)
    assert honest < 0.6
    assert peeking > 0.75


def test_forest_says_what_is_wrong_with_units_and_labels() -> None:
    x, labels = blobs(30, 4, 0)
    with pytest.raises(ValueError, match="units is 5; it must be from 1 to the 4 that there are"):
        probes.forest_f1(x, labels, [2, 5])
    labels[labels == 2] = 0
    labels[:3] = 2
    with pytest.raises(ValueError, match="class 2 has 3 images, fewer than the 5 folds"):
        probes.forest_f1(x, labels, [2])


def test_aggregate_variance_is_the_noise_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    sigma = torch.rand(400, 3, generator=generator)
    mean = 10 * torch.randn(400, 3, generator=generator)
    draws = mean + sigma * torch.randn(2000, 400, 3, generator=generator)
    within = draws.var(0).mean().item()  # of every image and dimension over its draws
    assert probes.aggregate_variance(sigma) == pytest.approx(within, rel=0.01)
    assert probes.aggregate_variance(torch.zeros(5, 2)) == 0
