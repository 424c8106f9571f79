"""Appendix A.3 and A.2 on tiny data: every mode, what moves and what does not, interruption, two processes."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.distributed as dist
import torch.nn.functional as F
from PIL import Image
from shared import error
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import register_optimizer_step_post_hook

from stochcon import runs as rundir
from stochcon.cli import main
from stochcon.config import Backbone, Config, Latent, Views
from stochcon.data import sets as data
from stochcon.method.model import StochCon
from stochcon.parallel import rank, synchronise_batch_norm, world_size
from stochcon.recipebook import recipe
from stochcon.train import loop as training
from stochcon.train.classifier import Classifier, DroppedBernoulli, Mode, start
from stochcon.train.classify import Trial, accuracy, augmentation, classify, fit, learning_rate
from stochcon.views import eval_view, global_view

MODES: tuple[Mode, ...] = get_args(Mode)
LATENTS = {
    "bernoulli": ["--latent.no-hard", "--latent.logit-scale=8"],
    "gaussian": ["--latent.kind=gaussian"],
    "simclr": ["--latent.kind=deterministic"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for name, options in LATENTS.items():
        tiny = ["--data.limit=100", "--batch-size=25", "--epochs=1", "--backbone.width=4", "--latent.dim=8"]
        head = ["--head.hidden=16", "--head.dim=8", "--views.local-views=1", "--quiet"]
        often = ["--checkpoint-every=2", "--log-every=2"]
        out = f"--out={folder / name}"
        assert main(["pretrain", "digits", *tiny, *head, *often, *options, out]) == 0
    return {name: folder / name for name in LATENTS}


def trial(mode: Mode, **changes: Any) -> Trial:
    settings: dict[str, Any] = {
        "epochs": 5,
        "lr": 3e-4,
        "weight_decay": 0.0,
        "batch_size": 100,
        "crop": (0.08, 1.0),
    }
    return Trial(mode=mode, labels=1.0, seed=0, **(settings | changes))


def trained(run: Path, folder: Path, this: Trial) -> tuple[dict[str, Tensor], Classifier]:
    """The tensors before training, and the classifier after it."""
    config = rundir.read_config(run)
    images = data.load(config.data, "train")
    assert images.labels is not None
    classifier = start(config, run, this.mode, 10, seed=0)
    before = {name: t.clone() for name, t in classifier.state_dict().items()}
    fit(training.launch(), classifier, images.pixels, images.labels, config, this, folder)
    return before, classifier


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_runs_from_the_command_line(mode: Mode, runs: dict[str, Path], tmp_path: Path) -> None:
    command = ["classify", str(runs["bernoulli"]), f"--mode={mode}", "--labels=0.5", "--epochs", "1", "2"]
    assert main([*command, f"--out={tmp_path}", "--quiet", "--seed=3", "--lr", "3e-4", "3e-3"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"classify", f"classify-{mode}-0.5.json"}
    result = json.loads((tmp_path / f"classify-{mode}-0.5.json").read_text())
    assert {name: result[name] for name in ("mode", "labels", "images", "epochs", "seed", "label_list")} == {
        "mode": mode,
        "labels": 0.5,
        "images": 50,
        "epochs": [1, 2],
        "seed": 3,
        "label_list": None,
    }
    tried = [(t["epochs"], t["lr"], t["weight_decay"]) for t in result["validation"]]
    assert tried == [(1, 3e-4, 0), (1, 3e-3, 0), (2, 3e-4, 0), (2, 3e-3, 0)]
    best = max(range(4), key=lambda i: result["validation"][i]["top1"])
    assert (result["chosen"], result["chosen_lr"], result["chosen_weight_decay"]) == tried[best]
    names = {
        "finetune": {"top1", "h", "bits"},
        "frozen": {"top1", "h", "bits"},
        "supervised": {"top1"},
        "supervised-bernoulli": {"top1", "bits"},
    }
    assert set(result["test"]) == names[mode]
    assert set(result["validation"][0]) == names[mode] | {"epochs", "lr", "weight_decay"}


def test_what_is_measured_depends_on_the_latent(runs: dict[str, Path], tmp_path: Path) -> None:
    for name, scores in (("gaussian", {"top1", "h"}), ("simclr", {"top1"})):
        result = classify(runs[name], "frozen", epochs=[1], out=tmp_path, progress=False)
        assert set(result["test"]) == scores


@pytest.mark.parametrize("latent", LATENTS)
def test_frozen_leaves_every_tensor_of_the_network_bit_equal(
    latent: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    before, classifier = trained(runs[latent], tmp_path, trial("frozen"))
    pretrained, _ = rundir.read_tensors(runs[latent] / rundir.MODEL)
    kept = set()
    for name, tensor in classifier.state_dict().items():
        if name.startswith("heads."):
            assert not torch.equal(tensor, before[name]), name
        else:
            assert torch.equal(tensor, pretrained[name]), name
            kept.add(name)
    wanted = {name for name in pretrained if name.startswith(("backbone.", "pi."))}
    assert kept == wanted
    assert any(name.endswith("running_mean") for name in kept)
    images = torch.randn(2, 1, 16, 16)
    assert not classifier.train().backbone(images).requires_grad  # no graph is kept of what cannot move


@pytest.mark.parametrize("latent", LATENTS)
def test_finetuning_changes_every_parameter(latent: str, runs: dict[str, Path], tmp_path: Path) -> None:
    before, classifier = trained(runs[latent], tmp_path, trial("finetune"))
    unchanged = {name for name, p in classifier.named_parameters() if torch.equal(p, before[name])}
    assert unchanged == set()
    buffers = {name for name, b in classifier.named_buffers() if torch.equal(b, before[name])}
    assert buffers == {name for name, _ in classifier.named_buffers() if name.startswith("pi.")}


def test_supervised_starts_from_nothing_and_learns(runs: dict[str, Path], tmp_path: Path) -> None:
    pretrained, _ = rundir.read_tensors(runs["bernoulli"] / rundir.MODEL)
    long = trial("supervised", epochs=30, batch_size=25)
    before, classifier = trained(runs["bernoulli"], tmp_path, long)
    assert not torch.equal(before["backbone.stem.0.weight"], pretrained["backbone.stem.0.weight"])
    config = rundir.read_config(runs["bernoulli"])
    images = data.load(config.data, "train")
    assert images.labels is not None
    assert accuracy(classifier, images.pixels, images.labels, config.views, 0)["top1"] > 30


def test_the_head_reads_what_the_latent_gives(runs: dict[str, Path]) -> None:
    heads = {
        name: start(rundir.read_config(run), run, "frozen", 10, seed=0).eval() for name, run in runs.items()
    }
    h = torch.randn(50, 256)
    simclr, gaussian, bernoulli = heads["simclr"], heads["gaussian"], heads["bernoulli"]
    assert torch.equal(simclr.z(h), h)
    assert torch.equal(gaussian.z(h), gaussian.pi(h)[:, :8])
    bits = bernoulli.bits(h)
    assert bits is not None
    assert torch.equal(bits, (bernoulli.pi(h) > 0).float())
    draws = torch.stack([bernoulli.z(h) for _ in range(400)])
    assert ((draws > 0) & (draws < 1)).any()  # relaxed, as the run's latent is
    assert ((draws < 0.01) | (draws > 0.99)).float().mean() > 0.5  # but at a low temperature
    assert ((draws >= 0.5).float().mean(0) - bernoulli.pi(h).sigmoid()).abs().max() < 0.15


def test_nothing_but_its_own_head_learns_from_h_beside_z(runs: dict[str, Path]) -> None:
    classifier = start(rundir.read_config(runs["gaussian"]), runs["gaussian"], "finetune", 10, seed=0)
    classifier.train()(torch.randn(4, 1, 16, 16))["h"].sum().backward()
    learning = {name for name, p in classifier.named_parameters() if p.grad is not None}
    assert learning == {"heads.h.weight", "heads.h.bias"}


def test_half_of_the_images_skip_the_bernoulli_layer_in_training_only() -> None:
    config = recipe("digits")
    network = start(config, None, "supervised-bernoulli", 10, seed=0)
    assert isinstance(network, DroppedBernoulli)
    h = torch.randn(2000, 256)
    skipped = (network.train().z(h) == h).all(1)
    assert 0.45 < skipped.float().mean() < 0.55
    assert not (network.eval().z(h) == h).all(1).any()
    network.train()(torch.randn(8, 1, 16, 16))["top1"].sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_the_learning_rate_falls_at_80_per_cent(runs: dict[str, Path], tmp_path: Path) -> None:
    for steps in (1, 5, 7, 100):
        rates = [learning_rate(step, steps) for step in range(steps)]
        assert rates == [3e-4 if step < 0.8 * steps else 3e-4 * 0.1 for step in range(steps)]
    seen: list[float] = []
    hook = register_optimizer_step_post_hook(
        lambda optimizer, *_: seen.extend(group["lr"] for group in optimizer.param_groups)
    )
    trained(runs["simclr"], tmp_path / "default", trial("frozen"))
    trained(runs["simclr"], tmp_path / "higher", trial("frozen", lr=0.01))
    hook.remove()
    wanted = [3e-4] * 4 + [3e-5] + [0.01] * 4 + [0.001]
    assert seen == pytest.approx([lr for lr in wanted for _ in ("weights", "biases")])


def test_the_optimizer_is_adam(runs: dict[str, Path], tmp_path: Path) -> None:
    """Two steps of a frozen head on whole images, against torch's own."""
    whole = trial("frozen", epochs=2, crop=(1, 1))
    before, classifier = trained(runs["simclr"], tmp_path, whole)
    config = rundir.read_config(runs["simclr"])
    images = data.load(config.data, "train")
    assert images.labels is not None
    h = classifier.eval().backbone(eval_view(images.pixels, config.views))
    head = [before[f"heads.top1.{name}"].clone().requires_grad_() for name in ("weight", "bias")]
    adam = torch.optim.Adam(head)
    for step in range(2):
        adam.param_groups[0]["lr"] = learning_rate(step, 2)
        adam.zero_grad()
        F.cross_entropy(F.linear(h, *head), images.labels).backward()
        adam.step()
    torch.testing.assert_close(classifier.get_parameter("heads.top1.weight"), head[0], rtol=0, atol=2e-5)


