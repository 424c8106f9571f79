"""The command line: what it shows, what it refuses, how it ends, and the Python function of each verb."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import stochcon
from stochcon import atomic, runs
from stochcon.cli import main
from stochcon.config import Config, Frozen
from stochcon.pretrain_verb import starting_point
from stochcon.program import computing
from stochcon.recipebook import RECIPES, changed, recipe
from tests.shared import error

VERBS = ["pretrain", "check", "evaluate", "classify", "encode", "search", "export", "paper", "demo", "recipes"]
STOCHCON = [sys.executable, "-m", "stochcon"]
GOLDEN = Path(__file__).parent / "golden" / "version-0.1"
TINY = {
    "data": {"limit": 64},
    "backbone": {"width": 4},
    "head": {"hidden": 16, "dim": 8},
    "rebit": {"steps": 3},
    "batch_size": 16,
    "epochs": 1,
}


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], *([verb] for verb in VERBS), ["pretrain", "folder"]])
def test_help_fits_a_screen(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = help_of(capsys, *arguments, "--help").splitlines()
    assert 5 < sum(max(1, math.ceil(len(line) / 100)) for line in lines) <= 40


def test_the_list_of_verbs_has_each(capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of(capsys)
    assert shown == help_of(capsys, "--help")
    assert all(f"• {verb} " in shown for verb in VERBS)


def dotted(config: Frozen, prefix: str = "") -> Iterator[str]:
    for name in type(config).model_fields:
        value = getattr(config, name)
        yield from dotted(value, f"{prefix}{name}.") if isinstance(value, Frozen) else [prefix + name]


def test_all_help_has_every_field_with_what_the_recipe_says(capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of(capsys, "pretrain", "digits", "--help-all")
    fields = {*dotted(Config())} - {"recipe"}
    assert len(fields) > 50
    assert [field for field in fields if f"--{field.replace('_', '-')}" not in shown] == []
    assert "(default: 60)" in shown and "(default: 60)" not in help_of(capsys, "pretrain", "--help-all")


@pytest.mark.parametrize("arguments", [["--help"], ["pretrain", "digits", "--help"], ["recipes"], ["pretrain"]])
def test_what_needs_no_network_does_not_wait_for_torch(arguments: list[str]) -> None:
    code = f"import sys; from stochcon.cli import main; main({arguments}); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_public_names_are_there() -> None:
    assert {*VERBS} < {*stochcon.__all__} <= {*dir(stochcon)}
    assert all(callable(getattr(stochcon, name)) for name in stochcon.__all__)
    with pytest.raises(AttributeError, match="pretrane"):
        getattr(stochcon, "pretrane")  # noqa: B009


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert help_of(capsys, "--version") == f"stochcon {stochcon.__version__}\n"


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of(capsys, "recipes")
    assert all(f"stochcon pretrain {name}" in shown for name in RECIPES)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            [],
            "pretrain needs a folder of images, or a recipe: "
            "photographs, digits, fashion-mnist, cifar10, folder; or --resume DIR",
        ),
        (["nope"], "there is no recipe 'nope'; there are photographs, digits, fashion-mnist, cifar10, folder"),
        (["digits", "--views.flip=3"], "views.flip: 3.0 is not right: input should be less than or equal to 1"),
        (["digits", "--batch-size=1"], "batch_size: 1 is not right: input should be greater than or equal to 2"),
        (
            ["digits", "--views.local-views=4", "--views.local-size=40"],
            "views.local_size is 40, larger than the image; at most data.size = 16",
        ),
        (
            ["digits", "--batch-size=5000"],
            "batch_size is 5000, but there are only 1077 training images: use at most that",
        ),
        (["--resume=nothing"], "nothing is not a run: it has no config.json"),
        (["digits", "--config=nothing"], "[Errno 2] No such file or directory: 'nothing'"),
    ],
)
def test_what_pretrain_refuses_in_one_line(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert error(capsys, "pretrain", *arguments) == line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["nope"], "there is no command 'nope'; there are pretrain, "),
        (["evalute", "runs/mine"], "there is no command 'evalute'; did you mean evaluate?"),
        (["pretrain", "digits", "--epoch=3"], "--epochs"),
        (["pretrain", "digits", "--latent.dims", "3"], "--latent.dim"),
        (["pretrain", "digits", "--latent.dim", "many"], "--latent.dim"),
        (["pretrain", "--resume"], "--resume"),
        (["search", "codes.parquet", "1", "--pictures=there.png"], "--picture"),
    ],
)
def test_what_cannot_be_read_is_shown_with_what_was_perhaps_meant(
    arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert hint in shown.err and shown.out == ""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the recipe digits, whose other fields a file has changed, and an option has changed again."""
    directory = tmp_path_factory.mktemp("cli")
    (directory / "tiny.json").write_text(json.dumps(TINY))
    options = [f"--config={directory / 'tiny.json'}", "--head.dim=4", f"--out={directory / 'run'}", "--quiet"]
    assert main(["pretrain", "digits", *options]) == 0
    return directory / "run"


