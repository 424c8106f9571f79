"""(b) Whole training steps from uint8 images, and (c) their limit: the same network and loss on ready views.

`python -m benchmarks.steps small16 resnet18` measures these networks, each into a file of its own. With
`--no-compiled` it leaves out the compiled contenders, which take minutes to compile.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from torch import Tensor

from benchmarks.measure import CORES, DEVICE, Program, Row, speeds, write
from benchmarks.ours import NETWORKS, Contender, OnReadyViews, Ours
from benchmarks.peers import KorniaViews, LightlyLoss, lightly_loader
from stochcon.config import Config, Latent, Views
from stochcon.method.algorithm1 import Embeddings
from stochcon.method.objective import multi_crop_info_nce

EPOCH = 4
"""Batches of an epoch of lightly's loader, at the end of which no worker has work left."""


class Lightly(Contender):
    """lightly's transform in the workers of a loader, its loss, and a plain loop."""

    def __init__(self, config: Config, images: Tensor, workers: int):
        super().__init__(config, images, channels_last=False)
        self.loader = lightly_loader(images.repeat(EPOCH, 1, 1, 1), config.views, len(images), workers)
        self.criterion = LightlyLoss(config.temperature)

    def epoch(self) -> int:
        return sum(map(self.step, self.loader))

    def step(self, views: list[Tensor]) -> int:
        with self.autocast():
            value = self.criterion(self.model, [view.to(DEVICE, non_blocking=True) for view in views])
        return self.learn(value)


class Kornia(Contender):
    """kornia's views, and SimCLR by our Algorithm 1."""

    def __init__(self, config: Config, images: Tensor):
        super().__init__(config, images)
        self.make = KorniaViews(config.views).to(DEVICE)

    def step(self) -> int:
        top, bottom = self.make(self.images)
        x, x_prime = (top, bottom) if len(bottom) else top.split(1)
        with self.autocast():
            value = self.model(x, x_prime, 1.0, self.objective)
        return self.learn(value)

    def objective(self, embeddings: Embeddings) -> Tensor:
        return multi_crop_info_nce(embeddings.v, embeddings.v_prime, self.config.temperature)


def programs(base: Config, workers: int, compiled: bool) -> dict[str, Program]:
    """Make every contender for one network, batch, precision and set of views."""

    def config(kind: str, compile: bool = False) -> Config:
        return base.model_copy(update={"latent": Latent(kind=kind, dim=64), "compile": compile})

    images = torch.randint(256, (base.batch_size, 3, base.data.size, base.data.size), dtype=torch.uint8)
    simclr, fused = config("deterministic"), config("deterministic", compile=True)
    plain: dict[str, Program] = {
        f"lightly: transform, {workers} workers, loss, plain loop": Lightly(simclr, images, workers).epoch,
        "kornia's views, our SimCLR": Kornia(simclr, images).step,
        "stochcon, SimCLR": Ours(simclr, images).step,
        "stochcon, Bernoulli": Ours(config("bernoulli"), images).step,
        "stochcon, Gaussian": Ours(config("gaussian"), images).step,
        "limit: ready views, contiguous": OnReadyViews(simclr, images, channels_last=False).step,
        "limit: ready views, channels_last": OnReadyViews(simclr, images).step,
    }
    if not compiled:
        return plain
    return plain | {
        "stochcon, SimCLR, compiled": Ours(fused, images).step,
        "limit: ready views, channels_last, compiled": OnReadyViews(fused, images).step,
    }


def measure(
    network: str,
    batch: int | None = None,
    workers: int = CORES,
    seconds: float = 2.0,
    repeats: int = 3,
    compiled: bool = True,
) -> list[Row]:
    """Measure 2 and 2 + 8 views of 32 and 16 pixels."""
    batch = batch or NETWORKS[network][1]
    base = Config(backbone=NETWORKS[network][0], batch_size=batch)
    return [
        {"network": network, "batch": batch, "views": f"2 + {n}", "program": name, "images per second": speed}
        for n in (0, 8)
        for name, speed in speeds(
            programs(base.model_copy(update={"views": Views(local_views=n)}), workers, compiled), seconds, repeats
        ).items()
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"{', '.join(NETWORKS)}; by default all")
    parser.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    for name in options.networks or NETWORKS:
        write(f"steps-{name}", partial(measure, name, compiled=options.compiled))
