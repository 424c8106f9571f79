"""Every benchmark at a toy size: it runs, and its rows become a table."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import (
    codes,
    dial,
    distances,
    encode,
    gpu,
    measure,
    memory,
    monitors,
    ours,
    report,
    scaling,
    steps,
    views,
    whole,
)
from benchmarks.peers import KorniaViews, lightly_loader
from stochcon import atomic
from stochcon.config import Backbone, Config, Views
from stochcon.evaluation.evaluate import evaluate
from stochcon.views import make_views
from tests.evaluation.examples import tiny
from tests.shared import tiny_digits, write_run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def positive(rows: list[measure.Row]) -> int:
    for row in rows:
        speed = row["images per second"]
        assert 0 < speed["lowest"] <= speed["median"] <= speed["highest"]
    return len(rows)


def test_views() -> None:
    assert positive(views.measure(((16, 16, 8, 2),), workers=1, seconds=0.0, repeats=1)) == 3


def test_the_peers_make_views_of_our_shapes_and_range() -> None:
    config = Views(local_views=3)
    images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    kornia = KorniaViews(config)(images)
    lightly = next(iter(lightly_loader(images, config, 4, workers=0)))
    ours = make_views(images, config)
    assert [x.shape for x in kornia] == [x.shape for x in ours]
    assert [x.shape for x in lightly] == [view.shape for x in ours for view in x]
    for x in (*kornia, *lightly):
        assert -2.2 < x.min() < x.max() < 2.7  # normalised as ours


def test_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ours.NETWORKS, "toy", (Backbone(width=2), 2))
    assert positive(steps.measure("toy", workers=1, seconds=0.0, repeats=1, compiled=False)) == 14


def test_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a toy size every measurement runs on a CPU too; one that is there is not made again."""
    toy = gpu.Sizes(
        (Backbone(width=2),), ((16, 8, 2),), large_batch=4, workers=1, seconds=0.0, repeats=1, compiled=False
    )
    for module in (gpu, measure):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(gpu, "Sizes", lambda: toy)
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(gpu, "paper", lambda what, **settings: asked.append({"what": what, **settings}))
    monkeypatch.setattr(scaling, "main", lambda: None)
    monkeypatch.setattr("sys.argv", ["gpu", "--minutes=9"])
    gpu.main()
    names = [name for name, _ in gpu.measurements(toy)]
    assert {path.stem for path in tmp_path.iterdir()} == {*names}
    assert [positive(json.loads((tmp_path / f"{name}.json").read_text())["rows"]) for name in names] == [14, 2, 3, 2]
    assert asked[0]["what"] == "table1" and asked[0]["tier"] == "gpu" and 0 < asked[0]["minutes"] <= 9
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    gpu.main()
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_the_share_of_the_peak_is_guessed_until_it_is_measured(tmp_path: Path) -> None:
    assert scaling.utilisation(tmp_path) == 0.1
    row = {"views": "2 + 8", "program": "stochcon, SimCLR, compiled", "share of the peak (%)": 23.0}
    atomic.write_json(tmp_path / "gpu-steps-resnet50-224.json", {"rows": [row | {"views": "2 + 0"}, row]})
    assert scaling.utilisation(tmp_path) == 0.23


def test_the_operations_of_a_step_are_three_times_those_of_its_forward_passes() -> None:
    config = Config(backbone=Backbone(name="resnet50", stem="standard"), views=Views(global_size=224, local_views=0))
    assert gpu.operations(config) == pytest.approx(3 * 2 * scaling.forward_flops("resnet50", 224))


def test_encode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "NETWORKS", {"toy": (Backbone(width=2), 2)})
    assert positive(encode.measure(4, seconds=0.0, repeats=1)) == 2


def test_memory() -> None:
    (row,) = memory.measure(((8, 4, 1),), width=2)
    assert row["batch"] == 8 and row["chunk"] == 4
    assert row["peak MiB"] >= row["before the first step MiB"] > 50
    assert row["ms per image"] > 0


def test_monitors() -> None:
    row = monitors.measure(tiny_digits())
    assert row["images"] == 100 and row["training"] > row["looking"] >= 0


SMALL = ("--backbone.width=2", "--batch-size=16", "--views.local-views=1", "--head.hidden=8", "--latent.dim=4")


def test_whole_runs() -> None:
    (row,) = whole.data_size((64,), *SMALL)
    assert row["images"] == 64 and row["seconds"] > 0 and row["images per second in training"] > 0
    assert positive(whole.processes(1, "--data.limit=64", *SMALL)) == 3


def test_codes_dial_and_distances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stochcon, simclr = (write_run(tmp_path / kind, tiny(kind, 16, 120)) for kind in ("bernoulli", "deterministic"))
    scores = codes.compare("digits", stochcon, simclr, [8, 16], "validation")
    assert {"ours", "simclr-head", "simclr-itq", "pixels-pca-sign", "h"} < scores[8].keys() == scores[16].keys()
    monkeypatch.setattr(codes, "OUT", tmp_path / "results" / "codes")
    (tmp_path / "docs").mkdir()
    for seed in range(2):
        atomic.write_json(codes.OUT / f"digits-{seed}.json", {str(width): scores[width] for width in scores})
    codes.summarise()
    summary = json.loads((codes.OUT / "summary.json").read_text())
    assert summary["digits"]["8"]["ours"]["map"] == 2 * [round(scores[8]["ours"]["map"], 2)]

    points = dial.dial(stochcon, 8, "validation")
    assert {"h", "ITQ of h", "decorrelation 0.5", "temperature 0.2"} < points.keys()
    assert len(dial.draw({"digits": points}, 8).axes) == 1

    monkeypatch.setattr(distances, "OUT", tmp_path / "distances.json")
    monkeypatch.setattr("sys.argv", ["distances", str(stochcon), "--split=validation"])
    distances.main()
    (found,) = json.loads((tmp_path / "distances.json").read_text()).values()
    metrics = evaluate(stochcon, "validation", progress=False)
    assert found["hamming"]["map"] == pytest.approx(metrics["map.bits"], abs=0.006)
    assert len({values["map"] for values in found.values()}) == 3


def test_the_page_has_a_place_for_every_result_and_nothing_else(tmp_path: Path) -> None:
    page = report.PAGE.read_text()
    places = re.findall(r"<!-- ([\w-]+) -->", page)
    expected = {
        "ratios",
        "views",
        *(f"steps-{name}" for name in ours.NETWORKS),
        "encode",
        "memory",
        "data-size",
        "processes",
    }
    assert {*places} == expected
    assert {ratio.file for ratio in report.RATIOS} == expected - {"ratios", "data-size"}
    rows = [
        {"pixels": pixels, "program": name, "images per second": measure.summary([speed])}
        for pixels in ("32 / 16", "224 / 96")
        for name, speed in (("lightly, 2 workers", 1.0), ("kornia on batches", 4.0), ("stochcon", 50.0))
    ]
    measure.write("views", lambda: rows, tmp_path)
    filled = report.fill(page, tmp_path)
    cells = re.sub(r" +", " ", filled)
    assert "| 32 / 16 | stochcon | 50 (50 to 50) |" in cells
    assert "over kornia's | ≥ 10 | 12.5 |" in cells and "over its forward | ≥ 0.95 | not yet |" in cells
    assert report.fill(filled, tmp_path) == filled
    assert json.loads((tmp_path / "views.json").read_text())["machine"]["cores"] == measure.CORES
