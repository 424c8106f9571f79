"""Alternating runs, medians with their spread, and JSON that says where and when: for all benchmarks."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from stochcon.program import compute_in_batches, keep_freed_memory

RESULTS = Path(__file__).parents[1] / "results" / "performance"
CORES = len(os.sched_getaffinity(0))
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Row = dict[str, Any]
Program = Callable[[], int]
"""Does a piece of work; returns how many images that was."""


def speeds(programs: dict[str, Program], seconds: float = 1.0, repeats: int = 5) -> dict[str, Row]:
    """Measure the images a second of each program: all take turns, each time for at least so many seconds.

    One call of each comes first and does not count. The process is set as the program `stochcon` sets its own, for
    the peers as well.
    """
    keep_freed_memory()
    compute_in_batches()
    for program in programs.values():
        _whole(program)
    measured: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            images, start = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - start) < seconds or not images:
                images += _whole(program)
            measured[name].append(images / elapsed)
    return {name: summary(values) for name, values in measured.items()}


def _whole(program: Program) -> int:
    images = program()
    if DEVICE.type == "cuda":  # which is asked for work, and does it later
        torch.cuda.synchronize()
    return images


def summary(values: list[float]) -> Row:
    """Sum up repeated measurements.

    >>> summary([3.0, 1.0, 2.0])
    {'median': 2.0, 'lowest': 1.0, 'highest': 3.0}
    """
    median, lowest, highest = (float(f"{x:.4g}") for x in (statistics.median(values), min(values), max(values)))
    return {"median": median, "lowest": lowest, "highest": highest}


def machine() -> Row:
    """Say where and when something was measured."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    packages = ("torch", "torchvision", "lightly", "kornia", "timm")
    return {
        "date": date.today().isoformat(),
        "processor": models[0] if models else platform.processor(),
        "gpu": torch.cuda.get_device_name() if DEVICE.type == "cuda" else None,
        "cores": CORES,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "load": os.getloadavg()[0],
    }


def write(name: str, measure: Callable[[], list[Row]], folder: Path | None = None) -> None:
    """Run a measurement and write its rows to NAME.json, with the load before and after."""
    folder = folder or RESULTS
    before = os.getloadavg()[0]
    rows = measure()
    content = {"machine": machine() | {"load": [before, os.getloadavg()[0]]}, "rows": rows}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    for row in rows:
        print(json.dumps(row))
