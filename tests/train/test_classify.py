"""Appendix A.3 and A.2 on tiny data: every mode, what moves and what does not, interruption, two processes."""

import json
import resource
import signal
import subprocess
import sys
import time
from functools import partial, reduce
from operator import or_
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from stochcon import runs as rundir
from stochcon.cli import main
from stochcon.config import Backbone, Config, Latent, Views
from stochcon.data.sets import load_labelled
from stochcon.method.model import StochCon
from stochcon.parallel import all_gather_object, launched_rank, rank, synchronise_batch_norm, world_size
from stochcon.recipebook import changed, recipe
from stochcon.train import classifier
from stochcon.train.classifier import Classifier, DroppedBernoulli, Mode
from stochcon.train.classify import Trial, accuracy, augmentation, classify, fit, learning_rate
from stochcon.train.loop import launch
from stochcon.train.pretrain import pretrain
from stochcon.views import eval_view, global_view

Runs = dict[str, Path]
LATENTS: dict[str, dict[str, Any]] = {
    "bernoulli": {"hard": False, "logit_scale": 8},
    "gaussian": {"kind": "gaussian"},
    "simclr": {"kind": "deterministic"},
}
SCORES = {
    ("bernoulli", "finetune"): {"top1", "h", "mean", "bits"},
    ("bernoulli", "finetune-h"): {"top1"},
    ("bernoulli", "frozen"): {"top1", "h", "mean", "bits"},
    ("bernoulli", "supervised"): {"top1"},
    ("bernoulli", "supervised-bernoulli"): {"top1", "mean", "bits"},
    ("gaussian", "frozen"): {"top1", "h"},
    ("simclr", "finetune"): {"top1"},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pretrain each latent for 4 steps on 100 digits."""
    folder = tmp_path_factory.mktemp("runs")
    tiny = {"batch_size": 25, "epochs": 1, "checkpoint_every": 2, "log_every": 2, "data.limit": 100}
    net = {
        "backbone.width": 4,
        "latent.dim": 8,
        "head.hidden": 16,
        "head.dim": 8,
        "views.local_views": 1,
        "rebit.steps": 0,
    }
    for name, latent in LATENTS.items():
        pretrain(recipe("digits", **tiny, **net, latent=latent), folder / name, progress=False)
    return {name: folder / name for name in LATENTS}


def start(run: Path, mode: Mode) -> Classifier:
    torch.manual_seed(0)
    return classifier.start(rundir.read_config(run), run, mode, 10)


def digits(run: Path) -> tuple[Config, Tensor, Tensor]:
    """Return the configuration of a run, its images and their labels."""
    config = rundir.read_config(run)
    images, labels = load_labelled(config.data, "train")
    return config, images.pixels, labels


def trained(run: Path, folder: Path, mode: Mode, **changes: Any) -> tuple[dict[str, Tensor], Classifier]:
    """Return the tensors before 5 steps of training, or as the changes say, and the classifier after them."""
    network, (config, pixels, labels) = start(run, mode), digits(run)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    settings = {"labels": 1.0, "epochs": 5, "lr": 3e-4, "weight_decay": 0.0, "batch_size": 100, "seed": 0}
    trial = Trial.model_validate({"mode": mode, "crop": (0.08, 1.0)} | settings | changes)
    fit(launch(), network, pixels, labels, config, trial, folder)
    return before, network


@pytest.mark.parametrize(("latent", "mode"), SCORES)
def test_every_mode_runs_from_the_command_line(latent: str, mode: Mode, runs: Runs, tmp_path: Path) -> None:
    command = ["classify", str(runs[latent]), f"--mode={mode}", "--labels=0.5", "--epochs", "1", "2"]
    assert main([*command, f"--out={tmp_path}", "--quiet", "--seed=3", "--lr", "3e-4", "3e-3"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"classify", f"classify-{mode}-0.5.json"}
    result = json.loads((tmp_path / f"classify-{mode}-0.5.json").read_text())
    assert (result["mode"], result["labels"], result["images"]) == (mode, 0.5, 50)
    assert (result["epochs"], result["seed"], result["label_list"]) == ([1, 2], 3, None)
    tried = [(t["epochs"], t["lr"], t["head_lr"], t["weight_decay"]) for t in result["validation"]]
    assert tried == [(1, 3e-4, 1, 0), (1, 3e-3, 1, 0), (2, 3e-4, 1, 0), (2, 3e-3, 1, 0)]
    best = max(range(4), key=lambda i: result["validation"][i]["top1"])
    assert tuple(result[f"chosen{what}"] for what in ("", "_lr", "_head_lr", "_weight_decay")) == tried[best]
    assert {*result["test"]} == SCORES[latent, mode]
    assert {*result["validation"][0]} == SCORES[latent, mode] | {"epochs", "lr", "head_lr", "weight_decay"}


@pytest.mark.parametrize("mode", ["frozen", "finetune"])
@pytest.mark.parametrize("latent", LATENTS)
def test_what_training_changes(latent: str, mode: Mode, runs: Runs, tmp_path: Path) -> None:
    before, network = trained(runs[latent], tmp_path, mode)
    pretrained, _ = rundir.read_tensors(runs[latent] / rundir.MODEL)
    kept = {name for name in pretrained if name.startswith(("backbone.", "pi."))}
    assert kept == {name for name in before if not name.startswith("heads.")}
    assert all(torch.equal(before[name], pretrained[name]) for name in kept)
    thresholds = {name for name, _ in network.named_buffers() if name.startswith("pi.")}
    same = {name for name, tensor in network.state_dict().items() if torch.equal(tensor, before[name])}
    assert same == (kept if mode == "frozen" else thresholds)
    # No graph is kept of what cannot move.
    assert network.train().backbone(torch.randn(2, 1, 16, 16)).requires_grad == (mode == "finetune")


def test_supervised_starts_from_nothing_and_learns(runs: Runs, tmp_path: Path) -> None:
    pretrained, _ = rundir.read_tensors(runs["bernoulli"] / rundir.MODEL)
    before, network = trained(runs["bernoulli"], tmp_path, "supervised", epochs=30, batch_size=25)
    assert not torch.equal(before["backbone.stem.0.weight"], pretrained["backbone.stem.0.weight"])
    config, pixels, labels = digits(runs["bernoulli"])
    assert accuracy(network, pixels, labels, config.views, 0)["top1"] > 30


def test_the_head_reads_what_the_latent_gives(runs: Runs) -> None:
    simclr, gaussian, bernoulli = (start(runs[name], "frozen").eval() for name in ("simclr", "gaussian", "bernoulli"))
    h = torch.randn(50, 256)
    assert torch.equal(simclr.z(h), h)
    assert torch.equal(gaussian.z(h), gaussian.pi(h)[:, :8])
    samples = torch.stack([bernoulli.z(h) for _ in range(400)])
    assert ((samples > 0) & (samples < 1)).any()  # relaxed, as the run's latent is
    assert ((samples < 0.01) | (samples > 0.99)).float().mean() > 0.5  # but at a low temperature
    assert ((samples >= 0.5).float().mean(0) - bernoulli.pi(h).sigmoid()).abs().max() < 0.15


def test_nothing_but_its_own_head_learns_from_h_beside_z(runs: Runs) -> None:
    network = start(runs["gaussian"], "finetune").train()
    network(torch.randn(4, 1, 16, 16))["h"].sum().backward()
    learning = {name for name, p in network.named_parameters() if p.grad is not None}
    assert learning == {"heads.h.weight", "heads.h.bias"}


def test_one_head_reads_samples_probabilities_and_bits(runs: Runs) -> None:
    network, images = start(runs["bernoulli"], "frozen").eval(), torch.randn(6, 1, 16, 16)
    scores, phi, head = network(images), network.pi(network.backbone(images)), network.heads["top1"]
    torch.testing.assert_close(scores["mean"], head(phi.sigmoid()))
    torch.testing.assert_close(scores["bits"], head((phi > 0).float()))


def test_h_is_fine_tuned_from_what_the_run_learned(runs: Runs) -> None:
    network, (pretrained, _) = (
        start(runs["gaussian"], "finetune-h"),
        rundir.read_tensors(runs["gaussian"] / rundir.MODEL),
    )
    assert torch.equal(network.backbone.state_dict()["stem.0.weight"], pretrained["backbone.stem.0.weight"])
    h = torch.randn(3, 256)
    assert torch.equal(network.z(h), h)


def test_the_head_alone_is_faster(runs: Runs, tmp_path: Path) -> None:
    """Adam's first step moves every parameter by its learning rate."""
    moved = {}
    for factor in (1.0, 10.0):
        before, network = trained(runs["simclr"], tmp_path / str(factor), "finetune", epochs=1, head_lr=factor)
        steps = {name: (p - before[name]).abs().max().item() for name, p in network.named_parameters()}
        moved[factor] = steps["heads.top1.weight"], steps["backbone.stem.0.weight"]
    assert moved[10.0][0] == pytest.approx(10 * moved[1.0][0], rel=1e-3)
    assert moved[10.0][1] == pytest.approx(moved[1.0][1], rel=1e-3)


def test_half_of_the_images_skip_the_bernoulli_layer_in_training_only(runs: Runs) -> None:
    network, h = start(runs["simclr"], "supervised-bernoulli"), torch.randn(2000, 256)
    skipped = (network.train().z(h) == h).all(1)
    assert 0.45 < skipped.float().mean() < 0.55
    assert not (network.eval().z(h) == h).all(1).any()
    network.train()(torch.randn(8, 1, 16, 16))["top1"].sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_the_learning_rate_falls_at_80_per_cent() -> None:
    for steps in (1, 5, 7, 100):
        rates = [learning_rate(step, steps) for step in range(steps)]
        assert rates == [3e-4 if step < 0.8 * steps else 3e-4 * 0.1 for step in range(steps)]


@pytest.mark.parametrize("lr", [3e-4, 0.01])
def test_the_optimizer_is_adam_at_that_rate(lr: float, runs: Runs, tmp_path: Path) -> None:
    """Five steps of a frozen head on whole images are those of torch's own Adam."""
    before, network = trained(runs["simclr"], tmp_path, "frozen", crop=(1, 1), lr=lr)
    config, pixels, labels = digits(runs["simclr"])
    h = network.eval().backbone(eval_view(pixels, config.views))
    head = [before[f"heads.top1.{name}"].clone().requires_grad_() for name in ("weight", "bias")]
    adam = torch.optim.Adam(head)
    for rate in [lr] * 4 + [0.1 * lr]:
        adam.param_groups[0]["lr"] = rate
        adam.zero_grad()
        F.cross_entropy(F.linear(h, *head), labels).backward()
        adam.step()
    for name, expected in zip(("weight", "bias"), head, strict=True):
        torch.testing.assert_close(network.get_parameter(f"heads.top1.{name}"), expected, rtol=0, atol=0.01 * lr)


def test_only_the_flip_and_the_crop_are_random() -> None:
    images = torch.randint(256, (40, 3, 32, 32), dtype=torch.uint8)
    constant = images[:1, :, :1, :1].expand(40, 3, 32, 32).contiguous()  # no crop and no flip is to be seen
    view = global_view(constant, augmentation(Views(), (0.08, 1.0)))
    assert (view - view[:1]).abs().max() < 1e-4
    views = augmentation(Views(ratio=(1, 1)), (1, 1))
    whole, view = eval_view(images, views), global_view(images, views)
    same = (view - whole).abs().amax((1, 2, 3)) < 1e-4
    flipped = (view.flip(-1) - whole).abs().amax((1, 2, 3)) < 1e-4
    assert (same ^ flipped).all() and 8 < flipped.sum() < 32
    assert augmentation(recipe("digits").views, (0.5, 1.0)).flip == 0


def write_images(folder: Path, n: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, pixels in enumerate(np.random.default_rng(0).integers(256, size=(n, 32, 32, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"{i}.png")


def test_the_test_images_are_read_once_all_training_is_done(tmp_path: Path) -> None:
    root, run = tmp_path / "images", tmp_path / "run"
    for split in ("train/c", "train/d", "validation/c", "validation/d", "test/c", "test/d"):
        write_images(root / split, 6)
    for path in root.glob("test/*/*"):
        path.write_bytes(b"poison")
    rundir.create(run, recipe("folder", batch_size=12, **{"data.root": root, "backbone.width": 4}))
    with pytest.raises(ValueError, match=f"12 of 12 test images of {root} cannot be read"):
        classify(run, "supervised", epochs=[1, 2], progress=False)
    trials = [path / rundir.MODEL for path in (run / "classify").iterdir()]
    assert len(trials) == 2  # both lengths were trained, and validated, without a look at a test image
    written = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in trials}
    write_images(root / "test/c", 6)
    write_images(root / "test/d", 6)
    assert classify(run, "supervised", epochs=[1, 2], progress=False)["images"] == 12
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in trials} == written


def test_validation_images_are_held_out_even_of_a_run_that_used_them(runs: Runs, tmp_path: Path) -> None:
    everything = {"data.holdout": False, "data.limit": None}
    rundir.create(tmp_path / "run", changed(rundir.read_config(runs["simclr"]), everything))
    result = classify(tmp_path / "run", "supervised", epochs=[1], labels=0.1, progress=False)
    assert (result["images"], result["label_list"]) == (108, "digits-0.1.txt")


def models(out: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in out.glob(f"classify/*/{rundir.MODEL}")}


def test_the_seed_alone_decides_and_other_settings_are_another_trial(runs: Runs, tmp_path: Path) -> None:
    finetune = partial(classify, runs["bernoulli"], "finetune", epochs=[1], progress=False)
    a, b = tmp_path / "a", tmp_path / "b"
    state = torch.manual_seed(5).get_state()
    first = finetune(out=a)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's generator stays as it is
    torch.manual_seed(6)
    assert finetune(out=b) == first
    finetune(out=b, seed=1)
    finetune(out=b, crop=(0.5, 1.0))
    assert len(models(b)) == 3
    assert models(a).items() < models(b).items()


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "stop", "status"), [("finetune", "KILL", -9), ("frozen", "INT", 130)])
def test_stopped_and_started_again_it_ends_with_the_same_bits(
    mode: Mode, stop: str, status: int, runs: Runs, tmp_path: Path
) -> None:
    """It is stopped in the second of two lengths, which have 4 steps an epoch."""
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    command = ["classify", str(runs["bernoulli"]), f"--mode={mode}", "--epochs", "1", "30", "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-m", "stochcon", *command, f"--out={stopped}"], stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not [*stopped.glob(f"classify/*-30-*/{rundir.CHECKPOINT}")]:
        time.sleep(0.002)
    process.send_signal(signal.Signals[f"SIG{stop}"])
    said = process.communicate()[1]
    assert process.returncode == status and said.count("\n") == (stop == "INT")
    assert stop == "KILL" or "the same command again goes on from the last checkpoint" in said
    (checkpoint,) = stopped.glob(f"classify/*-30-*/{rundir.CHECKPOINT}")
    assert 0 < int(rundir.read_tensors(checkpoint)[1]["step"]) < 120
    (finished,) = stopped.glob(f"classify/*-1-*/{rundir.MODEL}")
    written = finished.stat().st_mtime_ns

    assert main([*command, f"--out={stopped}"]) == main([*command, f"--out={whole}"]) == 0
    assert finished.stat().st_mtime_ns == written  # the first length is not run again
    assert models(stopped) == models(whole) and not checkpoint.exists()
    result = f"classify-{mode}-1.0.json"
    assert (stopped / result).read_bytes() == (whole / result).read_bytes()
    log = (checkpoint.parent.parent / rundir.LOG).read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [*range(2, 121, 2)]


