"""The curve of scores against the number of bits, on networks that have learnt nothing."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from stochcon.cli import main
from stochcon.evaluation import curve as curves
from stochcon.evaluation.baselines import itq_fits
from stochcon.evaluation.curve import by_width, codes_of_features, curve
from stochcon.evaluation.evaluate import NAMES, evaluate, labelled_images
from stochcon.evaluation.features import Features, extract
from stochcon.evaluation.probes import knn_top1
from stochcon.runs import load_model
from tests.evaluation.examples import tiny
from tests.shared import error, write_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of 8 and 16 bits, SimCLR with an h of 16 numbers, and a run with other data."""
    out = tmp_path_factory.mktemp("runs")
    for name, kind, dim, limit in (
        ("8", "bernoulli", 8, 120),
        ("16", "bernoulli", 16, 120),
        ("simclr", "deterministic", 16, 120),
        ("other", "bernoulli", 8, 40),
    ):
        write_run(out / name, tiny(kind, dim, limit))
    return out


def test_a_curve_agrees_with_the_evaluation_of_both_runs(runs: Path) -> None:
    ours, simclr = runs / "16", runs / "simclr"
    scores = curve([ours], simclr, "validation", progress=False)
    content = json.loads((ours / "curve-validation.json").read_text())
    named = {key: content[key] for key in ("split", "runs", "baseline", "widths")}
    assert named == {"split": "validation", "runs": [str(ours)], "baseline": str(simclr), "widths": [8, 16]}
    metrics = evaluate(ours, "validation", progress=False)
    of_h = [f"simclr-h-{name}" for name in ("median", "random", "autoencoder")]
    pixels = [f"pixels-{name}" for name in ("pca-sign", "itq", "random")]
    others = [*of_h, "rebit", "simclr-head", "simclr-h-itq", *pixels]
    for measure, values in content["scores"].items():
        assert list(values) == ["bits", *others, "h"]
        assert values == by_width(scores, measure).to_dict("list")
        assert values["h"][0] == values["h"][1]
        if measure in ("knn", "linear", "map"):
            for code in ("bits", "h", "pixels-pca-sign", "pixels-itq"):
                assert values[code][1] == pytest.approx(metrics[f"{measure}.{code}"], abs=0.006)
    model, config = load_model(simclr)
    train, labels, test, truth = labelled_images(config.data, "validation")
    h, of_test = (extract(model, images.pixels, config.views).h for images in (train, test))
    fits = [knn_top1(x, labels, y, truth) for x, y in itq_fits(h, of_test, 16)]
    knn = content["scores"]["knn"]
    assert len(set(fits)) > 1 and knn["simclr-h-itq"][1] == pytest.approx(sum(fits) / 5, abs=1e-4)
    assert content["kept"] == [100 * bits / h for bits, h in zip(knn["bits"], knn["h"], strict=True)]


def test_several_runs_are_scored_each_at_its_width(runs: Path) -> None:
    both = curve([runs / "16", runs / "8"], split="validation", progress=False)
    alone = curve([runs / "8"], split="validation", progress=False)
    assert both["bits"].unique().tolist() == [8, 16]
    for measure in curves.MEASURES:
        for code in ("bits", "h-itq", "h", "pixels-pca-sign"):
            assert by_width(both, measure)[code][8] == by_width(alone, measure)[code][8]


def test_the_command_prints_tables_and_names_the_picture(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run = runs / "8"
    assert main(["evaluate", str(run), "--curve", "--split=validation", "--quiet"]) == 0
    printed = capsys.readouterr().out
    score = json.loads((run / "curve-validation.json").read_text())["scores"]["map"]["bits"][0]
    assert f"{score:.1f}" in printed
    assert "pixels, random projections" in printed  # not wrapped
    assert str(run / "curve-validation.png") in printed
    with Image.open(run / "curve-validation.png") as picture:
        assert picture.width > 1500
    for arguments in ([], [run, run], ["--curve"]):
        assert "evaluate needs the directory of one run" in error(capsys, "evaluate", *arguments)


@pytest.mark.parametrize(
    "names, baseline, message",
    [
        (["simclr"], None, "simclr has no bits"),
        (["16", "16"], None, "each run must have another number of bits"),
        (["16"], "other", "other has data.limit = 40, but .*16 has 120: they must be equal"),
    ],
)
def test_a_curve_refuses_runs_that_do_not_fit(runs: Path, names: list[str], baseline: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        curve([runs / name for name in names], baseline and runs / baseline, "validation", progress=False)


def test_fewer_bits_are_those_of_lowest_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(50, 6, generator=generator)
    p[:, 4] = p[:, 4].round()
    a = Features(torch.eye(50, 4), (p * (1 - p)).sqrt(), p, p > 0.5, p > 0.5, p)
    b = Features(torch.eye(20, 4), torch.rand(20, 6, generator=generator), bits=p[:20] > 0.5)
    x, y = codes_of_features((a, b), 1)["bits"]
    assert torch.equal(x, p[:, 4:5] > 0.5)
    assert torch.equal(y, p[:20, 4:5] > 0.5)
    assert torch.equal(codes_of_features((a, b), 6)["bits"][0][:, :1], x)


def test_a_code_that_is_too_short_is_a_dash_in_the_table_and_a_gap_in_the_picture(
    capsys: pytest.CaptureFixture[str],
) -> None:
    values = [(8, "bits", 50.0), (8, "h-itq", 40.0), (8, "h", 80.0), (16, "bits", 60.0), (16, "h", 80.0)]
    rows = [(bits, code, measure, score) for bits, code, score in values for measure in curves.MEASURES]
    scores = pd.DataFrame(rows, columns=["bits", "code", "measure", "score"])
    curves.show(scores)
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert [row for row in cells if row][:5] == [
        ["bits", "8", "16"],
        [NAMES["bits"], "50.0", "60.0"],
        [NAMES["h-itq"], "40.0", "–"],
        [NAMES["h"], "80.0", "80.0"],
        ["% of h's that bits keep", "62.5", "75.0"],
    ]
    axis = Figure().subplots()
    curves.panel(axis, by_width(scores, "knn"))
    assert [str(line.get_ydata()) for line in axis.lines] == ["[50. 60.]", "[40. nan]", "[80. 80.]"]
