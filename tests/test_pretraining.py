"""Pretraining end to end: the run directory, interruption and resumption, and every bad input, by the command line."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from hashlib import sha256
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stochcon import atomic, runs
from stochcon.cli import main
from stochcon.config import Backbone, Config, Latent
from stochcon.data import sets as data
from stochcon.evaluation.features import extract
from stochcon.method.model import StochCon
from stochcon.views import make_views
from stochcon.recipebook import RECIPES, recipe
from stochcon.train.loop import batches, build_optimizer
from stochcon.train.pretrain import loss

TINY = [
    "digits",
    "--data.limit=64",
    "--batch-size=16",
    "--epochs=3",
    "--backbone.width=4",
    "--head.hidden=16",
    "--head.dim=8",
    "--checkpoint-every=2",
    "--log-every=2",
    "--views.local-views=2",
    "--quiet",
]
STEPS = 12


def digest(run: Path) -> str:
    return sha256((run / runs.MODEL).read_bytes()).hexdigest()


def tiny(out: Path, *options: str) -> int:
    return main(["pretrain", *TINY, f"--out={out}", *options])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "tiny"
    assert tiny(run) == 0
    return run


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error of a command that must exit with 2."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("stochcon: error: ")
    assert captured.err.count("\n") == 1
    return captured.err.removeprefix("stochcon: error: ").rstrip("\n")


def test_a_run_directory_is_as_promised(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {"config.json", "log.jsonl", "model.safetensors", "checkpoint"}
    lines = [json.loads(line) for line in (finished / runs.LOG).read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    assert {"loss", "lr", "relaxation", "images_per_second", "active", "epoch"} < set(lines[0])
    assert lines[0]["relaxation"] > lines[-1]["relaxation"] == pytest.approx(0.1)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(finished: Path, tmp_path: Path) -> None:
    assert tiny(tmp_path / "again") == 0
    assert digest(tmp_path / "again") == digest(finished)
    assert tiny(tmp_path / "other", "--seed=1") == 0
    assert digest(tmp_path / "other") != digest(finished)


def test_killed_in_mid_epoch_and_resumed_ends_with_the_same_bits(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    command = [sys.executable, "-m", "stochcon", "pretrain", *TINY, f"--out={run}"]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())})
    checkpoint = run / runs.CHECKPOINT
    while process.poll() is None and not checkpoint.exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    step = int(runs.read_tensors(checkpoint)[1]["step"])
    assert 0 < step < STEPS
    assert not (run / runs.MODEL).exists()
    assert main(["pretrain", "--resume", str(run), "--quiet"]) == 0
    assert digest(run) == digest(finished)
    steps = [json.loads(line)["step"] for line in (run / runs.LOG).read_text().splitlines()]
    assert steps == [2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize("step", [2, 6])  # in mid-epoch and not at its end (4 steps an epoch)
def test_resumes_from_any_checkpoint(finished: Path, tmp_path: Path, step: int) -> None:
    run = tmp_path / "run"
    assert tiny(run, "--optimizer.lr=0.002") == 0
    resumed = tmp_path / "resumed"
    runs.create(resumed, runs.read_config(run))
    # the state after `step` steps: the same run, stopped by an exception in the writing of a later checkpoint
    code = (
        "import sys; from stochcon import cli; from stochcon.train import loop as training\n"
        f"save, at = training.save_checkpoint, {step}\n"
        "def stop(path, done, *rest):\n"
        "    save(path, done, *rest)\n"
        "    if done == at: sys.exit(7)\n"
        "training.save_checkpoint = stop\n"
        f"cli.main(['pretrain', '--resume', {str(resumed)!r}, '--quiet'])"
    )
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 7
    assert main(["pretrain", "--resume", str(resumed), "--quiet"]) == 0
    assert digest(resumed) == digest(run)


def test_every_epoch_shows_every_image_once_in_a_new_order() -> None:
    steps = [indices.tolist() for indices in batches(images=10, batch_size=3, seed=0, start=0, steps=6)]
    epochs = [[*chain(*steps[:3])], [*chain(*steps[3:])]]
    assert all(len(set(epoch)) == 9 for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert [i.tolist() for i in batches(10, 3, seed=0, start=4, steps=6)] == steps[4:]


def test_biases_and_norms_are_excluded_from_decay_and_adaptation() -> None:
    config = recipe("digits")
    model = StochCon(config)
    lars = config.optimizer.model_copy(update={"name": "lars", "weight_decay": 0.1})
    optimizer = build_optimizer(model, lars)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    norms = {
        id(p)
        for m in model.modules()
        if isinstance(m, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)
        for p in m.parameters()
    }
    for name, parameter in model.named_parameters():
        assert decay[id(parameter)] == (0.0 if id(parameter) in norms or name.endswith("bias") else 0.1), name
    # without decay, timm's LARS is plain momentum SGD: the step is lr * gradient
    before = model.backbone.get_parameter("stem.1.bias").detach().clone()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    after = model.backbone.get_parameter("stem.1.bias").detach()
    torch.testing.assert_close(before - after, torch.full_like(before, lars.lr))


@pytest.mark.parametrize("kind", ["deterministic", "gaussian"])
def test_other_latents_train_and_evaluate(kind: str, tmp_path: Path) -> None:
    run = tmp_path / kind
    assert tiny(run, f"--latent.kind={kind}") == 0
    assert main(["evaluate", str(run), "--split=validation"]) == 0
    metrics = json.loads((run / "metrics-validation.json").read_text())
    assert ("knn.z" in metrics) == (kind == "gaussian")
    assert not {"knn.bits", "linear.bits", "active", "dead"} & set(metrics)
    assert {"knn.h", "linear.h", "knn.pixels", "knn.pixels-itq", "knn.pixels-pca-sign"} < set(metrics)


def test_a_run_is_evaluated_on_its_bits(finished: Path) -> None:
    assert main(["evaluate", str(finished)]) == 0
    metrics = json.loads((finished / runs.METRICS).read_text())
    keys = {
        f"{probe}.{name}" for probe in ("linear", "knn", "map", "p10", "p100-macro") for name in ("h", "bits")
    }
    assert keys | {"bits", "active", "dead", "compression"} < set(metrics)
    assert metrics["bits"] == 16
    assert metrics["compression"] == 16 * 16 * 8 / 16
    assert 0 < metrics["active"] < 100


def test_own_variance_collapses_and_cross_variance_does_not() -> None:
    """Section 4.2, relative to the spread of the means, in a short run."""
    base = recipe("digits")
    images = data.load(base.data.model_copy(update={"limit": 64}), "train").pixels
    relative = {}
    for variance in ("own", "cross"):
        config = base.model_copy(
            update={
                "latent": Latent.model_validate({"kind": "gaussian", "dim": 8, "variance": variance}),
                "views": base.views.model_copy(update={"local_views": 0}),
                "backbone": Backbone(width=4),
            }
        )
        torch.manual_seed(0)
        model = StochCon(config)
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _ in range(180):
            value = loss(model(*make_views(images, config.views), relaxation=1.0), config)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        features = extract(model, images, config.views)
        assert features.z is not None
        relative[variance] = (features.uncertainty.square().mean() / features.z.var(0).mean()).item()
    assert relative["own"] < 0.2
    assert relative["cross"] > 1


def test_python_api_and_module_entry(tmp_path: Path) -> None:
    out = subprocess.run(
        [sys.executable, "-m", "stochcon", "recipes"], capture_output=True, text=True, check=True
    ).stdout
    assert all(name in out for name in RECIPES)


@pytest.mark.parametrize("arguments", [["--help"], ["recipes"], ["pretrain", "digits", "--help"]])
def test_a_reader_that_leaves_hears_no_complaint(arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "stochcon", *arguments], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert done.returncode and done.stderr == ""


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_json(name: str) -> None:
    config = recipe(name)
    assert Config.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["nope"],
            "there is no verb 'nope'; there are pretrain, evaluate, classify, encode, search, export, paper, demo, recipes",
        ),
        (
            ["pretrain"],
            "pretrain needs a recipe (photographs, digits, fashion-mnist, cifar10, folder) or --resume DIR",
        ),
        (
            ["pretrain", "nope"],
            "there is no recipe 'nope'; there are photographs, digits, fashion-mnist, cifar10, folder",
        ),
        (["pretrain", "digits", "--epochz=3"], "Unrecognized options: --epochz=3"),
        (
            ["pretrain", "digits", "--latent.kind=gauss"],
            "invalid choice 'gauss' for argument '--latent.kind'. Expected one of ('deterministic', 'bernoulli', 'gaussian').",
        ),
        (["pretrain", "digits", "--views.flip=3"], "views.flip: input should be less than or equal to 1"),
        (
            ["pretrain", "digits", "--batch-size=1"],
            "batch_size: 1 is not right: input should be greater than or equal to 2",
        ),
        (
            ["pretrain", "digits", "--views.local-views=4", "--views.local-size=40"],
            "views.local_size is 40, larger than the image; at most data.size = 16",
        ),
        (["pretrain", "digits", "--latent.dim=70000"], "latent.dim is 70000; at most 65536 bits make sense"),
        (
            ["pretrain", "digits", "--batch-size=5000"],
            "batch_size is 5000, but there are only 1077 training images: use at most that",
        ),
        (
            ["pretrain", "folder", "--data.root=/nowhere"],
            "data.root: /nowhere is not a folder; it must be a folder of images",
        ),
    ],
)
def test_bad_options_get_one_line(
    arguments: list[str],
    line: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused(arguments, capsys) == line
    assert list(tmp_path.iterdir()) == []


def test_resume_refuses_what_it_cannot_go_on_with(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(["pretrain", "--resume", str(finished), "--epochs=9"], capsys)
    assert line == f"cannot resume with epochs = 9: {finished} was started with epochs = 3"
    line = refused(["pretrain", "digits", "--out", str(finished)], capsys)
    assert line == f"{finished} holds a run already: go on with --resume {finished}, or choose another --out"
    line = refused(["pretrain", "--resume", str(tmp_path / "nothing")], capsys)
    assert line == f"{tmp_path / 'nothing'} is not a run: it has no config.json"
    line = refused(["evaluate", str(tmp_path)], capsys)
    assert line == f"{tmp_path} is not a run: it has no config.json"


def test_a_pickle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "harm"),)

    run = tmp_path / "run"
    runs.create(run, recipe("digits"))
    path = run / runs.CHECKPOINT
    atomic.write(path, pickle.dumps(Harmful()))
    line = refused(["pretrain", "--resume", str(run), "--quiet"], capsys)
    assert line.startswith(f"{path} is not a whole safetensors file, which is all that is read: ")
    assert not (tmp_path / "harm").exists()


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    options = ["--optimizer.lr=1e30", "--optimizer.warmup=0", "--checkpoint-every=1"]
    line = refused(["pretrain", *TINY, f"--out={run}", *options], capsys)
    step = int(runs.read_tensors(run / runs.CHECKPOINT)[1]["step"]) + 1
    assert line == (
        f"the loss is not finite at step {step}: try a lower --optimizer.lr or a longer --optimizer.warmup; "
        "the last checkpoint is kept"
    )
    assert step > 1
    assert not (run / runs.MODEL).exists()


def test_a_full_disk_leaves_the_last_checkpoint(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    runs.create(run, runs.read_config(finished))
    path = run / runs.CHECKPOINT
    old = path.with_name("last.safetensors.partial")
    old.parent.mkdir()
    old.symlink_to("/dev/full")  # every write to the next checkpoint finds no space
    line = refused(["pretrain", "--resume", str(run), "--quiet"], capsys)
    assert line == f"[Errno 28] No space left on device; {path} is left as it was: '{old}'"
    assert not old.is_symlink()
    assert main(["pretrain", "--resume", str(run), "--quiet"]) == 0  # with space again
    assert digest(run) == digest(finished)


def test_torchrun_starts_the_same_command(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "stochcon",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "pretrain", *TINY, f"--out={run}"], env=environment, check=True)
    steps = [json.loads(line)["step"] for line in (run / runs.LOG).read_text().splitlines()]
    assert steps == [2, 4, 6, 8, 10, 12]
    assert main(["evaluate", str(run), "--split=validation"]) == 0


@pytest.mark.parametrize(
    "options", [["--precision=bf16-mixed"], ["--optimizer.name=lars", "--optimizer.lr=0.1"]]
)
def test_other_precisions_and_optimizers_train(options: list[str], tmp_path: Path) -> None:
    assert tiny(tmp_path / "run", *options) == 0
    log = [json.loads(line) for line in (tmp_path / "run" / runs.LOG).read_text().splitlines()]
    assert log[-1]["loss"] < 1.5 * log[0]["loss"]


def test_unreadable_images_are_skipped_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    images = tmp_path / "images"
    for name in "abcdefghijklmnopqrstuvwxyz0123":
        folder = images / ("one" if name < "m" else "two")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    whole = (images / "one" / "a.png").read_bytes()
    (images / "one" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (images / "one" / "empty.jpg").write_bytes(b"")
    (images / "two" / "text.jpg").write_text("not an image")
    small = [option for option in TINY[1:] if "limit" not in option and "batch" not in option]
    options = [*small, f"--data.root={images}", "--data.max-bad=0.2", "--batch-size=8", "--data.size=16"]
    views = ["--views.global-size=16", "--views.local-size=8"]
    assert main(["pretrain", "folder", *options, *views, f"--out={tmp_path / 'run'}"]) == 0
    skipped = (tmp_path / "run" / "skipped.txt").read_text()
    assert {line.split("\t")[0] for line in skipped.splitlines()} <= {
        "one/cut.png",
        "one/empty.jpg",
        "two/text.jpg",
    }
    assert skipped
