"""Searching a million codes: ours beside FAISS's and NumPy's, and FAISS's approximate binary indexes.

    python -m benchmarks.search RUN [--count 1000000] [--repeats 3] [--all-indexes]

RUN is a finished run. The codes are samples of q(z'|x) of its training images, drawn with replacement.
The queries are the codes of test images, which are not among them. Beside them stand uniformly random
codes, where near is as far as elsewhere, and no index can help. The contestants take turns. Recall@10
counts what is as near as the tenth. The result is results/performance/search.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from stochcon.codes import inverted_lists
from stochcon.codes.file import read_codes, write
from stochcon.codes.packed import Codes
from stochcon.codes.search import search
from stochcon.codes.weighted import asymmetric_neighbours, weighted_neighbours
from stochcon.data.images import Split
from stochcon.data.sets import load_data
from stochcon.evaluation.features import extract
from stochcon.runs import load_model

OUT = Path(__file__).parents[1] / "results" / "performance" / "search.json"
K = 10
RARE = 3
"""Repeats of what takes long."""
rng = np.random.default_rng(0)


def probabilities(run: Path, split: Split) -> NDArray[np.float32]:
    model, config = load_model(run)
    found = extract(model, load_data(config.data, split).pixels, config.views).probabilities
    assert found is not None, f"{run} has no bits"
    return found.numpy()


def learned(run: Path, count: int, queries: int) -> tuple[Codes, Codes]:
    train, test = probabilities(run, "train"), probabilities(run, "test")
    parts = []
    for start in range(0, count, 50_000):
        p = train[rng.integers(0, len(train), min(50_000, count - start))]
        parts.append(np.packbits(rng.random(p.shape, np.float32) < p, 1, "little"))
    chosen = test[rng.integers(0, len(test), queries)] > 0.5
    return named(np.concatenate(parts), test.shape[1]), named(np.packbits(chosen, 1, "little"), test.shape[1])


def uniform(bits: int, count: int, queries: int) -> tuple[Codes, Codes]:
    assert bits % 8 == 0
    rows = rng.integers(0, 256, (count + queries, bits // 8), np.uint8)
    return named(rows[:count], bits), named(rows[count:], bits)


def named(packed: NDArray[np.uint8], bits: int) -> Codes:
    ids = np.array([f"folder-{i % 1000:03}/image-{i:07}.jpg" for i in range(len(packed))], object)
    return Codes(packed, bits, ids, np.zeros(len(packed), np.float32), np.zeros(bits, np.float32))


def race(contestants: dict[str, Callable[[], object]], repeats: int) -> dict[str, Any]:
    """Seconds of each, taking turns, after one turn that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(repeats + 1):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            contestant()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {
        name: {"median": float(np.median(s)), "least": min(s), "most": max(s), "repeats": repeats}
        for name, s in seconds.items()
    }


def exact(stored: Codes, queries: Codes, repeats: int) -> dict[str, Any]:
    flat = faiss.IndexBinaryFlat(8 * stored.packed.shape[1])
    flat.add(stored.packed)
    one, few = queries[:1], queries[:10]
    weights = np.ones((len(few), stored.bits), np.float32)

    def numpy_reference() -> None:
        np.argpartition(few.hamming(stored), K, axis=1)[:, :K]

    return {
        f"{len(queries)} queries": race(
            {
                "Codes.search": lambda: stored.search(queries, K),
                "faiss.IndexBinaryFlat": lambda: flat.search(queries.packed, K),
            },
            repeats,
        ),
        "1 query": race(
            {
                "Codes.search": lambda: stored.search(one, K),
                "faiss.IndexBinaryFlat": lambda: flat.search(one.packed, K),
                "weighted.search": lambda: weighted_neighbours(stored.packed, one.unpack(), weights[:1], K),
                "asymmetric.search": lambda: asymmetric_neighbours(stored.packed, 0.8 * one.unpack() + 0.1, K),
            },
            4 * repeats,
        ),
        f"{len(few)} queries": race(
            {
                "Codes.search": lambda: stored.search(few, K),
                "numpy bitwise_count": numpy_reference,
                "weighted.search": lambda: weighted_neighbours(stored.packed, few.unpack(), weights, K),
                "asymmetric.search": lambda: asymmetric_neighbours(stored.packed, 0.8 * few.unpack() + 0.1, K),
            },
            RARE,
        ),
    }


