"""`stochcon paper`: every figure at toy size by the real command, drawn again, and what it refuses."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from PIL import Image

from stochcon.cli import main
from stochcon.experiments import plans
from stochcon.experiments.paper import FIGURES, PAGES, paper
from stochcon.experiments.plans import Plan
from stochcon.recipebook import changed
from tests.experiments.conftest import PAGE
from tests.experiments.toy import TOY, seeds
from tests.shared import error

ROOT = Path(__file__).parents[2]


def test_everything_is_on_the_page(copy: Path) -> None:
    page = Path("docs/replication.md").read_text()
    assert "not run yet" not in page
    assert "old" not in page
    assert "91.67" in page
    for name in FIGURES:
        assert f"(figures/{name}-digits.png)" in page
        with Image.open(f"docs/figures/{name}-digits.png") as picture:
            assert picture.width > 1000


def test_what_is_done_is_skipped(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("runs")  # so that anything that ran would be seen
    assert main(["paper", "all", "--tier", "toy", "--seeds", "1"]) == 0
    assert not Path("runs").exists()
    assert "run" not in capsys.readouterr().out


def test_redraw_needs_no_model_and_gives_the_same_bytes(copy: Path) -> None:
    page, style = Path("docs/replication.md"), dict(mpl.rcParams)
    before = page.read_bytes()
    pictures = {path: path.read_bytes() for path in Path("docs/figures").iterdir()}
    shutil.rmtree("runs")
    shutil.rmtree("docs/figures")
    page.write_text(PAGE)
    assert main(["paper", "all", "--tier", "toy", "--redraw"]) == 0
    assert page.read_bytes() == before
    assert {path: path.read_bytes() for path in Path("docs/figures").iterdir()} == pictures
    assert not Path("runs").exists()
    assert dict(mpl.rcParams) == style


def test_a_figure_of_which_no_seed_is_whole_is_not_drawn(copy: Path) -> None:
    shutil.rmtree("docs/figures")
    for cell in seeds(1).cells(plans.bernoulli(16)):
        cell.path.unlink()
    paper("all", tier="toy", redraw=True)
    drawn = {path.name for path in Path("docs/figures").iterdir()}
    assert drawn == {f"{name}-digits.png" for name in FIGURES} - {"figure4-digits.png"}


@pytest.mark.parametrize(
    ("plan", "named"),
    [
        (replace(TOY, config=changed(TOY.config, {"temperature": 0.5})), "temperature = 0.2, which is now 0.5"),
        (replace(TOY, batch_size=25), "batch_size = 50, which is now 25"),
    ],
    ids=["temperature", "batch size"],
)
def test_a_recipe_that_changed_is_refused_before_anything_runs(
    plan: Plan, named: str, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree("runs")
    monkeypatch.setitem(plans.TIERS, "toy", {"digits": plan})
    for option in ("--seeds=2", "--redraw"):
        assert named in error(capsys, "paper", "all", "--tier", "toy", option)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("what", "options", "message"),
    [
        ("figure9", {}, "figure9"),
        ("table1", {"tier": "huge"}, "there are cpu, gpu, paper"),
        ("table1", {"data": "mnist"}, "it has photographs, fashion-mnist"),
        ("table1", {"seeds": 0}, "at least 1"),
        ("table1", {"jobs": 0}, "at least 1"),
        ("all", {"redraw": True}, "no results of this tier below results/paper"),
    ],
)
def test_bad_input_is_refused(what: str, options: dict[str, Any], message: str, empty: Path) -> None:
    with pytest.raises(ValueError, match=message):
        paper(what, **options)
    assert [*empty.iterdir()] == []


def test_a_block_that_is_not_known_is_refused(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("docs/replication.md").write_text("<!-- paper: figure7 digits -->\n<!-- /paper -->\n")
    assert "figure7" in error(capsys, "paper", "all", "--tier", "toy", "--redraw")


@pytest.mark.parametrize(("tier", "minutes"), [("cpu", True), ("paper", False)])
def test_a_dry_run_says_what_would_run(
    tier: str, minutes: bool, empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["paper", "all", "--tier", tier, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "table1" in said
    assert ("minutes" in said) == minutes
    assert [*empty.iterdir()] == []


def test_the_pages_are_what_the_committed_results_give(empty: Path) -> None:
    (empty / "docs").mkdir()
    for page in PAGES:
        shutil.copy(ROOT / page, empty / page)
    shutil.copytree(ROOT / "results/paper", empty / "results/paper")
    paper("all", redraw=True)
    for page in PAGES:
        assert (empty / page).read_text() == (ROOT / page).read_text()
