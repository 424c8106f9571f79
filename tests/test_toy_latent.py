"""A new latent is one class: trained, evaluated, encoded, searched and exported with no other change."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Laplace

import stochcon
from stochcon import config
from stochcon.codes.search import search
from stochcon.method.latents import LATENTS, Latent


class LaplaceLatent(Latent):
    """Real numbers with heavier tails than a Gaussian's: φ is the location and, before its softplus, the scale."""

    n_parameters = 2

    def forward(self, phi: Tensor, opposing: Tensor | None = None, relaxation: float = 0.1) -> Laplace:
        """Return a Laplace distribution."""
        location, scale = phi.float().split(self.dim, dim=-1)
        return Laplace(location, F.softplus(scale) + 1e-6, validate_args=False)


def test_a_new_latent_is_one_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LATENTS, "laplace", LaplaceLatent)
    small = {"backbone.width": 4, "epochs": 1, "rebit.steps": 9}
    settings = stochcon.recipe("digits", latent=config.Latent(kind="laplace", dim=11), **small)
    run = stochcon.pretrain(settings, tmp_path / "run", progress=False)
    metrics = stochcon.evaluate(run, "validation", progress=False)
    assert metrics["knn.z"] > 15 and "knn.bits" not in metrics, "its z is real numbers"

    file, written, _ = stochcon.encode(run, "digits", tmp_path / "codes.parquet", "test", progress=False)
    codes = stochcon.read_codes(file)
    assert (written, codes.bits, codes.latent) == (360, 11, "laplace")
    (result,) = search(file, [str(codes.ids[7])], k=3)
    assert len(result.ids) == 3

    model, _ = stochcon.load_model(run)
    images = stochcon.load_data(settings.data, "test").pixels
    features = stochcon.extract(model, images, settings.views)
    assert features.code is not None
    assert (codes.unpack() == features.code.numpy()).all()

    exported, agreement = stochcon.to_onnx(run, check=360)
    assert agreement is not None and agreement.differing == 0, "the bits of ONNX are those of PyTorch"
    onnxruntime = pytest.importorskip("onnxruntime")
    packed, means, variances = onnxruntime.InferenceSession(exported).run(None, {"images": images.numpy()})
    np.testing.assert_array_equal(packed, codes.packed)
    with torch.inference_mode():
        q = model.latent(model.pi(features.h))
    np.testing.assert_allclose(means, q.mean, atol=1e-5)
    np.testing.assert_allclose(variances, q.variance, rtol=1e-4)
