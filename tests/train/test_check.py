"""The verdict on trainings that are made to fail, on one that is sound, and on logs of any state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stochcon import runs
from stochcon.cli import main
from stochcon.config import Config
from stochcon.recipebook import recipe
from stochcon.train.check import LINES, check, judge, nothing_learned
from stochcon.train.pretrain import pretrain
from tests.shared import error

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {
    "backbone.width": 4,
    "head": {"hidden": 64, "dim": 32},
    "batch_size": 64,
    "epochs": 4,
    "log_every": 4,
    "rebit.steps": 0,
}
WHOLE_IMAGES = {"global_scale": (1, 1), "ratio": (1, 1), "jitter": 0, "blur": (0, 0, 0)}
FAILING: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "no augmentation": ({"views": WHOLE_IMAGES}, "too easy", "pixels alone", "--views.global-scale 0.4 1"),
    "decorrelation without scale": (
        {"latent.logit_scale": 0, "latent.decorrelation": 1, "latent.initial_spread": 0},
        "collapsed",
        "the loss is at log(2N - 1) = 4.84",
        "--latent.logit-scale 4 and a --latent.decorrelation of at most 0.05",
    ),
    "learning rate": ({"optimizer.lr": 1}, "collapsed", "the loss is at", "lower --optimizer.lr than 1"),
    "too short": ({"epochs": 3}, "improving", "still brought the loss from", "--epochs 6"),
    "one epoch": ({"epochs": 1}, "unclear", "4 lines", "Train longer"),
}


def train(out: Path, **changes: Any) -> Path:
    return pretrain(recipe("digits", **SMALL | changes), out, progress=False)


@pytest.mark.parametrize("name", FAILING)
def test_a_training_that_is_made_to_fail(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes, state, finding, remedy = FAILING[name]
    verdict = check(train(tmp_path / "run", **changes))
    assert verdict.state == state, verdict.text
    assert finding in verdict.text and remedy in verdict.text
    assert main(["check", str(tmp_path / "run")]) == 1
    assert capsys.readouterr().out == f"{verdict.text}\n"


@pytest.mark.slow
def test_a_healthy_training_whole_and_interrupted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(tmp_path / "run", epochs=14)
    assert check(run).state == "healthy", check(run).text
    assert main(["check", str(run)]) == 0
    assert capsys.readouterr().out.startswith("The training is healthy: after 14 of 14 epochs the loss is 3.")
    lines = (run / runs.LOG).read_text().splitlines(keepends=True)
    (run / runs.LOG).write_text("".join(lines[:20]) + lines[20][:30])  # as a kill leaves it
    assert check(run).state == "healthy" and "after 5 of 14 epochs" in check(run).text


def test_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError):
        train(tmp_path / "run", **{"optimizer.lr": 1e30, "optimizer.warmup": 0})
    verdict = check(tmp_path / "run")
    assert verdict.state == "diverged" and verdict.text.startswith("The loss is not finite at step 2. Try a lower")
    sound = recipe("digits", **SMALL | {"optimizer.lr": 1e-3})
    runs.write_config(tmp_path / "run", sound)
    run = pretrain(sound, tmp_path / "run", progress=False, resume=True)
    assert [line["step"] for line in runs.read_log(run / runs.LOG)] == [*range(4, 65, 4)], "and the line is gone"


@pytest.mark.parametrize("run", sorted((ROOT / "results").glob("*/*/log.jsonl")), ids=lambda path: path.parent.name)
def test_logs_of_earlier_versions_are_read(run: Path) -> None:
    verdict = check(run.parent)
    assert verdict.state == "healthy" and verdict.text.endswith("The log has nothing else to judge by.")


def test_a_run_without_a_log_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is not a run" in error(capsys, "check", tmp_path)
    runs.create(tmp_path / "run", Config())
    assert "has no log.jsonl" in error(capsys, "check", tmp_path / "run")
    (tmp_path / "run" / runs.LOG).touch()
    assert check(tmp_path / "run").state == "unclear"


CONFIG = recipe("digits")
CHANCE = nothing_learned(CONFIG)
SOUND = {"loss": 0.5 * CHANCE, "rank": 40.0, "bits": 16.0, "dead": 1.0, "doubled": 0.0, "retrieval.pixels": 20.0}


def log(*lines: dict[str, Any]) -> list[dict[str, Any]]:
    """Ten lines of which the last are given; one in two has been looked at."""
    given = [*[{}] * (10 - len(lines)), *lines]
    made = [{"step": 10 * i, "epoch": 6.0 * i} | SOUND | line for i, line in enumerate(given, 1)]
    return [line if line["step"] % 20 == 0 else {k: line[k] for k in ("step", "epoch", "loss")} for line in made]


@pytest.mark.parametrize(
    ("field", "value", "state", "since"),
    [
        ("loss", 1.1 * CHANCE, "diverged", 70),
        ("loss", CHANCE, "collapsed", 70),
        ("rank", 1.2, "collapsed", 80),
        ("dead", 3.0, "collapsed", 80),
        ("doubled", 16.0, "collapsed", 80),
        ("retrieval.pixels", 99.0, "too easy", None),
    ],
)
def test_what_the_last_lines_show_and_since_when(field: str, value: float, state: str, since: int | None) -> None:
    bad = {field: value}
    verdict = judge(log(bad, bad, bad, bad), CONFIG)
    assert verdict.state == state
    assert since is None or verdict.text.startswith(f"Since step {since} ")
    assert judge(log(bad, bad, {}, {}), CONFIG).state == "healthy", "it has recovered"
    assert judge(log({}, bad), CONFIG).state == "healthy", "once is not enough"
    assert judge(log(bad, bad, bad, bad)[: LINES - 1], CONFIG).state == "unclear"


def test_the_terms_of_extensions_are_no_part_of_the_judgement() -> None:
    high = {"loss": 2 * CHANCE, "extensions": 1.5 * CHANCE}
    assert judge(log(*[high] * 10), CONFIG).state == "healthy"


def test_the_warm_up_is_not_judged() -> None:
    config = recipe("digits", **{"optimizer.warmup": 60})
    assert judge(log({"loss": CHANCE}, {"loss": CHANCE}), config).state == "unclear"
