"""(e) Peak memory and time of a step against the batch, with and without chunks, each in its own process."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

import torch

from benchmarks.measure import Row, write
from benchmarks.ours import Ours
from stochcon.config import Backbone, Config, Views
from stochcon.program import compute_in_batches, keep_freed_memory

POINTS = (
    (256, None, 0),
    (4096, 256, 0),
    (256, None, 8),
    (512, None, 8),
    (1024, None, 8),
    (1024, 256, 8),
    (4096, 256, 8),
)
"""Images a step, images a chunk, and local views."""


def point(batch: int, chunk: int | None, local_views: int, width: int) -> Row:
    """Measure one point in this process, which must have done nothing else."""
    keep_freed_memory()
    compute_in_batches()
    images = torch.randint(256, (batch, 3, 32, 32), dtype=torch.uint8)
    views = Views(local_views=local_views)
    config = Config(backbone=Backbone(width=width), views=views, batch_size=batch, chunk=chunk)
    ours = Ours(config, images)
    idle = _peak_mib()
    ours.step()
    start = time.perf_counter()
    steps = max(1, 512 // batch)
    for _ in range(steps):
        ours.step()
    seconds = (time.perf_counter() - start) / (batch * steps)
    row = {
        "views": f"2 + {local_views}",
        "batch": batch,
        "chunk": chunk or "–",
        "peak MiB": round(_peak_mib()),
        "before the first step MiB": round(idle),
    }
    return row | {"ms per image": round(1000 * seconds, 3)}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(points: tuple[tuple[int, int | None, int], ...] = POINTS, width: int = 32) -> list[Row]:
    """Measure the small ResNet at every point."""
    rows = []
    for batch, chunk, local_views in points:
        numbers = (batch, chunk or 0, local_views, width)
        command = [sys.executable, "-m", "benchmarks.memory", *map(str, numbers)]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    return rows


if __name__ == "__main__":
    if len(sys.argv) > 1:
        batch, chunk, local_views, width = (int(x) for x in sys.argv[1:])
        print(json.dumps(point(batch, chunk or None, local_views, width)))
    else:
        write("memory", measure)