CASES: dict[str, tuple[Any, Latent]] = {
    "simclr": (Classifier, Latent(kind="deterministic")),
    "bernoulli": (Classifier, Latent(dim=8, logit_scale=2.0)),
    "gaussian": (Classifier, Latent(kind="gaussian", dim=8)),
    "frozen": (partial(Classifier, frozen=True), Latent(dim=8, hard=False)),
    "supervised-bernoulli": (DroppedBernoulli, Latent(hard=False)),
}


def gradients(name: str) -> dict[str, Tensor]:
    """Return the gradients of this process's share of one step in float64, and the statistics."""
    torch.manual_seed(0)
    kind, latent = CASES[name]
    network = kind(StochCon(Config(backbone=Backbone(width=4), latent=latent)), classes=3).double().train()
    network.training = False  # no image skips the latent; the parts are still in training
    images, truth = torch.randn(6, 3, 16, 16).double(), torch.arange(6) % 3
    share = 6 // world_size()
    mine = slice(share * rank(), share * (rank() + 1))
    synced = DistributedDataParallel(synchronise_batch_norm(network)) if world_size() > 1 else network
    torch.manual_seed(1)
    torch.rand(mine.start, network.latent.dim, dtype=torch.float64)  # the noise of the images before
    torch.stack([F.cross_entropy(x, truth[mine]) for x in synced(images[mine]).values()]).sum().backward()
    found = {f"gradient of {key}": p.grad for key, p in network.trained.named_parameters()}
    assert found
    return {f"{name}: {key}": x for key, x in (found | dict(network.named_buffers())).items()}


