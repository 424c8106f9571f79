"""The demo on few patches: the table, the picture, and what it refuses to overwrite."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from stochcon.cli import main
from stochcon.config import Config, changes
from stochcon.evaluation.self_retrieval import verdict
from stochcon.experiments import demo as demos
from stochcon.experiments.demo import compare, demo, distinct, informative
from stochcon.recipebook import recipe, simclr
from tests.evaluation.test_self_retrieval import noise
from tests.shared import error


@pytest.fixture
def tiny() -> Config:
    return recipe("photographs", batch_size=36, epochs=1, **{"data.limit": 360, "backbone.width": 4, "rebit.steps": 3})


def test_the_demo_leaves_a_table_and_a_picture(
    tiny: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):  # a second time over the first
        compare(tiny, tmp_path / "demo")
    metrics = json.loads((tmp_path / "demo" / "metrics.json").read_text())
    codes = ("pixels", "pixels-pca-sign", "pixels-itq", "h", "h-itq", "z", "bits")
    assert {f"knn.{code}" for code in codes} < set(metrics)
    assert metrics["bits"] == 64
    said = capsys.readouterr().out
    assert f"{metrics['knn.bits']:.1f}" in said and "64 bits find the right picture" in said
    with Image.open(tmp_path / "demo" / "bits.png") as picture:
        assert picture.width > 1500


def test_the_demo_of_a_folder_says_what_its_bits_are_worth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    noise(tmp_path / "images", 90)
    monkeypatch.setattr(demos, "FOLDER_STEPS", 2)
    monkeypatch.setattr(demos, "recipe", lambda name, **fields: recipe(name, **fields | {"rebit.steps": 3}))
    assert main(["demo", "--data.root", str(tmp_path / "images"), "--out", str(tmp_path / "demo")]) == 0
    said = capsys.readouterr().out
    metrics = json.loads((tmp_path / "demo" / "bernoulli" / "self-retrieval-validation.json").read_text())
    assert said.startswith("90 images: ") and verdict(metrics) in said
    with Image.open(tmp_path / "demo" / "bits.png") as picture:
        assert picture.width > 1500


def test_the_baseline_differs_in_its_latent_only(tiny: Config) -> None:
    assert set(changes(tiny, simclr(tiny))) == {"latent.kind"}


def test_the_demo_overwrites_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert f"{tmp_path} is not empty and holds no demo" in error(capsys, "demo", "--out", tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_no_epochs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="epochs"):
        demo(tmp_path / "demo", epochs=0)
    assert not (tmp_path / "demo").exists()


def test_shown_bits_are_unlike_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    independent = torch.rand(500, 3, generator=generator) < 0.5
    bits = torch.cat([independent, independent, ~independent], dim=1)
    assert {bit % 3 for bit in informative(bits, 3)} == {0, 1, 2}


def test_shown_patches_are_of_different_photographs() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2])
    assert distinct(torch.tensor([1, 0, 4, 3, 2]), labels, 2) == [1, 4]
    assert distinct(torch.arange(5), labels, 9) == [0, 2, 4]
