"""Probes say what can be read from frozen features: the class, or numbers that are true of any image.

Features are (N, D) for training and (M, D) for testing, booleans or real numbers; labels are int64 (N,) and
(M,). Top-1 accuracies are in per cent.
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import f1_score, r2_score
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

CHUNK = 64  # queries that are compared with the whole database at a time
FOLDS = 5


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


def _standardised(train: Tensor, test: Tensor) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    mean, std = train.mean(0), train.std(0)
    std[std < 1e-6] = 1  # the rounding of a unit that never changes is no signal
    return ((train - mean) / std).numpy(), ((test - mean) / std).numpy()


def linear_top1(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Classify by multinomial logistic regression on standardised features (C = 1)."""
    a, b = _standardised(train.float(), test.float())
    probe = LogisticRegression(C=1.0, max_iter=200, tol=1e-3)
    with warnings.catch_warnings():  # the accuracy settles long before the weights of thousands of pixels do
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(a, train_labels.numpy())
    return 100 * float(probe.score(b, test_labels.numpy()))


def forest_top1(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Classify by a random forest of 100 trees on all units."""
    forest = RandomForestClassifier(random_state=0).fit(train.float().numpy(), train_labels.numpy())
    return 100 * float(forest.score(test.float().numpy(), test_labels.numpy()))


def forest_f1(features: Tensor, labels: Tensor, units: Sequence[int]) -> dict[int, float]:
    """Score random forests on the best units, for each number of units (section 4.1, figure 2 right).

    In every stratified fold a forest on the training part ranks the units by importance, and another one
    learns from the best. The held-out images only score it: macro F1, 0 to 1, averaged over the folds.
    `joblib.parallel_config(n_jobs=...)` around the call uses more processors and changes nothing else.
    """
    if wrong := [count for count in units if not 1 <= count <= features.shape[1]]:
        raise ValueError(f"units is {wrong[0]}; it must be from 1 to the {features.shape[1]} that there are")
    smallest, count = Counter(labels.tolist()).most_common()[-1]
    if count < FOLDS:
        raise ValueError(f"class {smallest} has {count} images, fewer than the {FOLDS} folds")
    x, y = features.float().numpy(), labels.numpy()
    scores: dict[int, list[float]] = {count: [] for count in units}
    for train, held_out in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(x, y):
        forest = RandomForestClassifier(random_state=0).fit(x[train], y[train])
        ranking = np.argsort(-forest.feature_importances_, kind="stable")
        for count in units:
            best = ranking[:count]
            forest = RandomForestClassifier(random_state=0).fit(x[np.ix_(train, best)], y[train])
            guesses = forest.predict(x[np.ix_(held_out, best)])
            scores[count].append(f1_score(y[held_out], guesses, average="macro", zero_division=0))
    return {count: float(np.mean(values)) for count, values in scores.items()}


def ridge_r2(train: Tensor, train_targets: Tensor, test: Tensor, test_targets: Tensor) -> float:
    """Read real numbers (N, T) by ridge regression on standardised features, and average R² over the T.

    The penalty of each number is chosen on the training images by leave-one-out cross-validation. R² is 1 for
    a perfect reading, and 0 for saying the mean every time.
    """
    a, b = _standardised(train.double(), test.double())
    ridge = RidgeCV(alphas=np.logspace(-2, 6, 17), alpha_per_target=True)
    ridge.fit(a, train_targets.double().numpy())
    return float(r2_score(test_targets.double().numpy(), ridge.predict(b)))


def targets(pixels: Tensor) -> Tensor:
    """Compute what can be asked of every image, uint8 (N, C, S, S); the brighter a pixel, the more ink.

    The four numbers (N, 4) are the mean intensity, 0 to 1; the ink's centre of mass, x and y, from 0 (left,
    top) to 1; and the logarithm of the ink's width over its height (standard deviations about the centre).
    """
    grey = pixels.float().mean(1) / 255
    size = grey.shape[-1]
    weight = grey + 1e-9  # an empty image's ink is everywhere
    total = weight.sum((1, 2))
    place = (torch.arange(size, device=pixels.device) + 0.5) / size

    def moments(axis: int) -> tuple[Tensor, Tensor]:
        profile = weight.sum(axis) / total[:, None]
        centre = profile @ place
        spread = (profile * (place - centre[:, None]).square()).sum(1)
        return centre, spread + 1 / (12 * size**2)  # a pixel is a square, not a point

    (x, width), (y, height) = moments(1), moments(2)
    return torch.stack([grey.mean((1, 2)), x, y, 0.5 * (width / height).log()], 1)
