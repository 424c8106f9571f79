"""A grid stops and resumes anywhere, does nothing twice, and refuses results of another recipe."""

import json
import shutil
from pathlib import Path

import pytest

from stochcon import atomic, runs
from stochcon.experiments.grid import count_active, read, run, run_grid
from stochcon.experiments.paper import FIGURES
from stochcon.experiments.plans import SIMCLR, TIERS, Cell, Plan, bernoulli, gaussian
from stochcon.method.model import StochCon
from stochcon.train.pretrain import pretrain
from tests.experiments.toy import seeds

ROOT = Path(__file__).parents[2]


def all_cells(plan: Plan) -> list[Cell]:
    return plan.with_pretraining(cell for module in FIGURES.values() for cell in module.cells(plan))


def test_everything_has_run_once(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(done)
    cells = all_cells(seeds(1))
    assert all(read(cell) is not None for cell in cells)
    assert {*Path("results").rglob("*-seed*.json")} == {cell.path for cell in cells}
    assert len([*Path("runs/paper").iterdir()]) == len({cell.config for cell in cells})
    record = json.loads(cells[-1].path.read_text())
    assert {*record} == {"model", "seed", "settings", "metrics", "seconds", "date", "command", "config"}


def test_a_pretraining_that_was_stopped_goes_on_to_the_same_result(copy: Path) -> None:
    (cell,) = seeds(1).cells(bernoulli(16))
    whole = read(cell)
    assert whole is not None
    assert [look["step"] for look in whole["active"]] == [1, 2, 4]
    cell.path.unlink()
    shutil.rmtree(cell.directory)
    look = count_active(cell.config, cell.directory)

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
    (cell,) = seeds(1).probe(SIMCLR, forest=False)
    shutil.rmtree("runs")
    run(cell, "again")
    assert (cell.directory / runs.MODEL).exists()
    assert "linear.h" in (read(cell) or {})


def test_two_jobs_at_a_time(empty: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cells = [seeds(1).cells(SIMCLR)[0], *seeds(2).cells(gaussian(16))]
    run_grid(cells, jobs=2, command="test")
    assert all(read(cell) is not None for cell in cells)
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "run 3 of 3" in "".join(lines)
    assert lines[-1].endswith("minutes left")


def test_a_result_with_a_field_that_is_not_known_is_refused_by_its_name(copy: Path) -> None:
    (cell,) = seeds(1).cells(SIMCLR)
    record = json.loads(cell.path.read_text())
    record["config"]["colour"] = "blue"
    atomic.write_json(cell.path, record)
    with pytest.raises(ValueError, match=rf"{cell.path}: colour"):
        read(cell)


@pytest.mark.parametrize("data", TIERS["cpu"])
def test_every_committed_result_is_one_that_the_plans_ask_for(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    cells = all_cells(TIERS["cpu"][data].with_seeds(range(5)))
    done = {cell.path for cell in cells if read(cell) is not None}  # which refuses other settings
    assert done == {*Path(f"results/paper/cpu-{data}").rglob("*.json")}
