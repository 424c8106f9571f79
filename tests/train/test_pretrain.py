"""Pretraining end to end: the run directory, interruption and resuming, and what cannot work."""

from __future__ import annotations

import json
import os
import pickle
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from stochcon import atomic, runs
from stochcon.config import Config
from stochcon.data.sets import load_data
from stochcon.evaluation.features import extract
from stochcon.method.model import StochCon
from stochcon.recipebook import recipe
from stochcon.train.loop import Schedule, build_optimizer
from stochcon.train.pretrain import pretrain

TINY: dict[str, Any] = {
    "data.limit": 64,
    "batch_size": 16,
    "epochs": 3,
    "backbone.width": 4,
    "head": {"hidden": 16, "dim": 8},
    "views.local_views": 2,
    "rebit.steps": 0,
    "checkpoint_every": 2,
    "log_every": 2,
}


def tiny(**changes: Any) -> Config:
    return recipe("digits", **TINY | changes)


def train(out: Path, config: Config, **options: Any) -> Path:
    return pretrain(config, out, progress=False, **options)


def digest(run: Path) -> str:
    return sha256((run / runs.MODEL).read_bytes()).hexdigest()


def log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / runs.LOG).read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "tiny", tiny())


def test_a_run_directory_is_as_promised(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {"config.json", "log.jsonl", "model.safetensors", "checkpoint", "training.png"}
    lines = log(finished)
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    assert {"loss", "lr", "relaxation", "images_per_second", "active", "epoch"} < set(lines[0])
    assert lines[0]["relaxation"] > lines[-1]["relaxation"] == pytest.approx(0.1)
    assert runs.read_config(finished) == tiny()


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(finished: Path, tmp_path: Path) -> None:
    torch.rand(3)  # whatever the state of the global generator
    assert digest(train(tmp_path / "again", tiny())) == digest(finished)
    assert digest(train(tmp_path / "other", tiny(seed=1))) != digest(finished)


def test_a_partial_checkpoint_of_a_killed_process_does_not_stay(tmp_path: Path) -> None:
    partial = tmp_path / "run" / "checkpoint" / "last.safetensors.0a1b2c3d.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"half")
    train(tmp_path / "run", tiny(epochs=1))
    assert [path.name for path in partial.parent.iterdir()] == ["last.safetensors"]


@pytest.mark.parametrize("stop", [3, 6])  # in mid-epoch and not at its end (4 steps an epoch)
def test_resumes_from_any_checkpoint(finished: Path, tmp_path: Path, stop: int) -> None:
    class Stop(Exception):
        pass

    def observe(done: int, model: StochCon) -> None:
        if done == stop + 1:
            raise Stop

    config = tiny(log_every=1)
    with pytest.raises(Stop):
        train(tmp_path / "run", config, observe=observe)
    assert int(runs.read_tensors(tmp_path / "run" / runs.CHECKPOINT)[1]["step"]) == stop // 2 * 2
    assert not (tmp_path / "run" / runs.MODEL).exists()
    assert digest(train(tmp_path / "run", config, resume=True)) == digest(finished)
    assert [line["step"] for line in log(tmp_path / "run")] == [*range(1, 13)]  # those after the checkpoint once


def test_every_epoch_shows_every_image_once_in_a_new_order() -> None:
    schedule = Schedule(images=10, batch_size=3, epochs=2, seed=0, log_every=1, checkpoint_every=1)
    steps = [indices.tolist() for indices in schedule.order()]
    epochs = [[*chain(*steps[:3])], [*chain(*steps[3:])]]
    assert all(len(set(epoch)) == 9 for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert [indices.tolist() for indices in schedule.order(start=4)] == steps[4:]


def test_biases_and_norms_are_excluded_from_decay_and_adaptation() -> None:
    config = tiny()
    model = StochCon(config)
    lars = config.optimizer.model_copy(update={"name": "lars", "weight_decay": 0.1})
    optimizer = build_optimizer(model, lars)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    norms = (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d))
    of_norms = {id(p) for norm in norms for p in norm.parameters()}
    for name, parameter in model.named_parameters():
        excluded = id(parameter) in of_norms or name.endswith("bias")
        assert decay[id(parameter)] == (0.0 if excluded else 0.1), name
    # without decay, timm's LARS is plain momentum SGD: the step is lr * gradient
    bias = model.backbone.get_parameter("stem.1.bias")
    before = bias.detach().clone()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    torch.testing.assert_close(before - bias.detach(), torch.full_like(before, lars.lr))


def test_own_variance_collapses_and_cross_variance_does_not(tmp_path: Path) -> None:
    """Section 4.2, relative to the spread of the means, in a short run that begins as PyTorch initialises.

    From means that are far apart from the start, `initial_spread`, the cross variance stays small beside them.
    """
    relative = {}
    for variance in ("own", "cross"):
        latent = {"kind": "gaussian", "dim": 8, "variance": variance, "placement": "bottom", "logit_scale": 0}
        latent["initial_spread"] = 0
        optimizer = {"lr": 5e-3, "weight_decay": 0, "warmup": 0}
        config = tiny(latent=latent, optimizer=optimizer, batch_size=64, epochs=180, **{"views.local_views": 0})
        model, _ = runs.load_model(train(tmp_path / variance, config))
        features = extract(model, load_data(config.data, "train").pixels, config.views)
        assert features.z is not None
        relative[variance] = (features.uncertainty.square().mean() / features.z.var(0).mean()).item()
    assert relative["own"] < 0.2
    assert relative["cross"] > 1


@pytest.mark.parametrize("changes", [{"latent.kind": "deterministic"}, {"precision": "bf16-mixed"}], ids=str)
def test_simclr_and_half_precision_train(changes: dict[str, Any], tmp_path: Path) -> None:
    lines = log(train(tmp_path / "run", tiny(**changes)))
    assert lines[-1]["loss"] < 1.5 * lines[0]["loss"]
    assert ("active" in lines[0]) == (changes.get("latent.kind") is None)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"chunk": 5}, "chunk is 5; it must divide the 16 images a step of each process"),
        ({"latent.kind": "gauss"}, "latent.kind: there is no 'gauss'; there are deterministic, bernoulli"),
        ({"data": {"name": "folder", "root": "/nowhere"}}, "/nowhere is not a folder"),
    ],
)
def test_what_cannot_work_is_refused_before_a_directory_is_made(
    changes: dict[str, Any], line: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=line):
        train(tmp_path / "run", tiny(**changes))
    assert not (tmp_path / "run").exists()


