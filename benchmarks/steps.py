"""(b) Whole training steps from uint8 images, and (c) their limit: the same network and loss on ready views.

`python -m benchmarks.steps small16 resnet18` measures these networks, each into a file of its own.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from benchmarks.measure import CORES, Program, Row, speeds, write
from benchmarks.ours import NETWORKS, Contender, OnReadyViews, Ours
from benchmarks.peers import KorniaViews, LightlyLoss, lightly_loader
from stochcon.config import Config, Latent, Views
from stochcon.train.pretrain import loss


class Lightly(Contender):
    def __init__(self, config: Config, images: Tensor, workers: int):
        super().__init__(config, images, channels_last=False)
        self.loader = lightly_loader(images.repeat(4, 1, 1, 1), config.views, len(images), workers)
        self.criterion = LightlyLoss(config.temperature)

    def epoch(self) -> int:
        return sum(self.learn(self.criterion(self.model, views)) for views in self.loader)


class Kornia(Contender):
    def __init__(self, config: Config, images: Tensor):
        super().__init__(config, images)
        self.make = KorniaViews(config.views)

    def step(self) -> int:
        return self.learn(loss(self.model(*self.make(self.images), 1.0), self.config))


def programs(network: str, local_views: int, batch: int, workers: int) -> dict[str, Program]:
    def config(kind: Literal["deterministic", "bernoulli", "gaussian"], compile: bool = False) -> Config:
        return Config(
            backbone=NETWORKS[network][0],
            views=Views(local_views=local_views),
            latent=Latent(kind=kind, dim=64),
            batch_size=batch,
            compile=compile,
        )

    images = torch.randint(256, (batch, 3, 32, 32), dtype=torch.uint8)
    simclr, compiled = config("deterministic"), config("deterministic", compile=True)
    return {
        f"lightly: transform, {workers} workers, loss, plain loop": Lightly(simclr, images, workers).epoch,
        "kornia's views, our SimCLR": Kornia(simclr, images).step,
        "stochcon, SimCLR": Ours(simclr, images).step,
        "stochcon, Bernoulli": Ours(config("bernoulli"), images).step,
        "stochcon, Gaussian": Ours(config("gaussian"), images).step,
        "stochcon, SimCLR, compiled": Ours(compiled, images).step,
        "limit: ready views, contiguous": OnReadyViews(simclr, images, channels_last=False).step,
        "limit: ready views, channels_last": OnReadyViews(simclr, images).step,
        "limit: ready views, channels_last, compiled": OnReadyViews(compiled, images).step,
    }


def measure(
    network: str, batch: int | None = None, workers: int = CORES, seconds: float = 2.0, repeats: int = 3
) -> list[Row]:
    """2 and 2 + 8 views of 32 and 16 pixels."""
    batch = batch or NETWORKS[network][1]
    return [
        {"network": network, "batch": batch, "views": f"2 + {n}", "program": name, "images per second": speed}
        for n in (0, 8)
        for name, speed in speeds(programs(network, n, batch, workers), seconds, repeats).items()
    ]


if __name__ == "__main__":
    for name in sys.argv[1:] or NETWORKS:
        write(f"steps-{name}", partial(measure, name))
