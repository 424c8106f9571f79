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
from tests.evaluation.examples import blobs


@settings(max_examples=40)
@given(st.integers(3, 40), st.integers(1, 8), st.integers(0, 1000))
def test_hamming_knn_equals_a_loop(bits: int, k: int, seed: int) -> None:
    """Every distance occurs once, so that no tie hides what the neighbours say."""
    rng = np.random.default_rng(seed)
    query = rng.random(bits) < 0.5
    distances = rng.permutation(bits + 1)[: rng.integers(2, bits + 2)]
    codes = np.tile(query, (len(distances), 1))
    for code, distance in zip(codes, distances, strict=True):
        code[rng.permutation(bits)[:distance]] ^= True
    labels = rng.integers(0, 3, len(distances))
    votes = [0, 0, 0]
    for i in sorted(range(len(distances)), key=lambda i: distances[i])[:k]:
        votes[labels[i]] += 1
    winner = votes.index(max(votes))
    train, test = torch.from_numpy(codes), torch.from_numpy(query)[None]
    for truth in range(3):
        got = probes.knn_top1(train, torch.from_numpy(labels), test, torch.tensor([truth]), k=k)
        assert got == (100 if truth == winner else 0)


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
    scale, dead = torch.tensor([1e-3, 1.0, 1e3, 10.0, 0.1]), torch.ones(300, 1)
    a, b = torch.cat([train * scale, dead], 1), torch.cat([test * scale, dead[:100]], 1)
    assert accuracy > 80
    assert abs(probes.linear_top1(a, labels, b, truth) - accuracy) <= 1


def slow_forest_f1(x: np.ndarray, y: np.ndarray, count: int, rank_on_all: bool = False) -> float:
    """Section 4.1 as it reads, F1 from its definition; rank_on_all is the mistake of using the test fold."""
    over_folds = []
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(x, y):
        seen = np.concatenate([train, test]) if rank_on_all else train
        importance = RandomForestClassifier(100, random_state=0).fit(x[seen], y[seen]).feature_importances_
        best = sorted(range(x.shape[1]), key=lambda unit: -importance[unit])[:count]
        guesses = RandomForestClassifier(100, random_state=0).fit(x[train][:, best], y[train])
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
    got = probes.forest_f1(features, labels, [1, 4])
    assert got[4] == pytest.approx(slow_forest_f1(features.numpy(), labels.numpy(), 4))
    assert 0.3 < got[1] < got[4] < 1


def test_forest_ranks_units_without_the_held_out_fold() -> None:
    """Among many units of noise some fit any labels, also those of held-out images that one looked at."""
    noise = torch.rand(40, 800, generator=torch.Generator().manual_seed(0)) < 0.5
    labels = torch.arange(40) % 2
    assert probes.forest_f1(noise, labels, [10])[10] < 0.6
    assert slow_forest_f1(noise.numpy(), labels.numpy(), 10, rank_on_all=True) > 0.75


def test_forest_says_what_is_wrong_with_units_and_labels() -> None:
    x, labels = blobs(30, 4, 0)
    with pytest.raises(ValueError, match="units is 5; it must be from 1 to the 4"):
        probes.forest_f1(x, labels, [2, 5])
    labels[labels == 2] = 0
    labels[:3] = 2
    with pytest.raises(ValueError, match="class 2 has 3 images, fewer than the 5 folds"):
        probes.forest_f1(x, labels, [2])
