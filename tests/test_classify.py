"""Appendix A.3 and A.2 on tiny data: every mode, what moves and what does not, and when the test images are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from stochcon import data, rundir, training
from stochcon.classify import (
    Classifier,
    DroppedBernoulli,
    Mode,
    augmentation,
    classify,
    fit,
    label_indices,
    learning_rate,
    start,
    top1,
)
from stochcon.cli import main
from stochcon.config import Views
from stochcon.images import Images, Split
from stochcon.recipes import recipe
from stochcon.views import eval_view, global_view

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
        assert main(["pretrain", "digits", *tiny, *head, *options, f"--out={folder / name}"]) == 0
    return {name: folder / name for name in LATENTS}


def trained(
    run: Path, mode: Mode, epochs: int = 5, batch_size: int = 100
) -> tuple[dict[str, Tensor], Classifier]:
    """The tensors before training, and the classifier after it."""
    config = rundir.read_config(run)
    images = data.load(config.data, "train")
    assert images.labels is not None
    classifier = start(config, run, mode, 10, seed=0)
    before = {name: t.clone() for name, t in classifier.state_dict().items()}
    fit(training.launch(), classifier, images.pixels, images.labels, config, epochs, batch_size, seed=0)
    return before, classifier


@pytest.mark.parametrize("mode", get_args(Mode))
def test_every_mode_runs_from_the_command_line(mode: Mode, runs: dict[str, Path], tmp_path: Path) -> None:
    command = ["classify", str(runs["bernoulli"]), f"--mode={mode}", "--labels=0.5", "--epochs", "1", "2"]
    assert main([*command, f"--out={tmp_path}", "--quiet", "--seed=3"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == [f"classify-{mode}-0.5.json"]
    result = json.loads((tmp_path / f"classify-{mode}-0.5.json").read_text())
    assert {name: result[name] for name in ("mode", "labels", "images", "epochs", "seed")} == {
        "mode": mode,
        "labels": 0.5,
        "images": 50,
        "epochs": [1, 2],
        "seed": 3,
    }
    best = max(range(2), key=lambda i: result["validation"][i]["top1"])
    assert result["chosen"] == [1, 2][best]
    names = {"top1"} if mode == "supervised" else {"top1", "bits"}
    assert set(result["test"]) == set(result["validation"][0]) == names


@pytest.mark.parametrize("latent", LATENTS)
def test_frozen_leaves_every_tensor_of_the_network_bit_equal(latent: str, runs: dict[str, Path]) -> None:
    before, classifier = trained(runs[latent], "frozen")
    pretrained, _ = rundir.read_tensors(runs[latent] / rundir.MODEL)
    kept = set()
    for name, tensor in classifier.state_dict().items():
        if name.startswith("head."):
            assert not torch.equal(tensor, before[name]), name
        else:
            assert torch.equal(tensor, pretrained[name]), name
            kept.add(name)
    wanted = {name for name in pretrained if name.startswith(("backbone.", "pi."))}
    assert kept == wanted
    assert any(name.endswith("running_mean") for name in kept)


@pytest.mark.parametrize("latent", LATENTS)
def test_finetuning_changes_every_parameter(latent: str, runs: dict[str, Path]) -> None:
    before, classifier = trained(runs[latent], "finetune")
    unchanged = {name for name, p in classifier.named_parameters() if torch.equal(p, before[name])}
    assert unchanged == set()
    buffers = {name for name, b in classifier.named_buffers() if torch.equal(b, before[name])}
    assert buffers == {name for name, _ in classifier.named_buffers() if name.startswith("pi.")}


def test_supervised_starts_from_nothing_and_learns(runs: dict[str, Path]) -> None:
    pretrained, _ = rundir.read_tensors(runs["bernoulli"] / rundir.MODEL)
    before, classifier = trained(runs["bernoulli"], "supervised", epochs=30, batch_size=25)
    assert not torch.equal(before["backbone.stem.0.weight"], pretrained["backbone.stem.0.weight"])
    config = rundir.read_config(runs["bernoulli"])
    images = data.load(config.data, "train")
    assert images.labels is not None
    assert top1(classifier, images.pixels, images.labels, config.views, 0)["top1"] > 30


def test_the_head_reads_what_the_latent_gives(runs: dict[str, Path]) -> None:
    heads = {name: trained(run, "frozen", epochs=1)[1].eval() for name, run in runs.items()}
    h = torch.randn(50, 256)
    simclr, gaussian, bernoulli = heads["simclr"], heads["gaussian"], heads["bernoulli"]
    assert torch.equal(simclr.z(h), h)
    assert torch.equal(gaussian.z(h), gaussian.pi(h)[:, :8])
    assert torch.equal(bernoulli.z(h, deterministic=True), (bernoulli.pi(h) > 0).float())
    draws = torch.stack([bernoulli.z(h) for _ in range(400)])
    assert ((draws > 0) & (draws < 1)).any()  # relaxed, as the run's latent is
    assert ((draws < 0.01) | (draws > 0.99)).float().mean() > 0.5  # but at a low temperature
    assert ((draws >= 0.5).float().mean(0) - bernoulli.pi(h).sigmoid()).abs().max() < 0.15


def test_half_of_the_images_skip_the_bernoulli_layer_in_training_only() -> None:
    config = recipe("digits")
    network = start(config, None, "supervised-bernoulli", 10, seed=0)
    assert isinstance(network, DroppedBernoulli)
    h = torch.randn(2000, 256)
    skipped = (network.train().z(h) == h).all(1)
    assert 0.45 < skipped.float().mean() < 0.55
    assert not (network.eval().z(h) == h).all(1).any()
    network.train()(torch.randn(8, 1, 16, 16)).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_the_learning_rate_falls_at_80_per_cent(runs: dict[str, Path]) -> None:
    for steps in (1, 5, 7, 100):
        rates = [learning_rate(step, steps) for step in range(steps)]
        assert rates == [3e-4 if step < 0.8 * steps else 3e-4 * 0.1 for step in range(steps)]
    seen: list[float] = []
    hook = register_optimizer_step_post_hook(
        lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"])
    )
    trained(runs["simclr"], "frozen", epochs=5)
    hook.remove()
    assert seen == pytest.approx([3e-4] * 4 + [3e-5])


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


def test_the_test_images_are_read_once_after_all_training(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    load: Callable[..., Images] = data.load

    def recorded(config: Any, split: Split) -> Images:
        events.append(split)
        return load(config, split)

    monkeypatch.setattr(data, "load", recorded)
    hook = register_optimizer_step_post_hook(lambda *_: events.append("step"))
    classify(runs["simclr"], "frozen", epochs=[1, 2], out=tmp_path, progress=False)
    hook.remove()
    assert events == ["train", "validation", *["step"] * 12, "test"]


def test_validation_images_are_held_out_even_of_a_run_that_used_them(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    config = rundir.read_config(runs["simclr"])
    everything = config.data.model_copy(update={"holdout": False, "limit": None})
    rundir.create(tmp_path / "run", config.model_copy(update={"data": everything}))
    result = classify(tmp_path / "run", "supervised", epochs=[1], progress=False)
    assert result["images"] == 1797 - 360 - 360


def test_the_same_seed_gives_the_same_result(runs: dict[str, Path], tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": [2], "progress": False}
    first = classify(runs["bernoulli"], "finetune", out=tmp_path / "a", **options)
    assert classify(runs["bernoulli"], "finetune", out=tmp_path / "b", **options) == first


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 1.0])
def test_label_fractions_are_stratified(fraction: float) -> None:
    labels = torch.arange(3000) % 10 % 7  # classes of 600 and of 300
    chosen = label_indices(labels, fraction, seed=1)
    assert torch.equal(labels[chosen].bincount(), (fraction * labels.bincount()).round().long())
    assert torch.equal(chosen, label_indices(labels, fraction, seed=1))
    assert torch.equal(chosen, chosen.unique())
    assert set(label_indices(labels, 0.01, seed=1).tolist()) <= set(chosen.tolist())
    assert fraction == 1 or not torch.equal(chosen, label_indices(labels, fraction, seed=2))


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    return captured.err.removeprefix("stochcon: error: ").rstrip("\n")


def test_bad_input_gets_one_line_and_writes_nothing(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = str(runs["bernoulli"]), tmp_path / "out"
    command = ["classify", run, f"--out={out}", "--quiet"]
    assert refused([*command, "--mode=frozen", "--labels=0.05"], capsys) == (
        "labels is 0.05, which leaves none of the 10 training images of class 0: use at least 0.1"
    )
    assert refused([*command, "--mode=frozen", "--labels=2"], capsys) == (
        "labels is 2.0; it must be a share above 0 and at most 1"
    )
    assert refused([*command, "--mode=frozen", "--epochs", "0"], capsys) == (
        "epochs is [0]; it must be one or more numbers of at least 1"
    )
    assert "invalid choice 'thawed'" in refused([*command, "--mode=thawed"], capsys)
    assert refused(["classify", "digits", "--mode=frozen"], capsys) == (
        "digits is not a run: it has no config.json"
    )
    rundir.create(tmp_path / "begun", recipe("digits"))
    assert refused(["classify", str(tmp_path / "begun"), "--mode=finetune", "--quiet"], capsys) == (
        f"{tmp_path / 'begun' / rundir.MODEL} is missing"
    )
    assert not out.exists()


def test_labels_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(40):
        Image.new("RGB", (40, 40), (6 * i, 0, 0)).save(folder / f"{i}.png")
    config = recipe("folder")
    config = config.model_copy(update={"data": config.data.model_copy(update={"root": folder})})
    rundir.create(tmp_path / "run", config)
    assert refused(["classify", str(tmp_path / "run"), "--mode=supervised"], capsys) == (
        f"{folder} has no class folders, so there is nothing to classify: put images into root/class/"
    )
