"""Tie-aware scores against every permutation, and against scikit-learn where nothing is tied."""

from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from stochcon.evaluation.retrieval import (
    average_precision,
    hashing_protocol,
    histograms,
    precision_at,
    retrieval,
    sample,
)

Image = tuple[int, bool]
"""Distance, and whether the image is relevant."""
images = st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=6).filter(
    lambda images: any(relevant for _, relevant in images)
)


def orders(images: list[Image]) -> list[list[bool]]:
    """What is relevant, in every order of the images in which no distance falls."""
    rising = (order for order in permutations(images) if all(a[0] <= b[0] for a, b in pairwise(order)))
    return [[relevant for _, relevant in order] for order in rising]


def slow_average_precision(order: list[bool]) -> float:
    at = [sum(order[: i + 1]) / (i + 1) for i, relevant in enumerate(order) if relevant]
    return sum(at) / len(at)


def ranks(images: list[Image], kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    similarity = torch.tensor([[3 - distance for distance, _ in images]]).to(kind)
    return histograms(similarity, torch.tensor([[relevant for _, relevant in images]]))


@settings(max_examples=100)
@given(images, st.integers(1, 8), st.sampled_from([torch.long, torch.float32]))
def test_scores_are_the_means_over_all_orders_of_ties(images: list[Image], k: int, kind: torch.dtype) -> None:
    counts, every = ranks(images, kind), orders(images)
    precision = np.mean([slow_average_precision(order) for order in every])
    assert average_precision(*counts).item() == pytest.approx(precision, abs=1e-12)
    among_first = np.mean([np.mean(order[:k]) for order in every])
    assert precision_at(k, *counts).item() == pytest.approx(among_first, abs=1e-12)


@given(st.integers(2, 60), st.integers(0, 1000))
def test_without_ties_it_is_scikit_learns(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    score, relevant = rng.permutation(n), rng.random((1, n)) < 0.5
    relevant[0, 0] = True
    oracle = average_precision_score(relevant[0], score)
    for kind in (torch.long, torch.float32):
        tied, found = histograms(torch.from_numpy(score)[None].to(kind), torch.from_numpy(relevant))
        assert average_precision(tied, found).item() == pytest.approx(oracle, abs=1e-12)


@settings(max_examples=30)
@given(st.integers(1, 70), st.integers(0, 1000))
def test_bits_are_ranked_by_hamming_distance(bits: int, seed: int) -> None:
    """A loop over images, then means over the queries that have an answer, and over their classes."""
    rng = np.random.default_rng(seed)
    database, queries = rng.random((40, bits)) < 0.5, rng.random((9, bits)) < 0.5
    labels, truth = rng.integers(0, 3, 40), rng.integers(0, 4, 9)  # nothing answers the queries of class 3
    truth[0] = labels[0]
    by_class: dict[int, list[float]] = {}
    for query, label in zip(queries, truth, strict=True):
        if label in labels:
            tied, relevant = torch.zeros(2, 1, bits + 1, dtype=torch.double)
            for code, other in zip(database, labels, strict=True):
                distance = sum(a != b for a, b in zip(code, query, strict=True))
                tied[0, distance] += 1
                relevant[0, distance] += other == label
            by_class.setdefault(label, []).append(100 * average_precision(tied, relevant).item())
    x, y = torch.from_numpy(database), torch.from_numpy(queries)
    got = retrieval(x, torch.from_numpy(labels), y, torch.from_numpy(truth))
    assert got["map"] == pytest.approx(np.mean([value for values in by_class.values() for value in values]))
    assert got["map-macro"] == pytest.approx(np.mean([np.mean(values) for values in by_class.values()]))


@pytest.mark.parametrize("nothing", [torch.ones(30, 8, dtype=torch.bool), torch.ones(30, 8)])
def test_neither_the_order_of_the_database_nor_a_code_that_says_nothing_matters(nothing: torch.Tensor) -> None:
    labels = torch.arange(30) // 10
    scores, turned = (retrieval(nothing, some, nothing[:1], labels[:1]) for some in (labels, labels.flip(0)))
    assert scores["p10"] == pytest.approx(100 / 3)
    assert scores["map"] == pytest.approx(turned["map"])
    assert scores["map"] < 50  # where the class that comes first would have 100


def test_queries_are_sampled_from_every_class_by_its_share() -> None:
    labels = torch.tensor([0] * 600 + [1] * 300 + [2] * 100)[torch.randperm(1000)]
    chosen = sample(labels, 100)
    assert len(chosen.unique()) == 100
    assert labels[chosen].bincount().tolist() == [60, 30, 10]
    assert torch.equal(chosen, sample(labels, 100))
    assert sorted(sample(labels, 5000).tolist()) == list(range(1000))


def test_queries_without_an_answer_are_refused() -> None:
    x = torch.zeros(3, 2)
    for labels in (torch.tensor([1, 1, 1]), torch.empty(0, dtype=torch.long)):
        with pytest.raises(ValueError, match="no query is of a class that the database has"):
            retrieval(x, torch.zeros(3, dtype=torch.long), x[: len(labels)], labels)


def top_map(labels: list[int], ranked: list[list[int]], truth: list[int], k: int) -> float:
    """Transcribed from the literature on hashing: the precision at each relevant image that the first k have."""
    precisions = []
    for sought, order in zip(truth, ranked, strict=True):
        at = [place for place, row in enumerate(order[:k], 1) if labels[row] == sought]
        precisions.append(sum((i + 1) / place for i, place in enumerate(at)) / max(1, len(at)))
    return 100 * sum(precisions) / len(precisions)


@given(st.integers(5, 40), st.integers(1, 50), st.integers(0, 99))
def test_the_protocol_of_hashing_is_that_of_a_loop(n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = np.sort(rng.permutation(100)[:n])  # queries at 0 and at 100 of a line: nothing is tied
    database = torch.arange(100)[None] < torch.from_numpy(points)[:, None]
    queries = torch.stack([torch.zeros(100), torch.ones(100)]).bool()
    labels, truth = rng.integers(0, 3, n), [0, 1]
    scores = hashing_protocol(database, torch.from_numpy(labels), queries, torch.tensor(truth), k)
    ranked = [list(range(n)), list(range(n))[::-1]]
    assert scores[f"map{k}"] == pytest.approx(top_map(labels.tolist(), ranked, truth, k), abs=1e-9)
    assert scores["mapall"] == pytest.approx(top_map(labels.tolist(), ranked, truth, n), abs=1e-9)
