"""Folders and shards of 10,000 and of 100,000 JPEG files: listing, decoding on demand, and the memory of it.

Seconds are those that the cores worked, in which other programs do not show.
`TMPDIR=/dev/shm python -m benchmarks.folders` keeps the files in memory, so that no disk is measured.
`decode.json` is what a core decodes of photographs of usual size, which `benchmarks.scaling` reads.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import CORES, Row, summary, write
from stochcon.config import Data
from stochcon.data.images import canvas, open_image
from stochcon.data.photographs import PHOTOGRAPHS, photograph
from stochcon.data.sets import load_training

SIZES = 10_000, 100_000
DECODED = 5000
"""Images decoded in a random order, batches of 256."""
PHOTOGRAPH = 500, 375
"""The usual size of a picture in ImageNet."""


def jpeg(pixels: Image.Image) -> bytes:
    """Encode an image."""
    buffer = io.BytesIO()
    pixels.convert("RGB").save(buffer, "jpeg", quality=90)
    return buffer.getvalue()


def pictures() -> list[bytes]:
    """Make different JPEG files of 48 x 36 pixels; copies of them are measured."""
    corners = np.random.default_rng(0).integers(0, 256, (1000, 3, 4, 3), dtype=np.uint8)
    return [jpeg(Image.fromarray(c).resize((48, 36), Image.Resampling.BICUBIC)) for c in corners]


def write_files(root: Path, count: int) -> None:
    """Write the images into 100 class folders."""
    for k in range(100):
        (root / f"class-{k:02}").mkdir(parents=True)
    for i, content in zip(range(count), cycle(pictures()), strict=False):
        (root / f"class-{i % 100:02}" / f"{i:08}.jpg").write_bytes(content)


def write_shards(root: Path, count: int) -> None:
    """Write the same images in shards of 10,000, each with its class beside it."""
    root.mkdir()
    contents = cycle(pictures())
    for start in range(0, count, 10_000):
        with tarfile.open(root / f"shard-{start // 10_000:06}.tar", "w") as tar:
            for i in range(start, min(start + 10_000, count)):
                for ending, content in (("jpg", next(contents)), ("cls", b"%d" % (i % 100))):
                    member = tarfile.TarInfo(f"{i:08}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def memory(kind: str) -> float:
    """Read the megabytes of this process: VmRSS now, VmHWM at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith(kind)) / 1024, 1)


def measure(root: Path, name: str, files: int) -> Row:
    """List a folder and decode some of its training images, in a process of its own."""
    torch.set_num_threads(1)
    before = memory("VmRSS")
    start = time.process_time()
    images = load_training(Data(name="folder", root=root, memory=0))
    listed, after = time.process_time() - start, memory("VmHWM")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:DECODED].split(256)
    start = time.process_time()
    decoded = sum(len(batch) for batch in images.batches(order))
    return {
        "kept as": name,
        "images": files,
        "core seconds to list": round(listed, 2),
        "images decoded per core second": round(decoded / (time.process_time() - start)),
        "MB before": before,
        "MB at most, listing": after,
        "MB at most, decoding": memory("VmHWM"),
    }


def folders() -> list[Row]:
    """Measure files and shards of every size."""
    rows = []
    apart = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HOME"] = folder  # of the processes to come: an empty cache
        for size in SIZES:
            files, shards = Path(folder, f"files-{size}"), Path(folder, f"shards-{size}")
            write_files(files, size)
            write_shards(shards, size)
            for root, name in ((files, "files"), (shards, "shards"), (shards, "shards, read before")):
                with apart.Pool(1) as process:
                    rows.append(process.apply(measure, (root, name, size)))
    return rows


def decode() -> list[Row]:
    """Decode photographs of 500 x 375 pixels by libjpeg-turbo through Pillow, which scales as it decodes."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{name}.jpg") for name in PHOTOGRAPHS]
        for path in paths:
            path.write_bytes(jpeg(photograph(path.stem).resize(PHOTOGRAPH)))

        def speed(size: int, threads: int) -> float:
            with ThreadPoolExecutor(threads) as pool:
                start = time.process_time()
                list(pool.map(lambda path: canvas(open_image(path.read_bytes, size), size, 3), paths * 4))
                return 4 * len(paths) / (time.process_time() - start)

        return [
            {
                "canvas": size,
                "threads": threads,
                "images per core second": summary([speed(size, threads) for _ in range(5)]),
            }
            for size in (32, 224)
            for threads in dict.fromkeys((1, CORES))
        ]


if __name__ == "__main__":
    write("folders", folders)
    write("decode", decode)
