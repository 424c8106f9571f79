"""(f) Seconds of `stochcon pretrain` against the number of images; (g) one process against two."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import CORES, Row, summary, write


def pretrain(processes: int, threads: int, *options: str) -> tuple[float, float]:
    """Run the command; return its wall seconds, and the images a second of a median stretch of its log."""
    with tempfile.TemporaryDirectory() as folder:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *(torchrun if processes > 1 else []), "-m", "stochcon", "pretrain"]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        start = time.perf_counter()
        subprocess.run(
            [*command, *options, "--rebit.steps=0", "--quiet", f"--out={folder}/run"],
            env=environment,
            check=True,
            capture_output=True,
        )
        seconds = time.perf_counter() - start
        lines = [json.loads(line) for line in Path(folder, "run", "log.jsonl").read_text().splitlines()]
    return seconds, statistics.median(line["images_per_second"] for line in lines[1:])


def data_size(sizes: tuple[int, ...] = (1_000, 4_000, 16_000), *options: str) -> list[Row]:
    """Measure one epoch of the photographs recipe, from the start of the command to its end."""
    rows = []
    for n in sizes:
        seconds, speed = pretrain(1, CORES, "photographs", f"--data.limit={n}", "--epochs=1", "--log-every=1", *options)
        rows.append({"images": n, "seconds": round(seconds, 1), "images per second in training": round(speed)})
    return rows


def processes(repeats: int = 3, *options: str) -> list[Row]:
    """Measure the photographs recipe on all cores: as threads of a process, and as processes of a thread."""
    command = ("photographs", "--data.limit=5000", "--epochs=1", "--log-every=2", *options)
    contenders: dict[str, tuple[int, int, tuple[str, ...]]] = {
        f"1 process of {CORES} threads": (1, CORES, ()),
        f"{CORES} processes of 1 thread": (CORES, 1, ()),
        f"{CORES} processes, each with its own batch norm": (CORES, 1, ("--no-sync-batch-norm",)),
    }
    measured: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, (n, threads, more) in contenders.items():
            measured[name].append(pretrain(n, threads, *command, *more)[1])
    return [{"program": name, "images per second": summary(values)} for name, values in measured.items()]


if __name__ == "__main__":
    write("data-size", data_size)
    write("processes", processes)
