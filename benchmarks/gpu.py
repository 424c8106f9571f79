"""What a GPU gives: views, steps and encoding beside their peers, and then the paper's table on Fashion-MNIST.

    python -m benchmarks.gpu [--minutes 25]

Each measurement is a file of results/performance, and `stochcon paper table1 --tier gpu` has one for each run. What is
there is not done again, and nothing begins after the minutes are over: the same command goes on. Fashion-MNIST is read
from where Debian's package dataset-fashion-mnist has it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import encode, scaling, steps, views
from benchmarks.measure import CORES, DEVICE, RESULTS, Row, speeds, write
from benchmarks.ours import Ours
from stochcon.config import Backbone, Config, Data, Views
from stochcon.experiments.paper import paper
from stochcon.method import backbones

PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16 operations a second, by the data sheets."""


@dataclass(frozen=True)
class Sizes:
    """How large everything is; tests have less."""

    networks: tuple[Backbone, ...] = (Backbone(name="resnet18"), Backbone(name="resnet50"))
    pixels: tuple[tuple[int, int, int], ...] = ((32, 16, 1024), (224, 96, 128))
    """Pixels of the global and the local views, and images in a batch."""
    large_batch: int = 4096
    workers: int = CORES
    seconds: float = 2.0
    repeats: int = 3
    compiled: bool = True


def measurements(sizes: Sizes) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    """Name all measurements, the most useful first."""
    for large, small, batch in sizes.pixels:
        for network in sizes.networks:
            base = Config(
                backbone=network.model_copy(update={"stem": "small" if large < 64 else "standard"}),
                data=Data(size=large),
                views=Views(global_size=large, local_size=small),
                batch_size=batch,
                precision="bf16-mixed",
            )
            yield f"gpu-steps-{network.name}-{large}", partial(measure_steps, base, sizes)
            yield f"gpu-encode-{network.name}-{large}", partial(measure_encoding, base, sizes)
    yield "gpu-views", partial(measure_views, sizes)
    yield "gpu-large-batch", partial(measure_large_batch, sizes)


def measure_steps(base: Config, sizes: Sizes) -> list[Row]:
    """Measure whole steps of 2 and 2 + 8 views, and which share of the GPU's peak each reaches."""
    rows = []
    for n in (0, 8):
        config = base.model_copy(update={"views": base.views.model_copy(update={"local_views": n})})
        work, peak = operations(config), peak_operations()
        contenders = steps.programs(config, sizes.workers, sizes.compiled)
        for name, speed in speeds(contenders, sizes.seconds, sizes.repeats).items():
            row = {
                "network": base.backbone.name,
                "pixels": base.data.size,
                "batch": base.batch_size,
                "views": f"2 + {n}",
            }
            share = round(100 * speed["median"] * work / peak, 1) if peak else "–"
            rows.append(row | {"program": name, "images per second": speed, "share of the peak (%)": share})
    return rows


def operations(config: Config) -> float:
    """Count the operations of an image's whole step: three times those of the forward passes of its views."""
    with torch.device("meta"):
        network, views = backbones.build(config.backbone, config.data.channels).eval(), config.views
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(2, 3, views.global_size, views.global_size))
            if views.local_views:
                network(torch.empty(views.local_views, 3, views.local_size, views.local_size))
    return 3.0 * counter.get_total_flops()


def peak_operations() -> float | None:
    """Look up what the GPU could do."""
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else ""
    return next((peak for known, peak in PEAK.items() if known in name), None)


def measure_encoding(base: Config, sizes: Sizes) -> list[Row]:
    """Measure encoding to bits, in float32."""
    found = speeds(encode.programs(base.backbone, 4 * base.batch_size, base.data.size), sizes.seconds, sizes.repeats)
    row = {"network": base.backbone.name, "pixels": base.data.size}
    return [row | {"program": name, "images per second": speed} for name, speed in found.items()]


def measure_views(sizes: Sizes) -> list[Row]:
    """Measure views alone."""
    of_size = tuple((large, large, small, batch) for large, small, batch in sizes.pixels)
    return views.measure(of_size, sizes.workers, sizes.seconds, sizes.repeats)


def measure_large_batch(sizes: Sizes) -> list[Row]:
    """Measure large batches by cached gradients, beside a batch that needs none."""
    large, small, batch = sizes.pixels[0]
    views = Views(global_size=large, local_size=small)
    base = Config(backbone=sizes.networks[0], views=views, data=Data(size=large), precision="bf16-mixed")
    configs = {
        n: base.model_copy(update={"batch_size": n, "chunk": batch if n > batch else None})
        for n in (batch, sizes.large_batch)
    }
    contenders = {
        n: Ours(config, torch.randint(256, (n, 3, large, large), dtype=torch.uint8)).step
        for n, config in configs.items()
    }
    found = speeds({str(n): step for n, step in contenders.items()}, sizes.seconds, sizes.repeats)
    return [{"batch": n, "chunk": configs[int(n)].chunk or "–", "images per second": v} for n, v in found.items()]


def main() -> None:
    """Do what is left, and put it into the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=25)
    end = time.monotonic() + 60 * parser.parse_args().minutes
    for name, measure in measurements(Sizes()):
        if not (RESULTS / f"{name}.json").exists() and time.monotonic() < end:
            write(name, measure)
    scaling.main()  # the page takes what was measured
    paper("table1", tier="gpu", seeds=3, minutes=(end - time.monotonic()) / 60)


if __name__ == "__main__":
    main()
