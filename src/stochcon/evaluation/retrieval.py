"""How well near codes find images of the same class: mean average precision and precision at k.

Short codes are at equal distances from many images, and a search may return those in any order. Every
number here is the expectation over all orders of what is tied (McSherry and Najork, 2008), in closed form,
so that no score depends on luck or on the order of the database.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stochcon.evaluation import probes

MOST_QUERIES = 1000
CUTS = (10, 100)


def retrieval(
    database: Tensor,
    database_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    most: int = MOST_QUERIES,
) -> dict[str, float]:
    """`map`, `p10` and `p100`, in per cent: the means over the queries; with `-macro`, over the classes.

    Features are (N, D) and (M, D): booleans are ranked by Hamming distance, real ones by cosine, centred
    first. Of more than `most` queries only so many are asked, every class by its share. Those whose class
    is not in the database have no answer and do not count; with none left, ValueError.

    >>> x, y = torch.tensor([[True, True], [False, True], [False, False]]), torch.tensor([0, 0, 1])
    >>> scores = retrieval(x, y, x[:1], y[:1])
    >>> scores["map"], round(scores["p10"], 2)
    (100.0, 66.67)
    """
    asked = sample(query_labels, most)
    asked = asked[torch.isin(query_labels[asked], database_labels)]
    if not len(asked):
        raise ValueError("no query is of a class that the database has")
    queries, truth = queries[asked], query_labels[asked]
    columns: dict[str, list[Tensor]] = {}
    for some, labels in zip(probes.similarities(database, queries), truth.split(probes.CHUNK), strict=True):
        if database.dtype == torch.bool:
            some = some.long()
        tied, relevant = histograms(some, labels[:, None] == database_labels)
        columns.setdefault("map", []).append(average_precision(tied, relevant))
        for k in CUTS:
            columns.setdefault(f"p{k}", []).append(precision_at(k, tied, relevant))
    scores = {}
    for name, parts in columns.items():
        values = 100 * torch.cat(parts)
        scores[name] = values.mean().item()
        by_class = [values[truth == label].mean() for label in truth.unique()]
        scores[f"{name}-macro"] = torch.stack(by_class).mean().item()
    return scores


def sample(labels: Tensor, most: int) -> Tensor:
    """Indices of at most so many images, every class by its share, and spread over the order of each class.

    >>> sample(torch.tensor([0, 1, 0, 0, 1, 0]), 3)
    tensor([0, 3, 1])
    """
    order = labels.argsort(stable=True)
    count = min(most, len(order))
    return order[torch.arange(count) * len(order) // count] if count else order


def histograms(similarity: Tensor, relevant: Tensor) -> tuple[Tensor, Tensor]:
    """Of (M, N) similarities: how many images are at each rank of equals, the most similar first, and how many of
    them are relevant; both (M, at most N), float64, 0 behind the last rank.

    >>> histograms(torch.tensor([[1.0, 3.0, 1.0]]), torch.tensor([[True, True, False]]))
    (tensor([[1., 2.]], dtype=torch.float64), tensor([[1., 1.]], dtype=torch.float64))
    """
    if not similarity.is_floating_point():  # few values: counting them is faster than sorting the images
        rank = similarity.max() - similarity
    else:
        similarity, order = similarity.sort(dim=1, descending=True)
        relevant = relevant.gather(1, order)
        rank = torch.zeros_like(order)
        rank[:, 1:] = (similarity[:, 1:] != similarity[:, :-1]).cumsum(1)
    rows, ranks = len(rank), int(rank.max()) + 1
    key = (torch.arange(rows)[:, None] * ranks + rank) * 2 + relevant
    counts = key.flatten().bincount(minlength=2 * rows * ranks).view(rows, ranks, 2).double()
    return counts.sum(2), counts[:, :, 1]


def average_precision(tied: Tensor, relevant: Tensor) -> Tensor:
    """Expected average precision (M,), 0 to 1, of `histograms`; over all orders of what is tied, in closed form.

    In a rank of n images, r of them relevant, behind N images with R relevant, the image at place i of the
    rank is relevant with probability r / n, and then R + 1 + (i - 1)(r - 1)/(n - 1) of the N + i images so
    far are so, in expectation. The sum over i needs nothing but harmonic numbers.

    >>> average_precision(torch.tensor([[2.0]]), torch.tensor([[1.0]]))  # first or second: (1 + 1/2) / 2
    tensor([0.7500], dtype=torch.float64)
    """
    tied, relevant = tied.double(), relevant.double()
    behind = tied.cumsum(1)
    before, found = behind - tied, relevant.cumsum(1) - relevant
    steps = torch.arange(int(behind.max()) + 1, dtype=torch.float64)
    harmonic = torch.cat([steps[:1], steps[1:].reciprocal()]).cumsum(0)
    others = (relevant - 1) / (tied - 1).clamp_min(
        1
    )  # a lone image has no others: r - 1 is 0 where it counts
    sums = (found + 1 - others * (before + 1)) * (harmonic[behind.long()] - harmonic[before.long()])
    expected = relevant / tied.clamp_min(1) * (sums + others * tied)
    return expected.sum(1) / relevant.sum(1)


def precision_at(k: int, tied: Tensor, relevant: Tensor) -> Tensor:
    """Expected share (M,) of relevant images among the first k, or among all if there are fewer; of `histograms`.

    >>> precision_at(1, torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 1.0]]))
    tensor([0.5000], dtype=torch.float64)
    """
    tied, relevant = tied.double(), relevant.double()
    before = tied.cumsum(1) - tied
    taken = (k - before).clamp_min(0).minimum(tied)
    return (relevant * taken / tied.clamp_min(1)).sum(1) / taken.sum(1)
