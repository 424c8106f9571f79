"""The abstract's claim of regression: numbers that are true of any image, read linearly from its code."""

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from torch import Tensor

from stochcon.evaluation.probes import standardise

Targets = dict[str, Tensor]
"""Floats (N,) by name."""


def ridge_r2(train: Tensor, train_targets: Targets, test: Tensor, test_targets: Targets) -> dict[str, float]:
    """Compute R² of each target on the test images by ridge regression on features (N, D) and (M, D).

    Features are standardised. The penalty of each target is chosen on the training images by leave-one-out
    cross-validation. R² is 1 for a perfect reading, and 0 for saying the mean every time.
    """
    a, b = standardise(train.double(), test.double())
    names = list(train_targets)
    y, truth = (np.stack([t[n].double().numpy() for n in names], 1) for t in (train_targets, test_targets))
    ridge = RidgeCV(alphas=np.logspace(-2, 6, 17), alpha_per_target=True).fit(a, y)
    r2 = r2_score(truth, ridge.predict(b).reshape(truth.shape), multioutput="raw_values")
    return dict(zip(names, r2.tolist(), strict=True))


def targets(pixels: Tensor) -> Targets:
    """Compute what can be asked of every image, uint8 (N, C, S, S); the brighter a pixel, the more ink.

    `ink` is the mean intensity, 0 to 1. `x` and `y` are the ink's centre of mass, 0 (left, top) to 1. `shape`
    is the logarithm of the ink's width over its height, as standard deviations about that centre.

    Example:
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
