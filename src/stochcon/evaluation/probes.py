"""Probes say how well frozen features tell classes apart: nearest neighbours, a linear map, a random forest.

Features are (N, D) for training and (M, D) for testing, booleans or real numbers; labels are int64 (N,) and
(M,). Top-1 accuracies are in per cent.
"""

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

CHUNK = 64
"""How many queries are compared with the whole database at a time."""


def similarities(database: Tensor, queries: Tensor) -> Iterator[Tensor]:
    """Compare features (M, D) with a database (N, D), and yield (at most CHUNK, N) similarities at a time.

    Booleans are compared by D - 2 * Hamming distance, real numbers by cosine about the mean of the database.
    """
    if database.dtype == torch.bool:
        database, queries = 2.0 * database - 1, 2.0 * queries - 1
    else:
        mean = database.float().mean(0)
        database, queries = F.normalize(database.float() - mean), F.normalize(queries.float() - mean)
    for some in queries.split(CHUNK):
        yield some @ database.T


def knn_top1(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, k: int = 10) -> float:
    """Classify by the majority of the k most similar training images; see `similarities`."""
    # Short codes are equally far from many images: in the order of a folder the first class would win.
    shuffled = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    train, train_labels = train[shuffled], train_labels[shuffled]
    right = 0
    for similarity, truth in zip(similarities(train, test), test_labels.split(CHUNK), strict=True):
        nearest = similarity.topk(min(k, len(train))).indices
        votes = F.one_hot(train_labels[nearest], int(train_labels.max()) + 1).sum(1)
        right += int((votes.argmax(1) == truth).sum())
    return 100 * right / len(test)


def standardise(train: Tensor, test: Tensor) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Give every dimension of (N, D) and (M, D) floats mean 0 and deviation 1 on the training images."""
    mean, std = train.mean(0), train.std(0)
    std[std < 1e-6] = 1  # the rounding of a unit that never changes is no signal
    return ((train - mean) / std).numpy(), ((test - mean) / std).numpy()


def linear_top1(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Classify by multinomial logistic regression on standardised features (C = 1)."""
    a, b = standardise(train.float(), test.float())
    probe = LogisticRegression(C=1.0, max_iter=200, tol=1e-3)
    with warnings.catch_warnings():  # the accuracy settles long before the weights of thousands of pixels do
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(a, train_labels.numpy())
    return 100 * float(probe.score(b, test_labels.numpy()))


def forest_top1(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Classify by a random forest of 100 trees on all units."""
    forest = RandomForestClassifier(random_state=0).fit(train.float().numpy(), train_labels.numpy())
    return 100 * float(forest.score(test.float().numpy(), test_labels.numpy()))


def forest_f1(
    features: Tensor, labels: Tensor, units: Sequence[int], folds: int = 5, seed: int = 0
) -> dict[int, float]:
    """Score random forests on the best units, for each number of units (section 4.1, figure 2 right).

    In every stratified fold a forest on the training part ranks the units by importance, and another one
    learns from the best. The held-out images only score it: macro F1, 0 to 1, averaged over the folds.
    `joblib.parallel_config(n_jobs=...)` around the call uses more processors and changes nothing else.

    Raises:
        ValueError: If there are not so many units, or if a class has fewer images than there are folds.
    """
    if wrong := [count for count in units if not 1 <= count <= features.shape[1]]:
        raise ValueError(f"units is {wrong[0]}; it must be from 1 to the {features.shape[1]} that there are")
    classes, counts = labels.unique(return_counts=True)
    if counts.min() < folds:
        smallest = f"class {int(classes[counts.argmin()])} has {int(counts.min())} images"
        raise ValueError(f"{smallest}, fewer than the {folds} folds")
    x, y = features.float().numpy(), labels.numpy()
    scores: dict[int, list[float]] = {count: [] for count in units}
    for train, held_out in StratifiedKFold(folds, shuffle=True, random_state=seed).split(x, y):
        forest = RandomForestClassifier(random_state=seed).fit(x[train], y[train])
        ranking = np.argsort(-forest.feature_importances_, kind="stable")
        for count in units:
            best = ranking[:count]
            forest = RandomForestClassifier(random_state=seed).fit(x[np.ix_(train, best)], y[train])
            guesses = forest.predict(x[np.ix_(held_out, best)])
            scores[count].append(f1_score(y[held_out], guesses, average="macro", zero_division=0))
    return {count: float(np.mean(values)) for count, values in scores.items()}
