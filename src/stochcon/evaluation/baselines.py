"""Codes that one would have without this method: signs of principal components, ITQ, projections, medians.

They are learned without labels from floats (N, D) of the training images and also applied to (M, D) of the
images to classify; each is two tensors of booleans, (N, bits) and (M, bits).
"""

from collections.abc import Sequence

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch import Tensor

Representation = tuple[Tensor, Tensor]
"""The same features of the training images, (N, D), and of the images to classify, (M, D)."""
Floats = NDArray[np.float32]


def principal(train: Tensor, test: Tensor, dims: int) -> tuple[Floats, Floats]:
    """Project on the first principal components, as many as asked for or as there are."""
    pca = PCA(min(dims, *train.shape), random_state=0).fit(train.numpy())
    return pca.transform(train.numpy()), pca.transform(test.numpy())


def rotate(train: Floats, test: Floats) -> tuple[Floats, Floats]:
    """Rotate so that the signs lose least (iterative quantisation, Gong et al., 2013)."""
    a, b = (np.ascontiguousarray(x, dtype=np.float32) for x in (train, test))
    rotation = faiss.ITQMatrix(
        a.shape[1]
    )  # ITQTransform would normalise every vector, which the paper does not
    rotation.train(a)
    return rotation.apply(a), rotation.apply(b)


def signs(train: Floats, test: Floats) -> Representation:
    """Turn each real number into a bit that says whether it is positive."""
    return torch.from_numpy(train > 0), torch.from_numpy(test > 0)


def itq(train: Tensor, test: Tensor, bits: int) -> Representation:
    """Take the signs of rotated principal components."""
    return signs(*rotate(*principal(train, test, bits)))


def random_projections(train: Tensor, test: Tensor, bits: int) -> Representation:
    """Take the signs of Gaussian projections of the centred data (locality-sensitive hashing)."""
    mean = train.mean(0)
    directions = torch.randn(train.shape[1], bits, generator=torch.Generator().manual_seed(0))
    return (train - mean) @ directions > 0, (test - mean) @ directions > 0


def above_median(train: Tensor, test: Tensor, bits: int) -> Representation:
    """Compare random units, as many as asked for or as there are, with their medians in the training data."""
    units = torch.randperm(train.shape[1], generator=torch.Generator().manual_seed(0))[:bits]
    median = train[:, units].median(0).values
    return train[:, units] > median, test[:, units] > median


def codes_of_pixels(
    train: Tensor, test: Tensor, widths: Sequence[int]
) -> dict[int, dict[str, Representation]]:
    """Make all codes of pixels at several numbers of bits, from one projection to the largest of them."""
    a, b = principal(train, test, max(widths))
    c, d = random_projections(train, test, max(widths))
    return {
        n: {
            "pixels-pca-sign": signs(a[:, :n], b[:, :n]),
            "pixels-itq": signs(*rotate(a[:, :n], b[:, :n])),
            "pixels-random": (c[:, :n], d[:, :n]),
        }
        for n in widths
    }
