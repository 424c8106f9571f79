"""What frozen features are worth: kNN, linear and forest probes, bits and variance, and the codes that others make.

Features are (N, D) tensors, labels (N,); accuracies are top-1 in per cent.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

NEIGHBOURS = 10
LINEAR_STEPS = 200
CHUNK = 64


def similarities(database: Tensor, queries: Tensor) -> Iterator[Tensor]:
    """Of CHUNK queries at a time, (CHUNK, N): the cosine of real features, centred first; for booleans the bits that
    agree less those that differ, D - 2 * Hamming distance.

    >>> next(similarities(torch.tensor([[True, True], [False, True]]), torch.tensor([[True, True]])))
    tensor([[2., 0.]])
    """
    if database.dtype == torch.bool:
        database, queries = 2.0 * database - 1, 2.0 * queries - 1
    else:
        mean = database.float().mean(0)
        database, queries = F.normalize(database.float() - mean), F.normalize(queries.float() - mean)
    for some in queries.split(CHUNK):
        yield some @ database.T


def knn_top1(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, k: int = NEIGHBOURS
) -> float:
    """The majority among the k nearest: by cosine for real features, centred first; by Hamming distance for booleans.

    >>> x, y = torch.tensor([[True, True], [False, False]]), torch.tensor([0, 1])
    >>> knn_top1(x, y, x, y, k=1)
    100.0
    """
    # Short codes are at equal distances from many images: without this the first class would win.
    shuffled = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    train, train_labels = train[shuffled], train_labels[shuffled]
    k = min(k, len(train))
    right = 0
    for similarity, truth in zip(similarities(train, test), test_labels.split(CHUNK), strict=True):
        nearest = similarity.topk(k).indices
        votes = F.one_hot(train_labels[nearest], int(train_labels.max()) + 1).sum(1)
        right += int((votes.argmax(1) == truth).sum())
    return 100 * right / len(test)


def linear_top1(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Multinomial logistic regression on standardised features (scikit-learn's, C = 1).

    >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1])
    >>> linear_top1(x, y, x, y)
    100.0
    """
    a, b = train.float(), test.float()
    mean, std = a.mean(0), a.std(0)
    std[std < 1e-6] = 1  # a unit that never changes says nothing
    probe = LogisticRegression(C=1.0, max_iter=LINEAR_STEPS, tol=1e-3)
    with (
        warnings.catch_warnings()
    ):  # accuracy settles long before the last digits of thousands of pixels' weights
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(((a - mean) / std).numpy(), train_labels.numpy())
    return 100 * float(probe.score(((b - mean) / std).numpy(), test_labels.numpy()))


def forest_f1(
    features: Tensor, labels: Tensor, units: Sequence[int], folds: int = 5, seed: int = 0
) -> dict[int, float]:
    """Section 4.1, figure 2 right: F1 (0 to 1) of a random forest on the best units, for each number of them.

    In each stratified fold the units are ranked by the importance that a forest on the training folds gives
    them, a new forest learns from the best of them on the training folds, and F1, the mean over the classes,
    is of the held-out fold. The result is the mean over the folds. `joblib.parallel_config(n_jobs=...)`
    around the call uses more processors and changes nothing else.

    Raises ValueError for numbers of units that there are not, and for a class with fewer images than folds.

    >>> labels = torch.arange(40) % 2
    >>> forest_f1(torch.stack([labels == 0, torch.arange(40) < 20], 1), labels, units=[1])
    {1: 1.0}
    """
    wrong = [count for count in units if not 1 <= count <= features.shape[1]]
    if wrong:
        raise ValueError(f"units is {wrong[0]}; it must be from 1 to the {features.shape[1]} that there are")
    classes, counts = labels.unique(return_counts=True)
    if counts.min() < folds:
        raise ValueError(
            f"class {int(classes[counts.argmin()])} has {int(counts.min())} images, fewer than the {folds} folds"
        )
    x, y = _array(features), labels.numpy()
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


def forest_top1(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """A random forest (scikit-learn's, 100 trees) on all units.

    >>> x, y = torch.tensor([[False], [True]]).repeat(9, 1), torch.tensor([0, 1]).repeat(9)
    >>> forest_top1(x, y, x, y)
    100.0
    """
    forest = RandomForestClassifier(random_state=0).fit(_array(train), train_labels.numpy())
    return 100 * float(forest.score(_array(test), test_labels.numpy()))


def aggregate_variance(uncertainty: Tensor) -> float:
    """Figure 3 right: the latent's variance, the mean over images and dimensions of (N, D) standard deviations squared.

    The spread of the means from image to image is not in it: a latent that collapsed has 0.

    >>> aggregate_variance(torch.tensor([[1.0, 2.0], [0.0, 0.0]]))
    1.25
    """
    return uncertainty.double().square().mean().item()


def principal(train: Tensor, test: Tensor, dims: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Projections on the first principal components of the training data, as many as asked for or as there are."""
    pca = PCA(min(dims, *train.flatten(1).shape), random_state=0).fit(_array(train))
    return pca.transform(_array(train)), pca.transform(_array(test))


def pca_sign(train: Tensor, test: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """The signs of the principal components."""
    return signs(*principal(train, test, bits))


def itq(train: Tensor, test: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Iterative quantisation (Gong et al., 2013): the rotation of the principal components whose signs lose least."""
    return signs(*rotated(*principal(train, test, bits)))


def rotated(
    train: NDArray[np.float32], test: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """ITQ's rotation of principal components (N, D) and (M, D), learned from the first.

    The rotation is FAISS's; its own ITQTransform also normalises every vector, which the paper does not.
    """
    a, b = (np.ascontiguousarray(x, dtype=np.float32) for x in (train, test))
    rotation = faiss.ITQMatrix(a.shape[1])
    rotation.train(a)
    return rotation.apply(a), rotation.apply(b)


def signs(train: NDArray[np.float32], test: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    """A bit for each real number: whether it is positive."""
    return torch.from_numpy(train > 0), torch.from_numpy(test > 0)


def random_projections(train: Tensor, test: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Locality-sensitive hashing: the signs of Gaussian projections of the centred data."""
    a, b = train.flatten(1).float(), test.flatten(1).float()
    mean = a.mean(0)
    directions = torch.randn(a.shape[1], bits, generator=torch.Generator().manual_seed(0))
    return (a - mean) @ directions > 0, (b - mean) @ directions > 0


def above_median(train: Tensor, test: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Random units, as many as asked for or as there are: whether each is above its median in the training data."""
    units = torch.randperm(train.shape[1], generator=torch.Generator().manual_seed(0))[:bits]
    median = train[:, units].median(0).values
    return train[:, units] > median, test[:, units] > median


def count_bits(bits: Tensor) -> dict[str, float]:
    """Of (N, D) booleans: how many there are, per cent of ones (section 4.3), and how many never change.

    >>> count_bits(torch.tensor([[True, False], [True, True]]))
    {'bits': 2, 'active': 75.0, 'dead': 1}
    """
    ones = bits.sum(0)
    return {
        "bits": bits.shape[1],
        "active": 100 * bits.float().mean().item(),
        "dead": int(((ones == 0) | (ones == len(bits))).sum()),
    }


def _array(x: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(x.flatten(1).numpy(), dtype=np.float32)
