"""Copies of images find their originals: by closed forms, on images that are easy, and in the verdict's words."""

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stochcon.cli import main
from stochcon.evaluation.self_retrieval import COPIES, NAMES, copies, found, self_retrieval, success_at, verdict
from stochcon.recipebook import recipe
from tests.shared import tiny_digits, write_run


@given(st.integers(1, 4), st.integers(0, 3), st.integers(1, 4), st.integers(1, 4))
def test_success_is_the_mean_over_all_orders_of_ties(k: int, nearer: int, tied: int, right: int) -> None:
    right = min(right, tied)
    orders = [*permutations([True] * right + [False] * (tied - right))]
    expected = sum(any(([False] * nearer + [*order])[:k]) for order in orders) / len(orders)
    assert float(success_at(k, *(torch.tensor([n]) for n in (nearer, tied, right)))) == pytest.approx(expected)


def test_equal_codes_share_the_first_place() -> None:
    database = torch.tensor([[True, True], [True, True], [False, True]])
    assert found(database, database[:1], torch.tensor([0])) == [50, 100]
    assert found(database.float(), database[2:].float(), torch.tensor([2])) == [100, 100]


@pytest.mark.parametrize("channels", [1, 3])
def test_copies_look_like_their_originals_and_never_change(channels: int) -> None:
    ramp = torch.arange(32) * 8
    images = (ramp[:, None] + ramp).div(2).byte().expand(5, channels, 32, 32)
    made = copies(images)
    assert made.keys() == COPIES.keys()
    for name, each in made.items():
        assert each.dtype == torch.uint8 and each.shape == images.shape
        assert torch.equal(each, copies(images)[name])
        assert not torch.equal(each, images)
    near = (made["jpeg"].float() - images.float()).abs().mean()
    assert near < 12
    assert (made["crop"].float().mean((1, 2, 3)) - images.float().mean()).abs().max() < 50


def noise(folder: Path, count: int) -> Path:
    """Images of few large squares of random colours, which any code tells apart."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        squares = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8))
        squares.resize((24, 24), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


def test_a_flat_folder_is_evaluated_without_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = {"data.size": 16, "views.global_size": 16, "backbone.width": 4, "latent.dim": 16}
    config = recipe("folder", **{"data.root": noise(tmp_path / "images", 60)} | small)
    run = write_run(tmp_path / "run", config)
    assert main(["evaluate", str(run), "--quiet"]) == 0
    said = capsys.readouterr().out
    metrics = json.loads((run / "self-retrieval.json").read_text())
    assert metrics == self_retrieval(run, progress=False)
    assert all(title in said for title in NAMES.values()) and verdict(metrics) in said
    assert metrics["top1.jpeg.pixels"] == 100 and metrics["top1.pixels"] > 70
    for name in NAMES:
        for place in (1, 10):
            each = [metrics[f"top{place}.{copy}.{name}"] for copy in COPIES]
            assert metrics[f"top{place}.{name}"] == pytest.approx(sum(each) / 3, abs=0.01)
    assert 0 < metrics["queries"] < metrics["images"] < 60, "validation images are not searched"


def test_a_run_without_bits_has_no_bits_to_judge(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tiny_digits(**{"latent.kind": "deterministic", "data.limit": 64}))
    metrics = self_retrieval(run, "validation", progress=False)
    assert "top1.bits" not in metrics and "the network has no bits" in verdict(metrics).lower()


@pytest.mark.parametrize(
    "ours, pca, said", [(80, 60, "use the bits"), (60, 80, "PCA signs of pixels are better here"), (80, 79, "as good")]
)
def test_the_verdict_follows_the_numbers(ours: float, pca: float, said: str) -> None:
    metrics = {"bits": 64, "top1.bits": ours, "top1.pca-sign": pca, "top1.itq": 10, "top1.imagehash": 20}
    assert said in verdict(metrics) and f"{ours} %" in verdict(metrics)
