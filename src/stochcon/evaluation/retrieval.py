"""Retrieval scores say how well near codes find images of the same class: average precision, precision at k.

Short codes are equally far from many images, which a search may return in any order. Every score here is the
expectation over all orders of tied images (McSherry and Najork, 2008), in closed form, so that none depends
on luck or on the order of the database.
"""

import torch
from torch import Tensor

from stochcon.evaluation import probes

MOST_QUERIES = 1000
CUTS = (10, 100)


def retrieval(database: Tensor, labels: Tensor, queries: Tensor, truth: Tensor) -> dict[str, float]:
    """Score the ranking of a database (N, D) by its similarity to queries (M, D); see `probes.similarities`.

    Of more than MOST_QUERIES queries only so many are asked, every class by its share. Queries whose class is
    not in the database do not count. `map`, `p10` and `p100` are means over the queries, in per cent; with
    `-macro` they are means over the classes.
    """
    asked = sample(truth, MOST_QUERIES)
    asked = asked[torch.isin(truth[asked], labels)]
    if not len(asked):
        raise ValueError("no query is of a class that the database has")
    truth, parts = truth[asked], []
    similarities = probes.similarities(database, queries[asked])
    for some, sought in zip(similarities, truth.split(probes.CHUNK), strict=True):
        similarity = some.long() if database.dtype == torch.bool else some
        counts = histograms(similarity, sought[:, None] == labels)
        parts.append(torch.stack([average_precision(*counts), *(precision_at(k, *counts) for k in CUTS)], 1))
    values = 100 * torch.cat(parts)
    macro = torch.stack([values[truth == label].mean(0) for label in truth.unique()]).mean(0)
    scores: dict[str, float] = {}
    for i, name in enumerate(["map", *(f"p{k}" for k in CUTS)]):
        scores |= {name: values[:, i].mean().item(), f"{name}-macro": macro[i].item()}
    return scores


def hashing_protocol(
    database: Tensor, labels: Tensor, queries: Tensor, truth: Tensor, k: int = 1000
) -> dict[str, float]:
    """Score every query as the literature on hashing does: `map1000`, over the first k, and `mapall`, in per cent.

    Average precision is over the relevant images that are found, as in the code of HashNet (Cao et al., 2017) and
    CIBHash (Qiu et al., 2021), and 0 if there are none. Equally near images come in one random order.
    """
    shuffled = torch.randperm(len(database), generator=torch.Generator().manual_seed(0))
    database, labels = database[shuffled], labels[shuffled]
    sums = torch.zeros(2, dtype=torch.float64)
    for similarity, sought in zip(probes.similarities(database, queries), truth.split(probes.CHUNK), strict=True):
        relevant = (labels[similarity.argsort(dim=1, descending=True, stable=True)] == sought[:, None]).double()
        precision = relevant.cumsum(1) / torch.arange(1, len(labels) + 1)
        for i, part in enumerate((slice(k), slice(None))):
            found = relevant[:, part].sum(1)
            sums[i] += ((relevant * precision)[:, part].sum(1) / found.clamp_min(1)).sum()
    return dict(zip((f"map{k}", "mapall"), (100 * sums / len(truth)).tolist(), strict=True))


def sample(labels: Tensor, most: int) -> Tensor:
    """Choose the indices of at most so many images, every class by its share, spread over its order."""
    order = labels.argsort(stable=True)
    count = min(most, len(order))
    return order[torch.arange(count) * len(order) // count]


def histograms(similarity: Tensor, relevant: Tensor) -> tuple[Tensor, Tensor]:
    """Count the images, and the relevant ones, at each rank of (M, N) similarities, the most similar first.

    Images that are equally similar share a rank. Both counts are float64 (M, at most N), 0 past the last.
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
    """Compute the expected average precision (M,), 0 to 1, of `histograms`.

    Take a rank of n images, r of them relevant, behind N images of which R are relevant. The image at place i
    of the rank is relevant with probability r / n. If it is, R + 1 + (i - 1)(r - 1)/(n - 1) of the N + i
    images so far are relevant, in expectation. The sum over i needs nothing but harmonic numbers.
    """
    behind = tied.cumsum(1)
    before, found = behind - tied, relevant.cumsum(1) - relevant
    steps = torch.arange(int(behind.max()) + 1, dtype=torch.float64)
    harmonic = torch.cat([steps[:1], steps[1:].reciprocal()]).cumsum(0)
    others = (relevant - 1) / (tied - 1).clamp_min(1)  # where it counts, a lone image has r - 1 = 0
    sums = (found + 1 - others * (before + 1)) * (harmonic[behind.long()] - harmonic[before.long()])
    expected = relevant / tied.clamp_min(1) * (sums + others * tied)
    return expected.sum(1) / relevant.sum(1)


def precision_at(k: int, tied: Tensor, relevant: Tensor) -> Tensor:
    """Compute the expected share (M,) of relevant images among the first k, or all if there are fewer."""
    before = tied.cumsum(1) - tied
    taken = (k - before).clamp_min(0).minimum(tied)
    return (relevant * taken / tied.clamp_min(1)).sum(1) / taken.sum(1)