def test_only_the_flip_and_the_crop_are_random() -> None:
    views = augmentation(Views(), (0.08, 1.0))
    images = torch.randint(256, (1, 3, 1, 1), dtype=torch.uint8).expand(64, 3, 32, 32).contiguous()
    view = global_view(images, views)
    assert (view - view[:1]).abs().max() < 1e-4  # a constant image has no crop and no flip to see
    assert augmentation(recipe("digits").views, (0.5, 1.0)).flip == 0
    assert augmentation(Views(), (0.5, 1.0)).flip == 0.5


def test_one_global_view_is_an_image_flipped_or_not() -> None:
    views = augmentation(Views(ratio=(1, 1)), (1, 1))
    images = torch.randint(256, (40, 3, 32, 32), dtype=torch.uint8)
    whole, view = eval_view(images, views), global_view(images, views)
    same = (view - whole).abs().amax((1, 2, 3)) < 1e-4
    flipped = (view.flip(-1) - whole).abs().amax((1, 2, 3)) < 1e-4
    assert (same ^ flipped).all()
    assert 8 < flipped.sum() < 32


def write_folder(root: Path, test: bytes | None = None) -> None:
    """12 images of 2 classes in each split; `test`: what the test images contain instead."""
    rng = np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        for i in range(12):
            path = root / split / "cd"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(path)
            if test is not None and split == "test":
                path.write_bytes(test)


