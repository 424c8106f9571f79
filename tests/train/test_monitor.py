"""Monitors: each against an oracle, and that a training with them is bit for bit one without."""

from __future__ import annotations

from itertools import combinations
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from stochcon import runs
from stochcon.config import Config
from stochcon.data.images import list_pictures
from stochcon.data.sets import listed
from stochcon.data.training_images import TrainingImages
from stochcon.method.model import StochCon
from stochcon.method.objective import multi_crop_info_nce
from stochcon.train import monitor
from stochcon.train.check import nothing_learned
from stochcon.train.loop import Schedule
from stochcon.train.picture import PICTURE
from stochcon.train.pretrain import pretrain
from tests.train.test_pretrain import digest, tiny
from tests.train.test_pretrain import log as log_of

TIMES = {"seconds", "images_per_second"}


def unlabelled(config: Config) -> TrainingImages:
    pixels = (load_digits().images[:64] * 15).astype(np.uint8)
    return TrainingImages(list_pictures(torch.tensor(pixels)[:, None], config.data.size), config.data)


def schedule(**changes: Any) -> Schedule:
    values = {"images": 1077, "batch_size": 128, "epochs": 60, "seed": 0, "log_every": 10, "checkpoint_every": 100}
    return Schedule(**values | changes)


@pytest.mark.parametrize("spectrum", [[1.0], [3.0, 1.0], [5.0, 4.0, 1.0, 0.0]])
def test_rank_me_is_the_exponential_of_the_entropy_of_the_singular_values(spectrum: list[float]) -> None:
    left, right = (torch.linalg.qr(torch.randn(n, len(spectrum), dtype=torch.float64))[0] for n in (9, 6))
    p = [value / sum(spectrum) for value in spectrum]
    expected = exp(-sum(x * log(x) for x in p if x))
    assert monitor.rank_me(left @ torch.tensor(spectrum, dtype=torch.float64).diag() @ right.T) == pytest.approx(
        expected
    )


def test_knn_is_scikit_learn_s_on_all_other_images() -> None:
    code, labels = torch.nn.functional.normalize(torch.randn(60, 5)), torch.randint(3, (60,))
    right = 0
    for i in range(60):
        others = torch.arange(60) != i
        knn = KNeighborsClassifier(10).fit(code[others].numpy(), labels[others].numpy())
        right += int(knn.predict(code[i : i + 1].numpy())[0] == labels[i])
    assert monitor.knn(code, labels) == pytest.approx(100 * right / 60)


def test_self_retrieval_counts_every_tie_in_part() -> None:
    bits = 2.0 * (torch.rand(2, 30, 4) < 0.5) - 1
    found = 0.0
    for i in range(30):
        distances = [int((bits[1, i] != bits[0, k]).sum()) for k in range(30)]
        found += (distances[i] == min(distances)) / distances.count(min(distances))
    assert monitor.self_retrieval(bits[0], bits[1]) == pytest.approx(100 * found / 30)


def test_faults_are_counted_as_a_loop_over_pairs_counts_them() -> None:
    bits = torch.rand(300, 12) < 0.5
    bits[:, 0], bits[:, 1], bits[:, 2] = True, False, ~bits[:, 3]
    bits[:, 4] = bits[:, 5]
    bits[:2, 4] ^= True  # 99.3 % are the same
    bits[:, 6] = bits[:, 7]
    bits[:4, 6] ^= True  # 98.7 %
    doubled = set()
    for i, j in combinations(range(2, 12), 2):
        same = (bits[:, i] == bits[:, j]).float().mean()
        doubled |= {i, j} if same > 0.99 or same < 0.01 else set()
    assert doubled == {2, 3, 4, 5}
    assert monitor.count_faults(bits) == {"bits": 12, "dead": 2, "doubled": 4}


