"""(e) Peak memory and time of a step against the batch, with and without chunks, each in a process of its own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

import torch

from benchmarks.measure import Row, write
from benchmarks.ours import Ours
from stochcon.config import Backbone, Config

POINTS = ((256, None), (512, None), (1024, None), (1024, 256), (4096, 256))
"""Images a step and images a chunk."""


def point(batch: int, chunk: int | None, width: int) -> Row:
    """Of this process, which must have done nothing else."""
    images = torch.randint(256, (batch, 3, 32, 32), dtype=torch.uint8)
    ours = Ours(Config(backbone=Backbone(width=width), batch_size=batch, chunk=chunk), images)
    idle = _peak_mib()
    ours.step()
    start = time.perf_counter()
    steps = max(1, 512 // batch)
    for _ in range(steps):
        ours.step()
    seconds = (time.perf_counter() - start) / (batch * steps)
    row = {
        "batch": batch,
        "chunk": chunk or "–",
        "peak MiB": round(_peak_mib()),
        "before the first step MiB": round(idle),
    }
    return row | {"ms per image": round(1000 * seconds, 3)}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(points: tuple[tuple[int, int | None], ...] = POINTS, width: int = 32) -> list[Row]:
    """The small ResNet with 2 + 8 views."""
    rows = []
    for batch, chunk in points:
        command = [sys.executable, "-m", "benchmarks.memory", str(batch), str(chunk or 0), str(width)]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    return rows


if __name__ == "__main__":
    if len(sys.argv) > 1:
        batch, chunk, width = (int(x) for x in sys.argv[1:])
        print(json.dumps(point(batch, chunk or None, width)))
    else:
        write("memory", measure)
