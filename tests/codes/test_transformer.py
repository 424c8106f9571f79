"""A transformer that scikit-learn accepts, and that learns what the command line learns."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from stochcon import StochConTransformer, load, pretrain
from stochcon.config import Config, Latent
from stochcon.data import sets as data
from tests.shared import tiny_digits, write_run


def tiny(**latent: Any) -> Config:
    return tiny_digits(latent=Latent(dim=5, **latent))


def test_scikit_learn_checks_it() -> None:
    """As flat images of one row, since the checks' X have any number of features. No check fails."""
    results = check_estimator(StochConTransformer(tiny(), image_shape=(1, -1)), on_fail=None, on_skip=None)
    others = {result["check_name"]: result["exception"] for result in results if result["status"] != "passed"}
    assert len(results) > 40
    # needs an environment variable that scipy reads when it is imported
    assert list(others) == ["check_array_api_input"], others


def test_it_learns_what_pretrain_learns(tmp_path: Path) -> None:
    config = tiny()
    digits = data.load_data(config.data, "train")
    pixels = digits.pixels.permute(0, 2, 3, 1).numpy()
    before = torch.random.get_rng_state()
    transformer = StochConTransformer(config).fit(pixels)
    assert torch.random.get_rng_state().equal(before)
    encoder = load(pretrain(config, tmp_path / "run", progress=False))
    features = encoder.features(pixels)
    assert features.code is not None and features.probabilities is not None
    assert (transformer.transform(pixels) == features.code.numpy()).all()
    assert transformer.get_feature_names_out().tolist() == [f"stochcontransformer{i}" for i in range(5)]

    ready = StochConTransformer(run=tmp_path / "run", output="probabilities").fit(pixels)
    np.testing.assert_array_equal(ready.transform(pixels), features.probabilities.numpy())
    ready = StochConTransformer(run=tmp_path / "run", output="h").fit(pixels)
    np.testing.assert_array_equal(ready.transform(pixels), features.h.numpy())


def test_it_is_a_step_of_a_pipeline_and_of_a_search() -> None:
    X, y = load_digits(return_X_y=True)
    X, y = X[:200], y[:200]
    pipeline = make_pipeline(StochConTransformer(tiny(), random_state=1), LogisticRegression())
    search = GridSearchCV(pipeline, {"stochcontransformer__output": ["bits", "probabilities"]}, cv=2)
    search.fit(X, y)
    assert search.cv_results_["mean_test_score"].min() > 0.1  # better than any one class
    best = search.best_estimator_
    assert (pickle.loads(pickle.dumps(best)).predict(X) == best.predict(X)).all()
    assert clone(best).get_params()["stochcontransformer__random_state"] == 1


def test_layouts_and_ranges_of_the_same_images_give_the_same() -> None:
    flat = load_digits().data[:64]
    flat[0, 0], flat[0, 1] = 0, 16
    expected = StochConTransformer(tiny()).fit(flat).transform(flat)
    for images in (
        flat.reshape(-1, 8, 8),
        flat.reshape(-1, 8, 8, 1),
        flat / 16 - 0.5,
        np.round(flat * (255 / 16)).astype(np.uint8),
    ):
        assert (StochConTransformer(tiny()).fit(images).transform(images) == expected).all()
    colour = np.repeat(flat.reshape(-1, 8, 8, 1), 3, 3)
    transformer = StochConTransformer(tiny(), image_shape=(8, 8, 3)).fit(colour.reshape(64, -1))
    assert (transformer.transform(colour) == expected).all()


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    flat = load_digits().data[:8]
    cases: list[tuple[StochConTransformer, Any, str]] = [
        (StochConTransformer(tiny()), flat[:, :60], "images of 60 pixels are no squares: set image_shape"),
        (StochConTransformer(tiny()).set_params(output="z"), flat, "output is 'z'; it must be bits, probabilities, h"),
        (StochConTransformer("mnist"), flat, "there is no recipe 'mnist'"),
        (
            StochConTransformer(run=write_run(tmp_path / "run", tiny(kind="deterministic"))),
            flat,
            "the latent of this run has no bits; output must be h",
        ),
    ]
    for transformer, X, message in cases:
        with pytest.raises(ValueError, match=message):
            transformer.fit(X)
    with pytest.raises(ValueError, match="60 features"):
        StochConTransformer(tiny()).fit(flat).transform(flat[:, :60])
