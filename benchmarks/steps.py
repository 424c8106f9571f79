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
from benchmarks.peers import KorniaViews, LightlyLoss, lightly_loader
from stochcon import training
from stochcon.config import Backbone, Config, Latent, Views
from stochcon.model import StochCon
from stochcon.objective import multi_crop_info_nce
from stochcon.pretraining import backward, loss
from stochcon.views import make_views

NETWORKS = {
    "small16": (Backbone(width=16), 128),
    "small32": (Backbone(width=32), 128),
    "resnet18": (Backbone(name="resnet18"), 16),
}
"""The network and the images a batch."""


class Contender:
    """A model with its optimizer, and a batch of uint8 images."""

    def __init__(self, config: Config, images: Tensor, channels_last: bool = True):
        torch.manual_seed(0)
        self.config, self.images = config, images
        self.model = StochCon(config)
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        if config.compile:
            self.model.backbone.compile()
        self.optimizer = training.build_optimizer(self.model, config.optimizer)

    def _learn(self, value: Tensor) -> int:
        self.optimizer.zero_grad()
        value.backward()
        self.optimizer.step()
        return self.config.batch_size


class OnReadyViews(Contender):
    """The limit: nothing but the network, the loss and the optimizer, in one memory format throughout."""

    def __init__(self, config: Config, images: Tensor, channels_last: bool = True):
        super().__init__(config, images, channels_last)
        format = torch.channels_last if channels_last else torch.contiguous_format
        views = make_views(images, config.views)
        self.views = [x.flatten(0, 1).contiguous(memory_format=format) for x in views if len(x)]

    def step(self) -> int:
        n = self.config.batch_size
        h = torch.cat([self.model.backbone(x) for x in self.views])
        v = self.model.head(h).unflatten(0, (-1, n))
        n_top = 2 if len(self.views) == 2 else 1
        return self._learn(multi_crop_info_nce(v[:n_top], v[n_top:], self.config.temperature))


class Lightly(Contender):
    def __init__(self, config: Config, images: Tensor, workers: int):
        super().__init__(config, images, channels_last=False)
        self.loader = lightly_loader(images.repeat(4, 1, 1, 1), config.views, len(images), workers)
        self.criterion = LightlyLoss(config.temperature)

    def epoch(self) -> int:
        return sum(self._learn(self.criterion(self.model, views)) for views in self.loader)


class Kornia(Contender):
    def __init__(self, config: Config, images: Tensor):
        super().__init__(config, images)
        self.make = KorniaViews(config.views)

    def step(self) -> int:
        return self._learn(loss(self.model(*self.make(self.images), 1.0), self.config))


class Ours(Contender):
    """The step of `stochcon pretrain`."""

    def __init__(self, config: Config, images: Tensor):
        super().__init__(config, images)
        self.fabric = training.launch()
        self.network, self.optimizer = self.fabric.setup(self.model, self.optimizer)

    def step(self) -> int:
        self.optimizer.zero_grad()
        backward(self.fabric, self.network, self.images, 0, 1.0, self.config)
        self.optimizer.step()
        return self.config.batch_size


def programs(network: str, local_views: int, batch: int, workers: int) -> dict[str, Program]:
    def config(kind: Literal["deterministic", "bernoulli", "gaussian"], compile: bool = False) -> Config:
        return Config(
            backbone=NETWORKS[network][0],
            views=Views(local_views=local_views),
            latent=Latent(kind=kind),
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
