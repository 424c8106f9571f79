"""The demo on few patches: the table, the picture, and what it refuses to overwrite."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from stochcon.cli import main
from stochcon.config import Backbone, Config
from stochcon.experiments.demo import demo, distinct, informative, shortened, twin


@pytest.fixture
def tiny() -> Config:
    base = shortened(epochs=1)
    update = {
        "data": base.data.model_copy(update={"limit": 360}),
        "backbone": Backbone(width=4),
        "batch_size": 36,
    }
    return base.model_copy(update=update)


def test_the_demo_leaves_a_table_and_a_picture(
    tiny: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):  # a second time over the first
        demo(tmp_path / "demo", tiny)
    metrics = json.loads((tmp_path / "demo" / "metrics.json").read_text())
    codes = ("pixels", "pixels-pca-sign", "pixels-itq", "simclr-h", "simclr-h-itq", "h", "z", "bits")
    assert {f"knn.{code}" for code in codes} < set(metrics)
    assert metrics["bits"] == 64
    printed = capsys.readouterr().out
    assert f"{metrics['knn.bits']:.1f}" in printed
    with Image.open(tmp_path / "demo" / "bits.png") as picture:
        assert picture.width > 1500
    config = json.loads((tmp_path / "demo" / "simclr" / "config.json").read_text())
    assert config["latent"]["kind"] == "deterministic"


def test_the_twin_differs_in_its_latent_only(tiny: Config) -> None:
    from stochcon.config import changes

    assert set(changes(tiny, twin(tiny))) == {"latent.kind"}


def test_the_demo_overwrites_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert (
        capsys.readouterr().err
        == f"stochcon: error: {tmp_path} is not empty and holds no demo: choose another --out\n"
    )
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_shown_bits_are_unlike_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    independent = torch.rand(500, 3, generator=generator) < 0.5
    bits = torch.cat([independent, independent, ~independent], dim=1)
    assert {bit % 3 for bit in informative(bits, 3)} == {0, 1, 2}


def test_shown_patches_are_of_different_photographs() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2])
    assert distinct(torch.arange(5), labels, 2) == [0, 2]
    assert distinct(torch.arange(5), None, 2) == [0, 1]
