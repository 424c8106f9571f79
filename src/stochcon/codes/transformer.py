"""Pretraining and encoding as one step of a scikit-learn pipeline."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from stochcon.codes.encode import Encoder
from stochcon.config import Config
from stochcon.data.loading import Canvases
from stochcon.data.sources import list_pictures
from stochcon.recipebook import recipe
from stochcon.train.pretrain import pretrain


class StochConTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Images to the bits of a network that `fit` pretrains on them, without labels.

    Images are (N, H, W), (N, H, W, C) or flat (N, P). Pixels that are uint8 are taken as they are; of others
    the smallest and the largest value that `fit` sees become black and white, and what is beyond is clipped.

    config: a recipe's name, or a configuration, of which the data only say the canvas (`data.size`,
        `data.channels`); its batch is the number of images if they are fewer.
    epochs: by default the configuration's.
    run: the directory of a finished run; then `fit` trains nothing.
    output: `bits` (N, D) booleans; `probabilities` (N, D) float32, that a bit of a sample is a one; `h`
        (N, H) float32, what the backbone gives.
    image_shape: (H, W) or (H, W, C) of flat images, one of which may be -1; by default they are square and grey.
    random_state: the seed; by default the configuration's.

    After `fit`, `encoder_` is the `stochcon.Encoder`.

    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> X, y = load_digits(return_X_y=True)
    >>> steps = StochConTransformer("digits", epochs=1), LogisticRegression(max_iter=1000)
    >>> pipeline = make_pipeline(*steps).fit(X[:500], y[:500])
    >>> pipeline[0].transform(X[:2]).shape, pipeline.predict(X[:2]).shape
    ((2, 16), (2,))
    """

    def __init__(
        self,
        config: str | Config = "photographs",
        *,
        epochs: int | None = None,
        run: str | Path | None = None,
        output: Literal["bits", "probabilities", "h"] = "bits",
        image_shape: tuple[int, ...] | None = None,
        random_state: int | None = None,
    ):
        self.config = config
        self.epochs = epochs
        self.run = run
        self.output = output
        self.image_shape = image_shape
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Pretrain on the images, or load the run. Raises ValueError for what are no images."""
        if self.output not in OUTPUTS:
            raise ValueError(f"output is {self.output!r}; it must be {', '.join(OUTPUTS)}")
        pixels = self._pixels(X, reset=True)
        if self.run is not None:
            self.encoder_ = Encoder(self.run)
        else:
            config = self._config(len(pixels))
            training_images = Canvases(list_pictures(pixels, config.data.size), config.data)
            with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
                self.encoder_ = Encoder(
                    pretrain(config, Path(folder) / "run", images=training_images, progress=False)
                )
        self._n_features_out = self._encode(pixels[:1]).shape[1]
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.bool_] | NDArray[np.float32]:
        """(N, D) for N images as `fit` had them. Raises ValueError if they are of another shape."""
        check_is_fitted(self)
        return self._encode(self._pixels(X, reset=False))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # bits are bits
        return tags

    def _config(self, n: int) -> Config:
        config = recipe(self.config) if isinstance(self.config, str) else self.config
        given = {"epochs": self.epochs, "seed": self.random_state}
        given = {name: value for name, value in given.items() if value is not None}
        smaller = {"batch_size": min(config.batch_size, n)}
        return Config.model_validate(config.model_dump() | given | smaller)

    def _encode(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        features = self.encoder_.features(pixels)
        values = {"bits": features.code, "probabilities": features.probabilities, "h": features.h}[
            self.output
        ]
        if values is None:
            raise ValueError(f"a deterministic latent has no {self.output}; output must be h")
        return values.numpy()

    def _pixels(self, X: Any, reset: bool) -> NDArray[np.uint8]:
        """(N, H, W, C)"""
        shape = self.image_shape
        if getattr(X, "ndim", 2) > 2:
            shape = X.shape[1:]
            X = np.asarray(X).reshape(len(X), -1)
        flat = validate_data(self, X, reset=reset, ensure_min_samples=2 if reset else 1)
        side = round(flat.shape[1] ** 0.5)
        if shape is None and side * side != flat.shape[1]:
            raise ValueError(
                f"images are flat and of {flat.shape[1]} pixels, which is no square: set image_shape, "
                "or give arrays (N, H, W, C)"
            )
        pixels = flat.reshape(len(flat), *(shape or (side, side)))
        pixels = pixels[..., None] if pixels.ndim == 3 else pixels
        if reset:
            self.range_ = (0, 255) if flat.dtype == np.uint8 else (flat.min(), flat.max())
        black, white = self.range_
        scaled = (pixels.astype(np.float64).clip(black, white) - black) / max(white - black, TINY)
        return (255 * scaled).round().astype(np.uint8)


OUTPUTS = "bits", "probabilities", "h"
TINY = np.finfo(np.float64).tiny
"""Instead of the range of images that are all one grey."""
