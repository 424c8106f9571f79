"""Pretrain and encode as one step of a scikit-learn pipeline."""

import tempfile
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from stochcon.codes.encoder import Encoder
from stochcon.config import Config
from stochcon.data.images import list_pictures
from stochcon.data.training_images import TrainingImages
from stochcon.recipebook import changed, recipe
from stochcon.train.pretrain import pretrain

OUTPUTS = {"bits": "code", "probabilities": "probabilities", "h": "h"}
"""The outputs of `transform`, and the field of `stochcon.Features` that holds it."""


class StochConTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turn images into the bits of a network that `fit` pretrains on them, without labels.

    Images are arrays (N, H, W), (N, H, W, C) or flat (N, P). uint8 pixels are taken as they are. Of
    others, the smallest and the largest value that `fit` sees become black and white; values beyond are cut.
    After `fit`, `encoder_` is the `stochcon.Encoder`.

    Args:
        config: A recipe's name, or a configuration. Its `data` only say the size and the channels that images
            are brought to; its batch shrinks to the number of images if they are fewer.
        epochs: Passes over the images; by default the configuration's.
        run: The directory of a finished run. With it, `fit` trains nothing.
        output: `bits` gives booleans (N, D); `probabilities` gives float32 (N, D), how likely each bit of a
            sample is a one; `h` gives float32 (N, H), the backbone's output.
        image_shape: The shape (H, W) or (H, W, C) of flat images, where one number may be -1. By default they
            are square and grey.
        random_state: The seed; by default the configuration's.

    Example:
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
        """Pretrain on the images, or load the run. Raises ValueError for other arrays or another output."""
        if self.output not in OUTPUTS:
            raise ValueError(f"output is {self.output!r}; it must be {', '.join(OUTPUTS)}")
        pixels = self._pixels(X, reset=True)
        if self.run is not None:
            self.encoder_ = Encoder(self.run)
        else:
            config = recipe(self.config) if isinstance(self.config, str) else self.config
            smaller = min(config.batch_size, len(pixels))
            chosen = {"epochs": self.epochs, "seed": self.random_state, "batch_size": smaller}
            chosen |= {"min_steps": 1} if self.epochs else {}
            config = changed(config, {name: value for name, value in chosen.items() if value is not None})
            images = TrainingImages(list_pictures(pixels, config.data.size), config.data)
            with tempfile.TemporaryDirectory() as folder:
                run = pretrain(config, Path(folder) / "run", images=images, progress=False, watch=False)
                self.encoder_ = Encoder(run)
        self._n_features_out = self._encode(pixels[:1]).shape[1]
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.bool_] | NDArray[np.float32]:
        """Return the output (N, D) for N images. Raises ValueError if their shape is not that of `fit`."""
        check_is_fitted(self)
        return self._encode(self._pixels(X, reset=False))

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that bits are bits, whatever the type of X."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _encode(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        values = getattr(self.encoder_.features(pixels), OUTPUTS[self.output])
        if values is None:
            raise ValueError(f"the latent of this run has no {self.output}; output must be h")
        return values.numpy()

    def _pixels(self, X: Any, reset: bool) -> NDArray[np.uint8]:
        """Check X, and return it as images (N, H, W, C)."""
        shape = self.image_shape
        if getattr(X, "ndim", 2) > 2:
            shape = X.shape[1:]
            X = np.asarray(X).reshape(len(X), -1)
        flat = validate_data(self, X, reset=reset, ensure_min_samples=2 if reset else 1)
        n, p = flat.shape
        side = round(p**0.5)
        if shape is None and side * side != p:
            raise ValueError(f"images of {p} pixels are no squares: set image_shape, or give (N, H, W, C)")
        if reset:
            self.range_ = (0, 255) if flat.dtype == np.uint8 else (flat.min(), flat.max())
        black, white = self.range_
        span = max(white - black, np.finfo(np.float64).tiny)  # the images may all be of one grey
        scaled = (flat.astype(np.float64).clip(black, white) - black) / span
        pixels = (255 * scaled).round().astype(np.uint8).reshape(n, *(shape or (side, side)))
        return pixels[..., None] if pixels.ndim == 3 else pixels
