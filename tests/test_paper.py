"""Every figure at toy size by the real command: run, stopped, resumed, drawn again; and the verdicts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stochcon import atomic, runs
from stochcon.cli import main
from stochcon.config import Backbone, Config, Head
from stochcon.experiments import claims, figure3, figure4, figure5, report, table1, tiers
from stochcon.experiments.grid import Cell, read, run, run_grid, values
from stochcon.experiments.intervals import Interval
from stochcon.experiments.measure import ActiveBits
from stochcon.experiments.plan import Plan, with_pretraining
from stochcon.experiments.tiers import CPU, PAPER, SIMCLR, bernoulli, gaussian
from stochcon.method.model import StochCon
from stochcon.recipebook import recipe
from stochcon.train.pretrain import pretrain

ROOT = Path(__file__).parents[1]
PAGE = "\n".join(
    f"<!-- paper: {name} digits -->\nold\n<!-- /paper -->\n"
    for name in ("claims", "table1", "figure2", "figure3", "figure4", "figure5")
)


def tiny() -> Config:
    base = recipe("digits")
    return base.model_copy(
        update={
            "data": base.data.model_copy(update={"limit": 100}),
            "views": base.views.model_copy(update={"local_views": 1}),
            "backbone": Backbone(width=2),
            "head": Head(hidden=8, dim=4),
            "epochs": 2,
            "batch_size": 50,
        }
    )


TOY = replace(
    CPU,
    name="toy",
    table={"digits": tiny()},
    figures=("digits",),
    images={"digits": 100},
    models={"digits": (bernoulli(), SIMCLR)},
    widths=(4,),
    own=(None,),
    narrow=4,
    lengths={1.0: (1, 2)},
    longer=(1, 2, 3),
    batch_size=50,
    units=(2,),
    few=2,
    forest_images=50,
    looks=2,
)


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tiers.TIERS, "toy", TOY)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which everything has run once."""
    folder = tmp_path_factory.mktemp("paper")
    (folder / "docs").mkdir()
    (folder / "docs" / "replication.md").write_text(PAGE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setitem(tiers.TIERS, "toy", TOY)
        assert main(["paper", "all", "--tier", "toy", "--seeds", "1"]) == 0
    yield folder


@pytest.fixture
def copy(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, to be changed."""
    shutil.copytree(done, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def plan(seeds: int = 1) -> Plan:
    return Plan(TOY, "digits", tuple(range(seeds)))


def all_cells(seeds: int = 1) -> list[Cell]:
    grids = [module.cells(plan(seeds)) for module in report.FIGURES.values()]
    return with_pretraining([cell for grid in grids for cell in grid], plan(seeds))


def test_everything_has_run_once_and_is_on_the_page(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(done)
    cells = all_cells()
    assert all(read(cell) is not None for cell in cells)
    assert {*Path("results").rglob("*.json")} == {cell.path for cell in cells}
    assert len([*Path("runs/paper").iterdir()]) == len({cell.config for cell in cells})
    record = json.loads(cells[-1].path.read_text())
    assert {*record} == {"model", "seed", "settings", "metrics", "seconds", "date", "command", "config"}
    page = Path("docs/replication.md").read_text()
    assert "not run yet" not in page
    assert "old" not in page
    assert "91.67" in page
    for name in report.FIGURES:
        assert f"(figures/{name}-digits.png)" in page
        assert report.picture(name, "digits").read_bytes().startswith(b"\x89PNG")


def test_what_is_done_is_skipped(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("runs")  # so that anything that ran would be seen
    assert main(["paper", "all", "--tier", "toy", "--seeds", "1"]) == 0
    assert not Path("runs").exists()
    assert "run" not in capsys.readouterr().out


def test_redraw_needs_no_model_and_gives_the_same_bytes(copy: Path) -> None:
    page = Path("docs/replication.md")
    before = page.read_bytes()
    shutil.rmtree("runs")
    shutil.rmtree("docs/figures")
    page.write_text(PAGE)
    assert main(["paper", "all", "--tier", "toy", "--redraw"]) == 0
    assert page.read_bytes() == before
    assert not Path("runs").exists()


def test_a_pretraining_that_was_stopped_goes_on_to_the_same_result(copy: Path) -> None:
    (cell, *_) = plan().cells(bernoulli(4))
    whole = read(cell)
    assert whole is not None
    assert [look["step"] for look in whole["active"]] == [1, 2, 4]
    cell.path.unlink()
    shutil.rmtree(cell.directory)
    look = ActiveBits(cell.config, cell.directory)

    def stopped(step: int, model: StochCon) -> None:
        look(step, model)
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(cell.config, cell.directory, progress=False, observe=stopped)
    assert (cell.directory / runs.CHECKPOINT).exists()
    run(cell, "again")
    assert read(cell) == whole


def test_a_model_that_is_gone_is_trained_again_when_it_is_needed(copy: Path) -> None:
    (cell, *_) = plan().probe(SIMCLR, forest=False)
    shutil.rmtree("runs")
    run(cell, "again")
    assert (cell.directory / runs.MODEL).exists()
    assert values([cell], "linear.h").keys() == {0}


def test_two_jobs_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cells = [plan(2).cells(SIMCLR)[0], *plan(2).cells(gaussian(4))]
    run_grid(cells, jobs=2, command="test")
    assert all(read(cell) is not None for cell in cells)
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "run 3 of 3" in "".join(lines)
    assert lines[-1].endswith("minutes left")


def test_a_grid_whose_recipe_changed_is_refused(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = tiny().model_copy(update={"temperature": 0.5})
    monkeypatch.setitem(tiers.TIERS, "toy", replace(TOY, table={"digits": changed}))
    for option in ("--seeds=2", "--redraw"):
        assert main(["paper", "figure2", "--tier", "toy", option]) == 2
        error = capsys.readouterr().err
        assert "temperature = 0.2, which is now 0.5" in error
        assert len(error.splitlines()) == 1
    monkeypatch.setitem(tiers.TIERS, "toy", replace(TOY, batch_size=25))
    assert main(["paper", "table1", "--tier", "toy"]) == 2
    assert "batch_size = 50, which is now 25" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["figure9"], "figure9"),
        (["table1", "--tier", "huge"], "there are cpu, paper"),
        (["table1", "--data", "mnist"], "it has photographs, fashion-mnist"),
        (["table1", "--seeds", "0"], "at least 1"),
        (["table1", "--jobs", "0"], "at least 1"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["paper", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert [*tmp_path.iterdir()] == []


def test_a_block_that_is_not_known_is_refused(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("docs/replication.md").write_text("<!-- paper: figure7 digits -->\n<!-- /paper -->\n")
    assert main(["paper", "all", "--tier", "toy", "--redraw"]) == 2
    assert "figure7" in capsys.readouterr().err


def fake(cell: Cell, **metrics: Any) -> None:
    """A result that was not measured, to test what is made of results."""
    config = cell.config.model_dump(mode="json")
    atomic.write_json(cell.path, {"config": config, "settings": cell.settings, "metrics": metrics})


def test_the_length_is_chosen_on_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    short, long = (plan(2).classify(SIMCLR, "finetune", 1.0, epochs) for epochs in (1, 2))
    fake(short[0], **{"validation.top1": 80, "test.top1": 70})
    fake(long[0], **{"validation.top1": 79, "test.top1": 90})
    fake(short[1], **{"validation.top1": 99, "test.top1": 99})  # the other length has not run
    assert plan(2).best(SIMCLR, "finetune", 1.0) == {0: 70}


@pytest.mark.parametrize(
    ("simclr", "verdict"), [(60.0, "held"), (90.0, "not held"), (81.0, "too small to tell")]
)
def test_verdicts_from_results(
    simclr: float, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for model, top in ((bernoulli(), 81.0), (SIMCLR, simclr)):
        for epochs in TOY.lengths[1.0]:
            for cell in plan(3).classify(model, "finetune", 1.0, epochs):
                seed = cell.config.seed
                wobble = seed * (-1 if model == SIMCLR else 1)
                fake(cell, **{"validation.top1": top, "test.top1": top + wobble})
    row, *_ = [line for line in claims.markdown(plan(3)).splitlines() if "beats SimCLR" in line]
    mean = 81.0 - simclr + 2
    assert f"| {mean:.{2 if abs(mean) < 10 else 1}f} | 3 |" in row
    assert row.endswith(f"| {verdict} |")


def test_one_seed_tells_nothing() -> None:
    assert claims.verdict(Interval(50.0, float("inf"), 1), 0.0) == "too small to tell"
    assert claims.verdict(None, 0.0) == "not run yet"


def test_active_bits_and_variance_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for model in figure4.models(plan(3)).values():
        for cell in plan(3).cells(model):
            looks = [{"step": 1, "epoch": 0.1, "train": 50, "test": 49 + cell.config.seed / 10}]
            fake(cell, active=[*looks, {"step": 4, "epoch": 2.0, "train": 20, "test": 20}])
    for variance, noise in (("own", 1e-4), ("cross", 1.0)):
        for dim in (4, None):
            for cell in plan(3).probe(gaussian(dim, variance), forest=variance == "cross"):
                fake(cell, variance=noise * (1 + 0.1 * cell.config.seed) * (3 if dim else 1), spread=1.0)
    verdicts = {
        (line.split(" | ")[0].removeprefix("| "), line.split(" | ")[1]): line.split(" | ")[-1].removesuffix(
            " |"
        )
        for line in claims.markdown(plan(3)).splitlines()[2:]
    }
    says = {claim: verdict for (claim, _), verdict in verdicts.items()}
    assert says["Active bits start near a half"] == "held"
    assert says["… and fall"] == "held"
    assert says["… but stay at a half in a narrow bottleneck"] == "not held"
    assert says["Own variance collapses"] == "held"
    assert says["The opposing view's variance does not collapse"] == "held"
    assert figure3.relative(plan(3), "own", None)[0] == pytest.approx(1e-4)


def test_the_claims_are_those_of_the_paper() -> None:
    texts = " ".join(claim.paper for claim in claims.claims(Plan(CPU, "photographs", ())))
    for part in (
        "beats SimCLR",
        "beats supervised",
        "competitive",
        "robust",
        "few binary",
        "falls",
        "does not",
    ):
        assert part in texts
    assert table1.PUBLISHED["StochCon Bernoulli"][0] == "96.42 / 91.96"
    assert "77.49" in figure5.PUBLISHED


@pytest.mark.parametrize(("name", "hours"), [("cpu", "minutes"), ("paper", "dollars")])
def test_a_dry_run_says_what_it_would_cost(
    name: str, hours: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = "cifar10" if name == "paper" else "photographs"
    assert main(["paper", "table1", "--tier", name, "--data", data, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert hours in said
    assert "table1" in said
    assert [*tmp_path.iterdir()] == []


def test_the_pages_are_what_the_committed_results_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").mkdir()
    for page in report.PAGES:
        shutil.copy(ROOT / page, tmp_path / page)
    if (ROOT / "results/paper").exists():
        shutil.copytree(ROOT / "results/paper", tmp_path / "results/paper")
    monkeypatch.chdir(tmp_path)
    assert main(["paper", "all", "--redraw"]) == 0
    for page in report.PAGES:
        assert (tmp_path / page).read_text() == (ROOT / page).read_text()


def test_the_papers_tier_has_the_papers_sizes() -> None:
    for data, config in PAPER.table.items():
        assert config.batch_size == 4096
        assert config.optimizer.name == "lars"
        assert config.views.local_views == 8
        model = PAPER.config(data, bernoulli(), seed=0)
        assert model.latent.logit_scale == model.latent.decorrelation == 0
        with torch.device("meta"):
            assert StochCon(model).latent.dim == PAPER.full