def approximate(stored: Codes, queries: Codes, repeats: int, everything: bool) -> dict[str, Any]:
    """Build seconds of each index, and at each setting recall and how many times faster than exact."""
    width, rows, sought = 8 * stored.packed.shape[1], stored.packed, queries.packed
    nearest, _ = stored.search(queries, K)
    start = time.perf_counter()
    ours, recall = inverted_lists.build(rows)
    report: dict[str, Any] = {
        "IVF": {"build": time.perf_counter() - start, "lists": ours.nlist, "chosen": ours.nprobe}
        | {"recall over own codes": recall}
    }
    kinds: dict[str, tuple[Any, Callable[[int], object], list[int]]] = {
        "IVF": (ours, lambda n: setattr(ours, "nprobe", n), sorted({2, 4, 8, 16, 32, 64, ours.nprobe}))
    }
    if everything:
        graph, hashes = faiss.IndexBinaryHNSW(width, 16), faiss.IndexBinaryMultiHash(width, 4, 16)
        kinds["HNSW16"] = graph, lambda n: setattr(graph.hnsw, "efSearch", n), [16, 32, 64, 128]
        kinds["MultiHash 4 x 16"] = hashes, lambda n: setattr(hashes, "nflip", n), [0, 1]
        for name in ("HNSW16", "MultiHash 4 x 16"):
            start = time.perf_counter()
            kinds[name][0].add(rows)
            report[name] = {"build": time.perf_counter() - start}
    for name, (built, tune, settings) in kinds.items():
        for setting in settings:
            tune(setting)
            distances, found = built.search(sought, K)
            seconds = race(
                {
                    "exact": lambda: stored.search(queries, K),
                    "index": partial(inverted_lists.approximate_neighbours, built, sought, K),
                    "one": partial(inverted_lists.approximate_neighbours, built, sought[:1], K),
                },
                repeats,
            )
            report[name][str(setting)] = {
                "recall": float(((found >= 0) & (distances <= nearest[:, -1:])).mean()),
                "times faster": seconds["exact"]["median"] / seconds["index"]["median"],
                "seconds": seconds,
            }
            print(
                f"  {name} {setting}: {json.dumps(report[name][str(setting)] | {'seconds': None})}",
                flush=True,
            )
    return report


def whole(stored: Codes, repeats: int) -> dict[str, Any]:
    """One query by id in a file: the call, and the command with the start of Python."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "codes.parquet"
        write(stored, path)
        name = str(stored.ids[len(stored) // 2])
        command = [sys.executable, "-m", "stochcon", "search", str(path), name]
        return {
            "file MB": path.stat().st_size / 1e6,
            "ids MB": sum(map(len, stored.ids)) / 1e6,
        } | race(
            {
                "stochcon.search.search": lambda: search(path, [name], K),
                "codes.read": lambda: read_codes(path),
                "stochcon search": lambda: subprocess.run(command, check=True, capture_output=True),
                "stochcon --help": lambda: subprocess.run([*command[:3], "--help"], check=True, capture_output=True),
            },
            repeats,
        )


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "threads": faiss.omp_get_max_threads(),
        "load average": os.getloadavg(),
        "versions": {
            "python": platform.python_version(),
            "faiss": faiss.__version__,
            "numpy": np.__version__,
        },
        "faiss options": faiss.get_compile_options().strip(),
        "date": date.today().isoformat(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--all-indexes", action="store_true", help="HNSW and MultiHash too: minutes to build")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()

    report: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.search", *sys.argv[1:]]),
        "machine": machine(),
    }
    stored, queries = learned(options.run, options.count, options.queries)
    report |= {"codes": len(stored), "bits": stored.bits}
    report["exact"] = exact(stored, queries, options.repeats)
    print(json.dumps(report["exact"], indent=1), flush=True)
    report["file"] = whole(stored, options.repeats)
    print(json.dumps(report["file"], indent=1), flush=True)
    few = min(200, options.queries)
    report["approximate"] = {}
    for name, (base, sought) in {
        "learned codes": (stored, queries[:few]),
        "uniformly random codes": uniform(stored.bits, options.count // 4, few),
    }.items():
        print(f"{name}, {len(base):,}")
        report["approximate"][name] = approximate(base, sought, options.repeats, options.all_indexes)
    report["machine"]["load average at the end"] = os.getloadavg()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