WHOLE = ["--mode=finetune", "--epochs=2", "--crop", "1", "1", "--batch-size=20", "--quiet"]
"""Options with which nothing is random but the order."""


def two(run: str, out: str) -> None:
    """Be one of two processes: classify, and then write what `gradients` gives in each."""
    if launched_rank() == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # from here on it cannot write to any file
    assert main(["classify", run, f"--out={out}", *WHOLE]) == 0
    found = reduce(or_, map(gradients, CASES))
    for i, of_process in enumerate(all_gather_object(found)):
        if rank() == 0:
            rundir.write_tensors(Path(out) / f"gradients-{i}", of_process)
    dist.destroy_process_group()


if __name__ == "__main__":
    two(*sys.argv[1:])


@pytest.mark.slow
def test_two_processes_do_what_one_does_and_the_first_writes_it(runs: Runs, tmp_path: Path) -> None:
    run, one, both = (tmp_path / name for name in ("run", "one", "both"))
    rundir.create(run, changed(rundir.read_config(runs["simclr"]), {"precision": "64-true"}))
    (run / rundir.MODEL).write_bytes((runs["simclr"] / rundir.MODEL).read_bytes())
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    two = subprocess.run([*torchrun, __file__, run, both], capture_output=True, text=True, timeout=300)
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("on test images") == 1
    assert main(["classify", str(run), f"--out={one}", *WHOLE]) == 0
    name = "classify-finetune-1.0.json"
    assert (both / name).read_bytes() == (one / name).read_bytes()
    (mine,), (theirs,) = (out.glob(f"classify/*/{rundir.MODEL}") for out in (one, both))
    assert mine.relative_to(one) == theirs.relative_to(both)
    model, of_one = rundir.read_tensors(mine)[0], reduce(or_, map(gradients, CASES))
    assert model["backbone.stem.0.weight"].dtype == torch.float64
    for path in (both / "gradients-0", both / "gradients-1"):
        torch.testing.assert_close(rundir.read_tensors(path)[0], of_one, rtol=1e-9, atol=1e-9)
    # Where a gradient is nearly zero, Adam's step multiplies its rounding, some 1e-14, by lr / eps = 3e4, each step.
    torch.testing.assert_close(rundir.read_tensors(theirs)[0], model, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"labels": 0.05}, "labels is 0.05, .* of the 10 training images of class 0: use at least 0.1"),
        ({"labels": 2}, "labels is 2; it must be a share above 0 and at most 1"),
        ({"epochs": [0]}, "epochs: 0 is not right: .* greater than or equal to 1"),
        ({"lr": [3e-4, 0.0]}, "lr: 0.0 is not right: .* greater than 0"),
        ({"weight_decay": [-1]}, "weight_decay: -1 is not right: .* greater than or equal to 0"),
        ({"weight_decay": []}, "epochs, lr, head_lr and weight_decay: each must have one or more numbers to try"),
        ({"crop": (0, 1)}, "crop.0: 0 is not right: .* greater than 0"),
        ({"batch_size": 1}, "batch_size is 1; batch norm needs at least 2 images on each process"),
    ],
)
def test_bad_settings(settings: Any, line: str, runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{line}$"):
        classify(runs["bernoulli"], "frozen", out=tmp_path / "out", progress=False, **settings)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_classified(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="digits is not a run"):
        classify("digits", "frozen")
    rundir.create(tmp_path / "begun", recipe("digits"))
    with pytest.raises(ValueError, match=f"{rundir.MODEL} is missing"):
        classify(tmp_path / "begun", "finetune")
    write_images(tmp_path / "pictures", 40)
    rundir.create(tmp_path / "run", recipe("folder", **{"data.root": tmp_path / "pictures"}))
    with pytest.raises(ValueError, match=f"{tmp_path / 'pictures'} has no class folders"):
        classify(tmp_path / "run", "supervised")


def test_a_loss_that_is_not_finite_stops(runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="the loss is not finite at step 2: try a lower --lr"):
        classify(runs["simclr"], "finetune", lr=[1e30], out=tmp_path, progress=False)
    assert not [*tmp_path.glob("*.json")]
