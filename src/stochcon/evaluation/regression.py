"""The abstract's regression claim: numbers that are true of any image, read linearly from its code."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from torch import Tensor

Targets = dict[str, Tensor]
"""By name, (N,) floats."""


def ridge_r2(train: Tensor, train_targets: Targets, test: Tensor, test_targets: Targets) -> dict[str, float]:
    """R² of each target on the test images: ridge regression on standardised features (N, D) and (M, D).

    The penalty of each target is chosen on the training images, by generalised (leave-one-out)
    cross-validation. R² is 1 for a perfect reading, and 0 for saying the mean every time.

    >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    >>> r2 = ridge_r2(x, {"double": 2 * x[:, 0]}, x, {"double": 2 * x[:, 0]})
    >>> round(r2["double"], 3)
    1.0
    """
    a, b = train.double(), test.double()
    mean, std = a.mean(0), a.std(0)
    std[std < 1e-6] = 1  # a unit that never changes says nothing
    names = list(train_targets)
    y, truth = (torch.stack([t[n].double() for n in names], 1) for t in (train_targets, test_targets))
    ridge = RidgeCV(alphas=np.logspace(-2, 6, 17), alpha_per_target=True)
    ridge.fit(((a - mean) / std).numpy(), y.numpy())
    guesses = ridge.predict(((b - mean) / std).numpy()).reshape(truth.shape)
    return dict(zip(names, r2_score(truth.numpy(), guesses, multioutput="raw_values").tolist(), strict=True))


def targets(pixels: Tensor) -> Targets:
    """What can be asked of every image, of uint8 (N, C, S, S): the brighter a pixel, the more ink it has.

    ink: mean intensity, 0 to 1. x, y: the ink's centre of mass, 0 (left, top) to 1. shape: the logarithm of
    the ink's width to its height, as standard deviations about that centre, positive if it is wider.

    >>> image = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    >>> image[..., 0, :] = 255  # a line along the top
    >>> {name: round(value.item(), 3) for name, value in targets(image).items()}
    {'ink': 0.25, 'x': 0.5, 'y': 0.125, 'shape': 1.386}
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
    return {"ink": grey.mean((1, 2)), "x": x, "y": y, "shape": 0.5 * (width / height).log()}


def turned(pixels: Tensor, seed: int = 0, limit: float = 45.0) -> tuple[Tensor, Tensor]:
    """Images turned counter-clockwise by random angles up to `limit` degrees either way, and the angles (N,).

    uint8 (N, C, S, S) to the same. What remains is the centre, 1 / sqrt(2) of the side, enlarged to the whole
    canvas: at no angle does it reach over the image's border, so no corner tells the angle.

    >>> images, angle = turned(torch.full((2, 3, 8, 8), 200, dtype=torch.uint8))
    >>> images.unique(), angle.shape
    (tensor([200], dtype=torch.uint8), torch.Size([2]))
    """
    angle = (2 * torch.rand(len(pixels), generator=torch.Generator().manual_seed(seed)) - 1) * limit
    turn = angle.to(pixels.device).deg2rad()
    cos, sin = turn.cos() / math.sqrt(2), turn.sin() / math.sqrt(2)
    # Where each pixel of the result comes from: the inverse turn, in coordinates whose y points down.
    matrix = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    matrix = torch.cat([matrix, torch.zeros_like(matrix[..., :1])], 2)
    parts = []
    for images, some in zip(pixels.split(1024), matrix.split(1024), strict=True):
        grid = F.affine_grid(some, list(images.shape), align_corners=False)
        sampled = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
        parts.append(sampled.round().to(torch.uint8))
    return torch.cat(parts), angle