def test_a_directory_that_holds_a_run_is_left_alone(finished: Path) -> None:
    before = {path.name: path.read_bytes() for path in finished.iterdir() if path.is_file()}
    with pytest.raises(ValueError, match="holds a run already: go on with --resume"):
        train(finished, tiny())
    assert before == {path.name: path.read_bytes() for path in finished.iterdir() if path.is_file()}


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "harm"),)

    runs.create(tmp_path / "run", tiny())
    atomic.write(tmp_path / "run" / runs.CHECKPOINT, pickle.dumps(Harmful()))
    with pytest.raises(ValueError, match="is not a whole safetensors file, which is all that is read: "):
        train(tmp_path / "run", tiny(), resume=True)
    assert not (tmp_path / "harm").exists()


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    config = tiny(optimizer={"lr": 1e30, "warmup": 0}, checkpoint_every=1)
    with pytest.raises(FloatingPointError) as error:
        train(tmp_path, config)
    step = int(runs.read_tensors(tmp_path / runs.CHECKPOINT)[1]["step"]) + 1
    assert str(error.value).startswith(f"the loss is not finite at step {step}: try a lower --optimizer.lr")
    assert step > 1
    assert not (tmp_path / runs.MODEL).exists()


def test_a_checkpoint_of_other_images_or_another_model_is_refused(finished: Path, tmp_path: Path) -> None:
    checkpoint = (finished / runs.CHECKPOINT).read_bytes()
    for name, changes, line in (
        ("images", {"data.limit": 63}, "was made with other training images"),
        ("model", {"latent.dim": 12}, "is of another model"),
    ):
        runs.create(tmp_path / name, tiny(**changes))
        atomic.write(tmp_path / name / runs.CHECKPOINT, checkpoint)
        with pytest.raises(ValueError, match=line):
            train(tmp_path / name, tiny(**changes), resume=True)
