"""What TensorBoard, wandb and trackio have of a training is what log.jsonl has; wandb and trackio if installed."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stochcon.method.model import StochCon
from stochcon.train.pretrain import pretrain
from tests.shared import error
from tests.train.test_pretrain import log, tiny

EXPECTED = {"epoch", "loss", "lr", "rank", "knn.h", "knn.bits", "dead"}


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Read back what TensorBoard would show."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_has_the_log_also_of_a_run_that_was_interrupted(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, model: StochCon) -> None:
        if done == 7:
            raise Stop

    config = tiny(checkpoint_every=4)  # the line of step 6 comes again
    with pytest.raises(Stop):
        pretrain(config, tmp_path / "run", progress=False, observe=stop, logger="tensorboard")
    run = pretrain(config, tmp_path / "run", progress=False, resume=True, logger="tensorboard")
    shown = scalars(run)
    assert shown.keys() > EXPECTED
    for name in EXPECTED:
        steps, values = zip(*shown[name], strict=True)
        assert [*steps] == [line["step"] for line in log(run) if name in line], name
        assert [*values] == pytest.approx([line[name] for line in log(run) if name in line]), name


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_package_that_is_missing_is_named_before_anything_is_made(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    monkeypatch.delitem(sys.modules, name, raising=False)
    said = error(capsys, "pretrain", "digits", "--logger", name, "--out", tmp_path / "run")
    assert said == f"--logger {name} needs a package that is not there: pip install 'stochcon[{name}]'"
    assert not (tmp_path / "run").exists()


def trained(folder: Path, logger: str) -> Path:
    """Train in a process of its own, since both packages start threads and processes."""
    pytest.importorskip(logger)
    (folder / "tiny.json").write_text(tiny().model_dump_json())
    options = [f"--config={folder / 'tiny.json'}", f"--out={folder / 'run'}", f"--logger={logger}", "--quiet"]
    environment = os.environ | {"TRACKIO_DIR": str(folder / "trackio")}
    subprocess.run([sys.executable, "-m", "stochcon", "pretrain", *options], check=True, env=environment)
    return folder / "run"


@pytest.mark.slow
def test_wandb_writes_into_the_run_and_uploads_nothing(tmp_path: Path) -> None:
    run = trained(tmp_path, "wandb")
    (offline,) = run.glob("wandb/offline-run-*/run-*.wandb")
    records = offline.read_bytes()
    assert all(name.encode() in records for name in EXPECTED)


@pytest.mark.slow
def test_trackio_has_the_log(tmp_path: Path) -> None:
    run = trained(tmp_path, "trackio")
    (database,) = (tmp_path / "trackio").glob("stochcon*.db")
    with sqlite3.connect(database) as connection:
        rows: list[tuple[int, Any]] = connection.execute("select step, metrics from metrics order by step").fetchall()
    assert [step for step, _ in rows] == [line["step"] for line in log(run)]
    for (_, metrics), line in zip(rows, log(run), strict=True):
        assert {name: json.loads(metrics)[name] for name in EXPECTED} == {name: line[name] for name in EXPECTED}
