"""Codes that one would have without this method: signs of principal components, ITQ, projections, medians.

They are learned without labels from floats (N, D) of the training images and also applied to (M, D) of the
images to classify; each is two tensors of booleans, (N, bits) and (M, bits).
"""

import faiss
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from torch import Tensor, nn

from stochcon.data.images import Images

Representation = tuple[Tensor, Tensor]
"""The same features of the training images, (N, D), and of the images to classify, (M, D)."""


def principal(train: Tensor, test: Tensor, dims: int) -> Representation:
    """Project on the first principal components, as many as asked for or as there are."""
    pca = PCA(min(dims, *train.shape), random_state=0).fit(train.numpy())
    return torch.from_numpy(pca.transform(train.numpy())), torch.from_numpy(pca.transform(test.numpy()))


def _rotated_signs(train: Tensor, test: Tensor, seed: int | None = None) -> Representation:
    # faiss.ITQTransform would also normalise every vector, which the paper does not (Gong et al., 2013).
    rotation = faiss.ITQMatrix(train.shape[1])
    rotation.seed = rotation.seed if seed is None else seed
    rotation.train(train)
    return torch.from_numpy(rotation.apply(train) > 0), torch.from_numpy(rotation.apply(test) > 0)


def itq(train: Tensor, test: Tensor, bits: int) -> Representation:
    """Take the signs of principal components, rotated so that the signs lose least."""
    return _rotated_signs(*principal(train, test, bits))


def itq_fits(train: Tensor, test: Tensor, bits: int, fits: int = 5) -> list[Representation]:
    """Fit ITQ from several random rotations, whose scores differ by a point or two."""
    components = principal(train, test, bits)
    return [_rotated_signs(*components, seed) for seed in range(fits)]


def autoencoder(train: Tensor, test: Tensor, bits: int, steps: int = 1000) -> Representation:
    """Learn a linear code whose signs, with the gradient of a tanh, give the standardised floats back linearly."""
    mean, std = train.mean(0), train.std(0).clamp_min(1e-6)
    x, y = (train - mean) / std, (test - mean) / std
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encode, decode = nn.Linear(x.shape[1], bits), nn.Linear(bits, x.shape[1])
        optimizer = torch.optim.Adam([*encode.parameters(), *decode.parameters()], lr=3e-3)
        for _ in range(steps):
            batch = x[torch.randint(len(x), (512,))]
            relaxed = encode(batch).tanh()
            signs = relaxed + (relaxed.sign() - relaxed).detach()
            optimizer.zero_grad()
            F.mse_loss(decode(signs), batch).backward()
            optimizer.step()
    with torch.no_grad():
        return encode(x) > 0, encode(y) > 0


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
