"""The curve of scores against the number of bits, on small runs; the demo's panel is drawn by the same code."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from shared import error

from stochcon.cli import main
from stochcon.config import Data
from stochcon.data import sets as data
from stochcon.evaluation import curve as curves
from stochcon.evaluation.curve import Curve, of_bits, of_h, of_pixels
from stochcon.evaluation.evaluate import labelled
from stochcon.evaluation.features import Features

TINY = ["digits", "--data.limit=120", "--batch-size=40", "--epochs=1", "--backbone.width=1", "--quiet"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of 8 and 16 bits and their SimCLR twin, with an h of 16 numbers."""
    out = tmp_path_factory.mktemp("runs")
    for name, options in {"8": [], "16": [], "twin": ["--latent.kind=deterministic"]}.items():
        dim = [f"--latent.dim={name}"] if name.isdigit() else ["--latent.dim=16"]
        assert main(["pretrain", *TINY, *dim, *options, f"--out={out / name}"]) == 0
    return out


def saved(run: Path, name: str = "curve-validation.json") -> Curve:
    content = json.loads((run / name).read_text())
    kept = content.pop("kept")
    curve = Curve(**content)
    assert kept == curve.kept()
    return curve


def test_a_curve_agrees_with_the_evaluation_of_both_runs(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, twin = runs / "16", runs / "twin"
    options = ["--split=validation", "--quiet"]
    assert main(["evaluate", str(ours), "--curve", f"--twin={twin}", *options]) == 0
    printed = capsys.readouterr().out
    assert main(["evaluate", str(ours), *options]) == main(["evaluate", str(twin), *options]) == 0
    metrics, twins = (json.loads((run / "metrics-validation.json").read_text()) for run in (ours, twin))
    curve = saved(ours)
    assert curve.widths == [8, 16]
    assert curve.split == "validation"
    others = {"simclr-h-itq", "simclr-h-median", "pixels-pca-sign", "pixels-itq", "pixels-random"}
    for measure, values in curve.scores.items():
        assert set(values) == {"bits", "h"} | others
        assert values["h"][0] == values["h"][1]
        if measure in ("knn", "linear", "map"):
            for code in ("bits", "h", "pixels-pca-sign", "pixels-itq"):
                assert values[code][1] == pytest.approx(metrics[f"{measure}.{code}"], abs=0.006)
            assert values["simclr-h-itq"][1] == pytest.approx(twins[f"{measure}.h-itq"], abs=0.006)
    assert f"{curve.scores['map']['bits'][1]:.1f}" in printed
    assert str(ours / "curve-validation.png") in printed.replace("\n", "")
    with Image.open(ours / "curve-validation.png") as picture:
        assert picture.width > 1500


def test_several_runs_are_scored_each_at_its_width(runs: Path) -> None:
    paths = [runs / "16", runs / "8"]
    curve = curves.curve(paths, split="validation", progress=False)
    assert curve.widths == [8, 16]
    assert curve == saved(runs / "16")
    alone = curves.curve([runs / "8"], split="validation", progress=False)
    for measure, values in curve.scores.items():
        assert alone.scores[measure]["bits"] == values["bits"][:1]
        assert alone.scores[measure]["h-itq"] == values["h-itq"][:1]
        assert alone.scores[measure]["pixels-pca-sign"] == values["pixels-pca-sign"][:1]


def test_what_a_curve_cannot_be_drawn_of(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twin, ours = str(runs / "twin"), str(runs / "16")
    line = error(capsys, "evaluate", twin, "--curve", "--quiet")
    assert line == f"{twin} has no bits: a curve needs runs with --latent.kind bernoulli"
    line = error(capsys, "evaluate", ours, ours, "--curve", "--quiet")
    assert line == f"{ours}, {ours}: each run must have another number of bits"
    other = str(tmp_path / "other")
    assert main(["pretrain", *TINY, "--data.limit=40", f"--out={other}"]) == 0
    line = error(capsys, "evaluate", ours, "--curve", f"--twin={other}")
    assert line == f"{other} has data.limit = 40, but {ours} has 120: they must be equal"
    for arguments in ([], [ours, ours], [ours, f"--twin={twin}"], ["--curve"]):
        line = error(capsys, "evaluate", *arguments)
        assert line == "evaluate needs the directory of one run; several, and --twin, are for --curve"


def features(n: int, seed: int) -> Features:
    generator = torch.Generator().manual_seed(seed)
    z = torch.rand(n, 6, generator=generator)
    z[:, 4] = z[:, 4].round()
    return Features(torch.randn(n, 4, generator=generator), z, z > 0.5, (z * (1 - z)).sqrt())


def test_fewer_bits_are_the_surest() -> None:
    a, b = features(50, 0), features(20, 1)
    assert a.bits is not None and b.bits is not None
    (x, y) = of_bits(a, b)(1)["bits"]
    assert torch.equal(x, a.bits[:, 4:5])
    assert torch.equal(y, b.bits[:, 4:5])
    (more, _) = of_bits(a, b)(6)["bits"]
    assert torch.equal(more[:, :1], x)


def test_no_code_has_more_bits_than_there_are_units() -> None:
    for name, (x, y) in of_h(features(50, 0), features(20, 1), "simclr-")(8).items():
        assert name.startswith("simclr-h-")
        assert x.shape[1] == y.shape[1] == 4


def test_pixels_projected_once_and_cut_are_as_if_projected_for_each_width() -> None:
    digits = Data(name="digits", size=8, channels=1)
    train, test = data.load(digits, "train"), data.load(digits, "validation")
    cut, exact = (of_pixels(train, test, most)(8) for most in (32, 8))
    for name in ("pixels-pca-sign", "pixels-itq"):
        for x, y in zip(cut[name], exact[name], strict=True):
            assert (x == y).float().mean() > 0.999


def test_a_code_that_is_too_short_is_a_dash_in_the_table_and_a_gap_in_the_picture() -> None:
    values: dict[str, list[float | None]] = {"bits": [50.0, 60.0], "h-itq": [40.0, None], "h": [80.0, 80.0]}
    curve = Curve("test", ["a"], None, [8, 16], dict.fromkeys(curves.MEASURES, values))
    first = curves.table(curve).split("\n\n")[1]
    assert first.splitlines() == [
        "| bits | StochCon's bits | h, ITQ | h, the backbone's output | % of h's that bits keep |",
        "| --: | --: | --: | --: | --: |",
        "| 8 | 50.0 | 40.0 | 80.0 | 62.5 |",
        "| 16 | 60.0 | – | 80.0 | 75.0 |",
    ]
    lines = curves.draw(curve).axes[0].lines
    assert [str(line.get_ydata()) for line in lines] == ["[50. 60.]", "[40. nan]", "[80. 80.]"]


def test_validation_images_are_not_among_those_to_learn_from() -> None:
    """Even where the network has seen them."""
    everything = Data(name="digits", size=8, channels=1, holdout=False)
    train, _, validation, _ = labelled(everything, "validation")
    assert not {*train.ids} & {*validation.ids}
    whole, _, test, _ = labelled(everything, "test")
    assert {*validation.ids} < {*whole.ids}
    assert not {*whole.ids} & {*test.ids}
