"""What version 0.1 computed and wrote is computed and read still."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stochcon import runs
from stochcon.train.pretrain import pretrain
from tests.golden import losses

HERE = Path(__file__).parent
RECORDED: dict[str, list[float]] = json.loads((HERE / "losses.json").read_text())
OLD = HERE / "version-0.1"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.mark.slow
@pytest.mark.parametrize("torchrun", [[], TORCHRUN], ids=["one process", "two processes"])
def test_twenty_losses_of_every_kind_of_training_are_those_of_version_0_1(torchrun: list[str], tmp_path: Path) -> None:
    out = tmp_path / "losses.json"
    subprocess.run(
        [sys.executable, *torchrun, str(HERE / "losses.py"), str(out)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "GOLDEN_FOLDER": str(tmp_path)},
        check=True,
        capture_output=True,
    )
    made = json.loads(out.read_text())
    assert made.keys() == {case for case in losses.CASES if case.startswith("two ") == bool(torchrun)}
    for case, values in made.items():
        assert values == pytest.approx(RECORDED[case], abs=1e-9), case


@pytest.mark.parametrize("name", ["bernoulli", "gaussian", "whole"])
def test_a_run_of_version_0_1_is_read(name: str) -> None:
    model, config = runs.load_model(OLD / name)
    assert config.recipe == "digits" and model.latent.dim == config.latent.dim


def test_an_interrupted_run_of_version_0_1_goes_on_to_what_it_would_have_been(tmp_path: Path) -> None:
    """But for rounding: sums are added in another order, and ten steps of Adam enlarge that."""
    run = shutil.copytree(OLD / "interrupted", tmp_path / "run")
    pretrain(runs.read_config(run), run, resume=True, progress=False)
    made, whole = (
        [json.loads(line)["loss"] for line in (each / runs.LOG).read_text().splitlines()]
        for each in (run, OLD / "whole")
    )
    assert len(made) == 3
    assert made == pytest.approx(whole, rel=1e-4)


def test_a_configuration_that_asks_for_what_is_gone_is_refused(tmp_path: Path) -> None:
    config = json.loads((OLD / "whole" / runs.CONFIG).read_text()) | {"chunk_batch_norm": "exact"}
    (tmp_path / runs.CONFIG).write_text(json.dumps(config))
    with pytest.raises(ValueError, match="chunk_batch_norm: the exact mode is gone"):
        runs.read_config(tmp_path)
