"""Two processes are killed, told to stop, or refused by the disk; resuming is exact."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stochcon import runs

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
TINY = "--data.size=16 --views.global-size=16 --views.local-size=8 --views.local-views=1 --batch-size=8 --epochs=6"
TINY += " --min-steps=1 --backbone.width=4 --head.hidden=16 --head.dim=8 --checkpoint-every=2 --log-every=2 --quiet"
Start = Callable[..., "subprocess.Popen[str]"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (64, 20, 20, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(root / f"{i}.jpg")
    (root / "0.jpg").write_bytes(b"")
    return root


@pytest.fixture
def start() -> Iterator[Start]:
    """Start commands in process groups of their own, all of which are ended after the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*command: str | Path, **options: Any) -> subprocess.Popen[str]:
        options |= {"text": True, "stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL}
        started.append(subprocess.Popen(command, start_new_session=True, **options))
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def pretrain(pictures: Path, run: Path) -> list[str]:
    """Return the arguments of python that pretrain on the pictures."""
    return ["-m", "stochcon", "pretrain", "folder", f"--data.root={pictures}", *TINY.split(), f"--out={run}"]


def said(process: subprocess.Popen[str]) -> str:
    """Wait until a command has ended, and return what it has said on standard error."""
    return process.communicate(timeout=240)[1]


def ranks(torchrun: subprocess.Popen[str]) -> list[int]:
    """Return the processes that torchrun has started, by rank."""
    children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
    rank: dict[int, int] = {}
    for child in children:
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        rank |= {int(e[5:]): int(child) for e in environment if e.startswith(b"RANK=")}
    return [rank[i] for i in sorted(rank)]


def wait_for_checkpoint(run: Path, process: subprocess.Popen[str], after: int = 0) -> None:
    while process.poll() is None and step(run) <= after:
        time.sleep(0.01)
    assert process.poll() is None


def step(run: Path) -> int:
    """Return the step of the last checkpoint, which must be whole."""
    path = run / runs.CHECKPOINT
    return int(runs.read_tensors(path)[1]["step"]) if path.exists() else 0


def digest(run: Path) -> str:
    return sha256((run / runs.MODEL).read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def uninterrupted(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the digest of the network that two processes learn from images held in memory."""
    run = tmp_path_factory.mktemp("runs") / "run"
    subprocess.run([*TORCHRUN, *pretrain(pictures, run)], check=True)
    return digest(run)


def test_a_run_that_everything_befalls_ends_with_the_same_bits(
    pictures: Path, uninterrupted: str, start: Start, tmp_path: Path
) -> None:
    """Its images are decoded on demand. A process is killed, a write fails, it is told to stop; then it is resumed."""
    run = tmp_path / "run"
    resume = [*TORCHRUN, "-m", "stochcon", "pretrain", "--resume", run, "--quiet"]

    job = start(*TORCHRUN, *pretrain(pictures, run), "--data.memory=0")
    wait_for_checkpoint(run, job)
    os.kill(ranks(job)[1], signal.SIGKILL)
    assert f"stochcon pretrain --resume {run} goes on from the last checkpoint" in (message := said(job))
    # Either of two may reach process 0 first: the broken connection, or torchrun, which tells it to stop.
    assert "process 0 has lost another process of this run" in message or "interrupted" in message, message
    assert job.returncode != 0
    killed = step(run)
    assert killed > 0

    checkpoint = run / runs.CHECKPOINT
    before = checkpoint.read_bytes()
    limit = len(before) // 2  # the system refuses the second half of the next checkpoint
    job = start(*resume, preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit)))
    assert f"{checkpoint} is left as it was" in said(job)
    assert job.returncode != 0 and checkpoint.read_bytes() == before
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]

    job = start(*resume)
    wait_for_checkpoint(run, job, after=killed)
    os.kill(job.pid, signal.SIGTERM)  # torchrun hands it on
    assert f"interrupted; stochcon pretrain --resume {run} goes on" in said(job)
    assert job.returncode != 0 and not (run / runs.MODEL).exists()
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]

    job = start(*resume)
    said(job)
    assert job.returncode == 0
    assert digest(run) == uninterrupted
    assert (run / runs.SKIPPED).read_text() == "0.jpg\tan empty file\n"


def test_torchrun_restarts_a_run_from_its_last_checkpoint(
    pictures: Path, uninterrupted: str, start: Start, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = start(*TORCHRUN, "--max-restarts=1", *pretrain(pictures, run))
    wait_for_checkpoint(run, job)
    os.kill(ranks(job)[0], signal.SIGKILL)
    said(job)
    assert job.returncode == 0 and digest(run) == uninterrupted


def test_slurm_starts_the_same_command(pictures: Path, uninterrupted: str, start: Start, tmp_path: Path) -> None:
    """Each of two tasks has the environment that srun makes."""
    run = tmp_path / "run"
    slurm = {"JOB_ID": str(os.getpid()), "JOB_NAME": "stochcon", "NODELIST": "localhost"}
    slurm |= {"NNODES": "1", "NODEID": "0", "NTASKS": "2", "NTASKS_PER_NODE": "2"}
    tasks = []
    for i in "01":
        variables = {f"SLURM_{name}": value for name, value in (slurm | {"PROCID": i, "LOCALID": i}).items()}
        tasks.append(start(sys.executable, *pretrain(pictures, run), env=os.environ | variables))
    for task in tasks:
        message = said(task)
        assert task.returncode == 0, message
    assert digest(run) == uninterrupted