def test_options_go_before_the_file_and_the_file_before_the_recipe(run: Path) -> None:
    assert runs.read_config(run) == changed(recipe("digits", **TINY), {"head.dim": 4})


def test_a_run_s_own_file_gives_its_configuration_again(run: Path) -> None:
    assert starting_point(["--config", str(run / runs.CONFIG)], asks=False)[0] == runs.read_config(run)
    old = GOLDEN / "whole"
    assert starting_point(["digits", f"--config={old / runs.CONFIG}"], asks=False)[0] == runs.read_config(old)


def test_files_that_are_not_right_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file.json"
    for content, message in {
        "{": "is not JSON: ",
        "3": "must hold a JSON object",
        '{"epoch": 3}': ": epoch: there is no such field",
        '{"latent": {"dim": 0}}': ": latent.dim: 0 is not right",
        '{"recipe": "folder"}': "is of the recipe folder, not of digits",
    }.items():
        file.write_text(content)
        assert f"{file}{'' if message[0] == ':' else ' '}{message}" in error(
            capsys, "pretrain", "digits", "--config", file
        )


def test_resume_refuses_what_would_be_another_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file.json"
    file.write_text('{"seed": 9}')
    for option, field, old in [
        ("--epochs=9", "epochs = 9", "epochs = 1"),
        (f"--config={file}", "seed = 9", "seed = 0"),
    ]:
        line = error(capsys, "pretrain", "--resume", run, option)
        assert line == f"cannot resume with {field}: {run} was started with {old}"
    assert "recipe = folder" in error(capsys, "pretrain", "folder", "--resume", run)
    assert "leave --out" in error(capsys, "pretrain", "--resume", run, "--out", tmp_path)
    assert f"go on with --resume {run}" in error(capsys, "pretrain", "digits", "--out", run)


@pytest.mark.parametrize("arguments", [["--help"], ["recipes"], ["pretrain", "digits", "--help"]])
def test_a_reader_that_leaves_hears_no_complaint(arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*STOCHCON, *arguments], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 141 and done.stderr == ""


@pytest.mark.parametrize(
    "verb",
    [
        ["evaluate"],
        pytest.param(["evaluate", "--curve"], marks=pytest.mark.slow),
        ["classify", "--mode=frozen", "--epochs=1"],
    ],
)
def test_json_is_all_that_is_on_standard_output(verb: list[str], run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb[0], str(run), *verb[1:], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    if verb == ["evaluate"]:
        assert found == json.loads((run / runs.METRICS).read_text())
    elif "--curve" in verb:
        scores = json.loads((run / "curve.json").read_text())["scores"]["knn"]["bits"]
        assert [row["score"] for row in found if (row["code"], row["measure"]) == ("bits", "knn")] == scores
    else:
        assert found == json.loads((run / "classify-frozen-1.0.json").read_text())


def test_classify_says_what_each_score_is_of(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", str(run), "--mode=frozen", "--epochs=1", "--quiet"]) == 0
    title, _, head, _, *rows, _ = capsys.readouterr().out.splitlines()
    test = json.loads((run / "classify-frozen-1.0.json").read_text())["test"]
    assert title == "frozen, 64 labels, 1 epochs, on test images"
    cells = [[cell.strip() for cell in row.split("│")[1:-1]] for row in (head, *rows)]
    assert [row[0] for row in cells] == ["score", "top1", "mean", "bits", "h"]
    assert [row[2] for row in cells] == ["top-1 (%)", *(f"{test[row[0]]:.1f}" for row in cells[1:])]
    assert max(map(len, rows)) < 80


def test_an_interruption_says_what_is_true_of_what_has_been_written(tmp_path: Path) -> None:
    out = tmp_path / "run"
    for file, said in (
        (None, "^nothing has been written yet; the same command starts again$"),
        (runs.CONFIG, f"^stochcon pretrain --resume {out} starts again, as there is no checkpoint yet$"),
        (runs.CHECKPOINT, f"^stochcon pretrain --resume {out} goes on from the last checkpoint$"),
    ):
        with pytest.raises(KeyboardInterrupt, match=said), computing(partial(runs.how_to_go_on, out)):
            if file:
                atomic.write(out / file, b"")
            raise KeyboardInterrupt


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_told_to_stop_says_how_to_go_on(stop: signal.Signals, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["--config", run / runs.CONFIG, "--epochs=10000", "--checkpoint-every=1", "--out", out, "--quiet"]
    job = subprocess.Popen([*STOCHCON, "pretrain", *map(str, options)], stderr=subprocess.PIPE, text=True)
    while job.poll() is None and not (out / runs.CHECKPOINT).exists():
        time.sleep(0.02)
    job.send_signal(stop)
    told = job.communicate(timeout=60)[1]
    hint = f"interrupted; stochcon pretrain --resume {out} goes on from the last checkpoint"
    assert (job.returncode, told) == (130, f"stochcon: {hint}\n")