def folder_config(root: Path) -> Config:
    config = recipe("folder")
    changes = {
        "data": config.data.model_copy(update={"root": root}),
        "backbone": Backbone(width=4),
        "batch_size": 12,
    }
    return config.model_copy(update=changes)


def test_the_test_images_are_read_once_all_training_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, run = tmp_path / "images", tmp_path / "run"
    write_folder(root, test=b"poison")
    rundir.create(run, folder_config(root))
    command = ["classify", str(run), "--mode=supervised", "--epochs", "1", "2", "--quiet"]
    line = error(capsys, *command)
    assert line.startswith(f"12 of 12 test images of {root} cannot be read")
    trials = [path / rundir.MODEL for path in (run / "classify").iterdir()]
    assert len(trials) == 2  # both lengths were trained, and validated, without a look at a test image
    written = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in trials}

    write_folder(root)
    assert main(command) == 0
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in trials} == written
    assert json.loads((run / "classify-supervised-1.0.json").read_text())["images"] == 12


def test_validation_images_are_held_out_even_of_a_run_that_used_them(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    config = rundir.read_config(runs["simclr"])
    everything = config.data.model_copy(update={"holdout": False, "limit": None})
    rundir.create(tmp_path / "run", config.model_copy(update={"data": everything}))
    result = classify(tmp_path / "run", "supervised", epochs=[1], labels=0.1, progress=False)
    assert result["images"] == 108
    assert result["label_list"] == "digits-0.1.txt"


def test_the_same_seed_gives_the_same_result_and_other_settings_another_trial(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"epochs": [1], "progress": False}
    first = classify(runs["bernoulli"], "finetune", out=tmp_path / "a", **options)
    assert classify(runs["bernoulli"], "finetune", out=tmp_path / "b", **options) == first
    classify(runs["bernoulli"], "finetune", out=tmp_path / "b", seed=1, **options)
    classify(runs["bernoulli"], "finetune", out=tmp_path / "b", crop=(0.5, 1.0), **options)
    names = {path.name for path in (tmp_path / "b" / "classify").iterdir()}
    assert len(names) == 3
    assert {path.name for path in (tmp_path / "a" / "classify").iterdir()} < names


def models(out: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in out.glob(f"classify/*/{rundir.MODEL}")}


def goes_on(command: list[str], stopped: Path, whole: Path) -> None:
    """After a stop in its second length the command must end as if it had never been stopped."""
    (checkpoint,) = stopped.glob("classify/*-30-*/last.safetensors")
    assert 0 < int(rundir.read_tensors(checkpoint)[1]["step"]) < 120
    (finished,) = stopped.glob(f"classify/*-1-*/{rundir.MODEL}")
    written = finished.stat().st_mtime_ns

    assert main([*command, f"--out={stopped}"]) == 0
    assert main([*command, f"--out={whole}"]) == 0
    assert finished.stat().st_mtime_ns == written  # the first length is not run again
    assert models(stopped) == models(whole)
    (name,) = (path.name for path in whole.glob("*.json"))
    assert (stopped / name).read_bytes() == (whole / name).read_bytes()
    log = [json.loads(line) for line in (checkpoint.parent / rundir.LOG).read_text().splitlines()]
    assert [line["step"] for line in log] == [*range(2, 121, 2)]
    assert not checkpoint.exists()


LENGTHS = ["--epochs", "1", "30", "--quiet"]
"""Of 4 steps an epoch."""


def test_killed_and_started_again_ends_with_the_same_bits(runs: dict[str, Path], tmp_path: Path) -> None:
    command = ["classify", str(runs["bernoulli"]), "--mode=finetune", *LENGTHS]
    process = subprocess.Popen([sys.executable, "-m", "stochcon", *command, f"--out={tmp_path / 'killed'}"])
    while process.poll() is None and not [*tmp_path.glob("killed/classify/*-30-*/last.safetensors")]:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    goes_on(command, tmp_path / "killed", tmp_path / "whole")


def test_interrupted_it_says_how_to_go_on(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["classify", str(runs["bernoulli"]), "--mode=frozen", *LENGTHS]
    steps = iter(range(200))
    hook = register_optimizer_step_post_hook(
        lambda *_: signal.raise_signal(signal.SIGINT) if next(steps) == 50 else None
    )
    assert main([*command, f"--out={tmp_path / 'interrupted'}"]) == 130
    hook.remove()
    assert capsys.readouterr().err == (
        "stochcon: interrupted; the same command again goes on from the last checkpoint\n"
    )
    goes_on(command, tmp_path / "interrupted", tmp_path / "whole")


# Two processes, which torchrun starts on this very file, against one on the whole batch.

IMAGES = 6
CASES: dict[str, tuple[Mode, Latent]] = {
    "simclr": ("finetune", Latent(kind="deterministic")),
    "bernoulli": ("finetune", Latent(dim=8, logit_scale=2.0)),
    "gaussian": ("finetune", Latent(kind="gaussian", dim=8)),
    "frozen": ("frozen", Latent(dim=8, hard=False)),
    "supervised": ("supervised", Latent(dim=8)),
    "supervised-bernoulli": ("supervised-bernoulli", Latent(dim=8)),
}


def gradients(mode: Mode, latent: Latent) -> dict[str, Tensor]:
    """Of this process's share of one step in float64, and the statistics; all images pass through the latent."""
    torch.manual_seed(0)
    config = Config(backbone=Backbone(width=4), latent=latent)
    if mode.startswith("supervised"):
        classifier = start(config, None, mode, 3, seed=0)
    else:
        classifier = Classifier(StochCon(config), 3, frozen=mode == "frozen")
    if isinstance(classifier, DroppedBernoulli):
        classifier.skip = 0.0  # which images skip it is drawn anew in each process
    classifier.double().train()
    torch.manual_seed(0)
    images, truth = torch.randn(IMAGES, 3, 16, 16).double(), torch.arange(IMAGES) % 3
    draw = torch.randn(IMAGES, classifier.latent.dim).double()

    mine = training.share(IMAGES)
    network: nn.Module = classifier
    if world_size() > 1:
        network = DistributedDataParallel(synchronise_batch_norm(classifier))
    scores = network(images[mine], draw=draw[mine])
    torch.stack([F.cross_entropy(s, truth[mine]) for s in scores.values()]).sum().backward()
    found = {f"gradient of {name}": p.grad for name, p in classifier.trained.named_parameters()}
    return {name: g for name, g in found.items() if g is not None} | dict(classifier.named_buffers())


def two(run: str, out: str) -> None:
    """What each of the processes does: classify, then the gradients."""
    if os.environ["RANK"] == "1":
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # from here on it cannot write to any file
    assert main([*whole_images(run), f"--out={out}"]) == 0
    results = {name: gradients(*case) for name, case in CASES.items()}
    one = {f"{name}|{key}": x.contiguous() for name, result in results.items() for key, x in result.items()}
    everyone: list[Any] = [None, None]
    dist.all_gather_object(everyone, one)
    if rank() == 0:
        for i in range(2):
            safetensors.torch.save_file(everyone[i], f"{out}/gradients-{i}.safetensors")
    dist.destroy_process_group()


def whole_images(run: str) -> list[str]:
    """A command in which nothing is drawn but the order."""
    return [
        "classify",
        run,
        "--mode=finetune",
        "--epochs=2",
        "--crop",
        "1",
        "1",
        "--batch-size=20",
        "--quiet",
    ]


if __name__ == "__main__":
    two(*sys.argv[1:])


@pytest.fixture(scope="module")
def double_run(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SimCLR run, to be classified in float64."""
    run = tmp_path_factory.mktemp("double") / "run"
    rundir.create(run, rundir.read_config(runs["simclr"]).model_copy(update={"precision": "64-true"}))
    shutil.copy(runs["simclr"] / rundir.MODEL, run)
    return run


@pytest.fixture(scope="module")
def two_processes(double_run: Path) -> Path:
    out = double_run.parent / "two"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run = subprocess.run(
        [*torchrun, __file__, str(double_run), str(out)], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("on test images") == 1
    return out


@pytest.mark.parametrize("name", CASES)
def test_two_processes_have_the_gradients_and_statistics_of_one(name: str, two_processes: Path) -> None:
    one = gradients(*CASES[name])
    assert any(key.startswith("gradient") for key in one)
    for i in range(2):
        found = safetensors.torch.load_file(two_processes / f"gradients-{i}.safetensors")
        mine = {key.removeprefix(f"{name}|"): x for key, x in found.items() if key.startswith(f"{name}|")}
        torch.testing.assert_close(mine, one, rtol=1e-9, atol=1e-9)


def test_two_processes_train_what_one_does_and_the_first_writes_it(
    double_run: Path, two_processes: Path, tmp_path: Path
) -> None:
    assert main([*whole_images(str(double_run)), f"--out={tmp_path}"]) == 0
    name = "classify-finetune-1.0.json"
    assert (two_processes / name).read_bytes() == (tmp_path / name).read_bytes()
    (mine,), (theirs,) = (list(out.glob(f"classify/*/{rundir.MODEL}")) for out in (tmp_path, two_processes))
    assert mine.parent.name == theirs.parent.name
    one, both = safetensors.torch.load_file(mine), safetensors.torch.load_file(theirs)
    assert one["backbone.stem.0.weight"].dtype == torch.float64
    torch.testing.assert_close(both, one, rtol=1e-9, atol=1e-9)


def test_bad_input_gets_one_line_and_writes_nothing(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = str(runs["bernoulli"]), tmp_path / "out"
    command = ["classify", run, f"--out={out}", "--quiet", "--mode=frozen"]
    for options, line in {
        (
            "--labels=0.05",
        ): "labels is 0.05, which leaves none of the 10 training images of class 0: use at least 0.1",
        ("--labels=2",): "labels is 2; it must be a share above 0 and at most 1",
        ("--epochs", "0"): "epochs is [0]; it must be one or more numbers of at least 1",
        ("--lr", "3e-4", "0"): "lr is [0.0003, 0.0]; it must be one or more numbers above 0",
        ("--weight-decay=-1",): "weight_decay is [-1.0]; it must be one or more numbers of at least 0",
        ("--crop", "0", "1"): "crop is [0.0, 1.0]; it must be two shares of the area, 0 < low <= high <= 1",
        ("--batch-size=1",): "batch_size is 1; batch norm needs at least 2 images on each process",
    }.items():
        assert error(capsys, *command, *options) == line
    assert "invalid choice 'thawed'" in error(capsys, *command[:-1], "--mode=thawed")
    assert error(capsys, "classify", "digits", "--mode=frozen") == (
        "digits is not a run: it has no config.json"
    )
    rundir.create(tmp_path / "begun", recipe("digits"))
    assert error(capsys, "classify", str(tmp_path / "begun"), "--mode=finetune", "--quiet") == (
        f"{tmp_path / 'begun' / rundir.MODEL} is missing"
    )
    assert not out.exists()


def test_a_loss_that_is_not_finite_stops(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "classify",
        str(runs["simclr"]),
        "--mode=finetune",
        "--lr=1e30",
        f"--out={tmp_path}",
        "--quiet",
    ]
    assert error(capsys, *command) == "the loss is not finite at step 2: try a lower --lr"
    assert not [*tmp_path.glob("*.json")]


def test_labels_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(40):
        Image.new("RGB", (40, 40), (6 * i, 0, 0)).save(folder / f"{i}.png")
    config = recipe("folder")
    config = config.model_copy(update={"data": config.data.model_copy(update={"root": folder})})
    rundir.create(tmp_path / "run", config)
    assert error(capsys, "classify", str(tmp_path / "run"), "--mode=supervised") == (
        f"{folder} has no class folders, so there is nothing to classify: put images into root/class/"
    )