@pytest.mark.parametrize("steps", [1, 9, 100, 480, 12345])
def test_moments_are_few_and_at_lines_of_the_log(steps: int) -> None:
    some = schedule(images=steps, batch_size=1, epochs=1)
    moments = [done for done in range(1, steps + 1) if some.due(done, monitor.interval(some))]
    assert all(some.due(done, some.log_every) for done in moments)
    assert moments[-1] == steps and len(moments) <= monitor.MOMENTS + 1
    assert len(moments) >= min(steps // some.log_every, 8)


def test_a_longer_training_looks_at_more_images() -> None:
    counts = [len(monitor.load_watched(tiny(), schedule(epochs=epochs)).pixels) for epochs in (1, 30, 6000)]
    assert counts[0] == monitor.FEWEST < counts[1] < counts[2] == 360, "digits have 360 validation images"


def test_too_few_validation_images_give_way_to_training_images(tmp_path: Path) -> None:
    for i in range(100):  # by the hash of their names about ten are for validation
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / f"{i}.png")
    config = tiny(**{"data.name": "folder", "data.root": tmp_path, "data.limit": None})
    held_out, training = (len(listed(config.data, split)[1]) for split in ("validation", "train"))
    assert held_out < training <= monitor.FEWEST
    assert len(monitor.load_watched(config, schedule()).pixels) == training


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian", "deterministic"])
@pytest.mark.parametrize("labels", [True, False], ids=["labels", "none"])
def test_a_look_leaves_everything_as_it_was(kind: str, labels: bool) -> None:
    config = tiny(**{"latent.kind": kind})
    watched = monitor.load_watched(config, schedule(), None if labels else unlabelled(config).sources)
    assert (watched.labels is not None) == labels
    model = StochCon(config).train(labels)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes, generator = [module.training for module in model.modules()], torch.random.get_rng_state()
    seen = monitor.look(model, watched, config)
    assert seen == monitor.look(model, watched, config)
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    score = "knn" if labels else "retrieval"
    fields = {"rank", "retrieval.pixels", f"{score}.h"}
    if kind == "bernoulli":
        fields |= {"bits", "dead", "doubled", "uncertainty", f"{score}.bits"}
    assert seen.keys() == fields


def test_what_is_not_finite_is_not_looked_at() -> None:
    model = StochCon(tiny())
    next(model.parameters()).data.fill_(torch.nan)
    assert monitor.look(model, monitor.load_watched(tiny(), schedule()), tiny()) == {}


@pytest.mark.parametrize("labels", [True, False], ids=["labels", "none"])
def test_a_watched_training_is_bit_for_bit_one_that_is_not(labels: bool, tmp_path: Path) -> None:
    images = None if labels else unlabelled(tiny())
    for watch in (True, False):
        pretrain(tiny(), tmp_path / str(watch), images=images, progress=False, watch=watch)
    assert digest(tmp_path / "True") == digest(tmp_path / "False")
    with_, without = (runs.read_tensors(tmp_path / str(watch) / runs.CHECKPOINT)[0] for watch in (True, False))
    assert with_.keys() == without.keys()
    assert all(torch.equal(value, without[name]) for name, value in with_.items()), "the optimizer's state too"
    assert (tmp_path / "True" / PICTURE).exists() and not (tmp_path / "False" / PICTURE).exists()
    seen, unseen = (log_of(tmp_path / str(watch)) for watch in (True, False))
    for a, b in zip(seen, unseen, strict=True):
        assert {"rank", "chance", f"{'knn' if labels else 'retrieval'}.bits"} < a.keys()
        assert {k: v for k, v in a.items() if k in b.keys() - TIMES} == {k: b[k] for k in b.keys() - TIMES}


def test_a_resumed_training_has_the_same_log(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, model: StochCon) -> None:
        if done == 7:
            raise Stop

    pretrain(tiny(), tmp_path / "whole", progress=False)
    with pytest.raises(Stop):
        pretrain(tiny(), tmp_path / "resumed", progress=False, observe=stop)
    pretrain(tiny(), tmp_path / "resumed", progress=False, resume=True)
    whole, resumed = (
        [{k: v for k, v in line.items() if k not in TIMES} for line in log_of(tmp_path / name)]
        for name in ("whole", "resumed")
    )
    assert whole == resumed


def test_the_log_tells_equation_1_from_the_other_terms(tmp_path: Path) -> None:
    def last(name: str, **changes: Any) -> dict[str, Any]:
        return log_of(pretrain(tiny(epochs=1, **changes), tmp_path / name, progress=False, watch=False))[0]

    off = {"latent.decorrelation": 0.0, "optimizer.lr": 1e-12, "log_every": 1}
    plain, more = last("plain", **off), last("more", **off | {"latent.decorrelation": 2.0})
    assert "extensions" not in plain
    assert more["loss"] - more["extensions"] == pytest.approx(plain["loss"], abs=1e-5)
    assert more["extensions"] > 0.1


def test_the_loss_of_a_network_that_tells_nothing_apart() -> None:
    """Any number of views: of equal embeddings equation 1 is log(2N - 1)."""

    def same(views: int) -> Tensor:
        return torch.ones(views, 16, 8)

    for top, bottom in ((1, 1), (2, 4)):
        loss = multi_crop_info_nce(same(top), same(bottom)).item()
        assert loss == pytest.approx(nothing_learned(Config(batch_size=16)), abs=1e-5)
