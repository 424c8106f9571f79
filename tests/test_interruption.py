"""Two processes that are killed, told to stop or run out of disk: the last checkpoint is whole, and resuming is exact."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stochcon import runs

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
TINY = [
    "--data.size=16",
    "--views.global-size=16",
    "--views.local-size=8",
    "--views.local-views=1",
    "--batch-size=8",
    "--epochs=6",
    "--backbone.width=4",
    "--head.hidden=16",
    "--head.dim=8",
    "--checkpoint-every=2",
    "--log-every=2",
    "--quiet",
]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (64, 20, 20, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(root / f"{i}.jpg")
    (root / "0.jpg").write_bytes(b"")
    return root


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a command in its own process group, all of which is ended after the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*command: str | Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*map(str, command)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            text=True,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    """What a command has said on standard error, when it has ended."""
    return process.communicate(timeout=240)[1]


def ranks(torchrun: subprocess.Popen[str]) -> list[int]:
    """The processes that torchrun has started, by rank."""
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
    """Of the last checkpoint, which must be whole."""
    path = run / runs.CHECKPOINT
    return int(runs.read_tensors(path)[1]["step"]) if path.exists() else 0


def digest(run: Path) -> str:
    return sha256((run / runs.MODEL).read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def uninterrupted(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the network that two processes learn from images held in memory."""
    run = tmp_path_factory.mktemp("runs") / "run"
    command = [
        *TORCHRUN,
        "-m",
        "stochcon",
        "pretrain",
        "folder",
        f"--data.root={pictures}",
        *TINY,
        f"--out={run}",
    ]
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
    return digest(run)


def test_a_run_that_everything_befalls_ends_with_the_same_bits(
    pictures: Path, uninterrupted: str, start: Start, tmp_path: Path
) -> None:
    """Decoded on demand, a process killed, the disk full, told to stop; then resumed."""
    run = tmp_path / "run"
    stochcon = [*TORCHRUN, "-m", "stochcon", "pretrain"]

    job = start(*stochcon, "folder", f"--data.root={pictures}", "--data.memory=0", *TINY, f"--out={run}")
    wait_for_checkpoint(run, job)
    os.kill(ranks(job)[1], signal.SIGKILL)
    assert f"stochcon pretrain --resume {run} goes on from the last checkpoint" in (message := said(job))
    # Which of the two reaches process 0 first: the broken connection, or torchrun, telling it to stop.
    assert "process 0 has lost another process of this run" in message or "interrupted" in message, message
    assert job.returncode != 0
    killed = step(run)
    assert killed > 0

    checkpoint = run / runs.CHECKPOINT
    before = checkpoint.read_bytes()
    partial = checkpoint.with_name(checkpoint.name + ".partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to("/dev/full")  # every write to the next checkpoint finds no space
    job = start(*stochcon, "--resume", run, "--quiet")
    assert f"No space left on device; {checkpoint} is left as it was" in said(job)
    assert job.returncode != 0 and checkpoint.read_bytes() == before and not partial.is_symlink()

    job = start(*stochcon, "--resume", run, "--quiet")
    wait_for_checkpoint(run, job, after=killed)
    os.kill(job.pid, signal.SIGTERM)  # torchrun hands it on
    assert f"interrupted; stochcon pretrain --resume {run} goes on" in said(job)
    assert job.returncode != 0 and not (run / runs.MODEL).exists() and not partial.exists()

    job = start(*stochcon, "--resume", run, "--quiet")
    said(job)
    assert job.returncode == 0
    assert digest(run) == uninterrupted
    assert (run / runs.SKIPPED).read_text() == "0.jpg\tan empty file\n"


def test_torchrun_restarts_a_run_from_its_last_checkpoint(
    pictures: Path, uninterrupted: str, start: Start, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    pretrain = ["-m", "stochcon", "pretrain", "folder", f"--data.root={pictures}", *TINY, f"--out={run}"]
    job = start(*TORCHRUN, "--max-restarts=1", *pretrain)
    wait_for_checkpoint(run, job)
    os.kill(ranks(job)[0], signal.SIGKILL)
    said(job)
    assert job.returncode == 0 and digest(run) == uninterrupted


def test_slurm_starts_the_same_command(
    pictures: Path, uninterrupted: str, start: Start, tmp_path: Path
) -> None:
    """The environment as srun makes it, for each of two tasks."""
    run = tmp_path / "run"
    slurm = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NAME": "stochcon",
        "SLURM_NODELIST": "localhost",
        "SLURM_NNODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
    }
    pretrain = ["-m", "stochcon", "pretrain", "folder", f"--data.root={pictures}", *TINY, f"--out={run}"]
    tasks = []
    for i in range(2):
        environment = slurm | {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}
        settings = [f"{key}={value}" for key, value in environment.items()]
        tasks.append(start("env", *settings, sys.executable, *pretrain))
    for task in tasks:
        message = said(task)
        assert task.returncode == 0, message
    assert digest(run) == uninterrupted
