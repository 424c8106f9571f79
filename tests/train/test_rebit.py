"""Bits learned again on the frozen h of a finished run."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import stochcon
from stochcon import runs
from stochcon.cli import main
from stochcon.train.rebit import Stored, _pairs, neighbours, rebit, rebit_config

SHORT = {"rebit.steps": 30, "rebit.batch_size": 64, "rebit.views": 3}


@pytest.fixture(scope="module")
def simclr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = stochcon.recipe("digits", epochs=2, **{"latent.kind": "deterministic", "backbone.width": 4})
    return stochcon.pretrain(config, tmp_path_factory.mktemp("simclr") / "run", progress=False)


def test_a_run_of_simclr_gets_bits_and_keeps_its_network(simclr: Path, tmp_path: Path) -> None:
    run = rebit(simclr, tmp_path / "bits", rebit_config(simclr, **SHORT, **{"latent.dim": 24}), progress=False)
    (model, config), (before, _) = stochcon.load_model(run), stochcon.load_model(simclr)
    assert (config.latent.kind, config.latent.dim, config.rebit.steps) == ("bernoulli", 24, 30)
    for name, tensor in before.backbone.state_dict().items():
        assert torch.equal(tensor, model.backbone.state_dict()[name]), name
    metrics = stochcon.evaluate(run, "validation", progress=False)
    assert metrics["bits"] == 24 and metrics["dead"] == 0
    assert metrics["knn.bits"] > 40, "ten classes"
    path, agreement = stochcon.to_onnx(run, check=50)
    assert path.exists() and agreement is not None and agreement.differing == 0


def test_an_interrupted_rebit_goes_on_to_the_same_bits(
    simclr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = rebit_config(simclr, **SHORT, checkpoint_every=7)
    whole = rebit(simclr, tmp_path / "whole", config, progress=False)

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("stochcon.train.rebit.finish", stop)
        rebit(simclr, tmp_path / "cut", config, progress=False)
    assert not (tmp_path / "cut" / runs.MODEL).exists()
    cut = rebit(simclr, tmp_path / "cut", config, progress=False)
    assert (cut / runs.MODEL).read_bytes() == (whole / runs.MODEL).read_bytes()


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_pretraining_may_end_with_it(kind: str, tmp_path: Path) -> None:
    settings = {"latent.kind": kind, "latent.dim": 12, "latent.contrast": 0.5, "backbone.width": 4} | SHORT
    config = stochcon.recipe("digits", epochs=1, **settings)
    run = stochcon.pretrain(config, tmp_path / "run", progress=False)
    again = rebit(run, tmp_path / "again", config, progress=False)
    ends = [stochcon.load_model(directory)[0].pi.state_dict() for directory in (run, again)]
    torch.testing.assert_close(ends[0], ends[1], msg="the same h, seed and steps give the same bits")


def test_bits_that_are_learned_alone_are_those_that_rebit_gives_to_simclr(simclr: Path, tmp_path: Path) -> None:
    config = rebit_config(simclr, **SHORT, **{"latent.dim": 12, "rebit.alone": True})
    whole = stochcon.pretrain(config, tmp_path / "whole", progress=False)
    later = rebit(simclr, tmp_path / "later", config, progress=False)
    assert (whole / runs.MODEL).read_bytes() == (later / runs.MODEL).read_bytes()


def test_the_verb_starts_from_the_configuration_of_the_run(
    simclr: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    few = [f"--{name}={value}" for name, value in SHORT.items()]
    assert main(["rebit", str(simclr), "--latent.dim=8", "--quiet", f"--out={tmp_path / 'eight'}", *few]) == 0
    assert f"The model is in {tmp_path / 'eight'}" in capsys.readouterr().out
    assert runs.read_config(tmp_path / "eight").latent.dim == 8
    for options, line in [
        ([str(tmp_path / "nothing")], "nothing is not a run"),
        ([str(simclr), "--epochs=9"], "rebit cannot change epochs from 2 to 9"),
        ([str(simclr), "--rebit.steps=0"], "rebit needs rebit.steps"),
        ([str(simclr), "--latent.dim=8", f"--out={tmp_path / 'eight'}", *few], "holds a run already"),
    ]:
        assert main(["rebit", *options]) == 2
        assert line in capsys.readouterr().err


def slow_neighbours(h: Tensor, k: int) -> list[set[int]]:
    centred = h - h.mean(0)
    alike = torch.nn.functional.cosine_similarity(centred[:, None], centred[None], dim=-1).fill_diagonal_(-2)
    return [set(row.topk(k).indices.tolist()) for row in alike]


def test_neighbours_are_those_of_a_loop() -> None:
    h = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    assert [set(row.tolist()) for row in neighbours(h, 5)] == slow_neighbours(h, 5)
    copies = neighbours(torch.cat([h[:1]] * 9 + [h]), 3)
    assert copies.shape == (49, 3) and not (copies == torch.arange(49)[:, None]).any()


def test_a_pair_is_two_views_of_an_image_and_its_positive() -> None:
    views = torch.arange(3 * 10).view(3, 10, 1)  # view k of image i is 10 k + i
    for near in (torch.arange(10)[:, None], (torch.arange(10)[:, None] + torch.tensor([1, 2])) % 10):
        i = torch.arange(10).repeat(20)
        a, b = _pairs(Stored(views, near, ""), i)[..., 0]
        assert (a % 10 == i).all() and (a // 10 != b // 10).all()
        assert all(image in near[k] for image, k in zip((b % 10).tolist(), i.tolist(), strict=True))


def test_identity_has_nothing_to_learn() -> None:
    with pytest.raises(ValueError, match=r"rebit\.steps needs --latent.projection linear"):
        stochcon.recipe("digits", latent={"projection": "identity", "logit_scale": 0}, rebit={"steps": 9})
