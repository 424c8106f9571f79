"""Codes that one would have without this method: signs of principal components, ITQ, projections, medians.

They are learned without labels from floats (N, D) of the training images and also applied to (M, D) of the
images to classify; each is two tensors of booleans, (N, bits) and (M, bits).
"""

import faiss
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from stochcon.data.images import Images

Representation = tuple[Tensor, Tensor]
"""The same features of the training images, (N, D), and of the images to classify, (M, D)."""


def principal(train: Tensor, test: Tensor, dims: int) -> Representation:
    """Project on the first principal components, as many as asked for or as there are."""
    pca = PCA(min(dims, *train.shape), random_state=0).fit(train.numpy())
    return torch.from_numpy(pca.transform(train.numpy())), torch.from_numpy(pca.transform(test.numpy()))


def _rotated_signs(train: Tensor, test: Tensor) -> Representation:
    # faiss.ITQTransform would also normalise every vector, which the paper does not (Gong et al., 2013).
    rotation = faiss.ITQMatrix(train.shape[1])
    rotation.train(train)
    return torch.from_numpy(rotation.apply(train) > 0), torch.from_numpy(rotation.apply(test) > 0)


def itq(train: Tensor, test: Tensor, bits: int) -> Representation:
    """Take the signs of principal components, rotated so that the signs lose least."""
    return _rotated_signs(*principal(train, test, bits))


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


def pixel_floats(images: Images) -> Tensor:
    """Flatten images to (N, C * S * S) floats from 0 to 1."""
    return images.pixels.flatten(1).float() / 255


def codes_of_pixels(train: Images, test: Images, widths: list[int]) -> dict[int, dict[str, Representation]]:
    """Make all codes of pixels at several numbers of bits, from one projection to the largest of them."""
    pixels = pixel_floats(train), pixel_floats(test)
    a, b = principal(*pixels, max(widths))
    c, d = random_projections(*pixels, max(widths))
    return {
        n: {
            "pixels-pca-sign": (a[:, :n] > 0, b[:, :n] > 0),
            "pixels-itq": _rotated_signs(a[:, :n], b[:, :n]),
            "pixels-random": (c[:, :n], d[:, :n]),
        }
        for n in widths
    }
