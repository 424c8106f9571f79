"""Our own contenders: a whole step, and its limit."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.measure import DEVICE
from stochcon.config import Backbone, Config
from stochcon.method.algorithm1 import Algorithm1
from stochcon.method.objective import multi_crop_info_nce
from stochcon.train import loop as training
from stochcon.train.pretrain import backward
from stochcon.views import make_views

NETWORKS = {
    "small16": (Backbone(width=16), 128),
    "small32": (Backbone(width=32), 128),
    "resnet18": (Backbone(name="resnet18"), 16),
}
"""The network and the number of images in a batch."""


class Contender:
    """A model with its optimizer, and a batch of uint8 images."""

    def __init__(self, config: Config, images: Tensor, channels_last: bool = True):
        torch.manual_seed(0)
        self.config, self.images = config, images.to(DEVICE)
        self.model = Algorithm1(config).to(DEVICE)
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        if config.compile:
            self.model.backbone.compile()
        self.optimizer = training.build_optimizer(self.model, config.optimizer)

    def autocast(self) -> torch.autocast:
        """Return the precision of the configuration, for a forward pass."""
        return torch.autocast(DEVICE.type, torch.bfloat16, enabled=self.config.precision == "bf16-mixed")

    def learn(self, value: Tensor) -> int:
        """Take one step down the gradient of a loss; return the number of images."""
        self.optimizer.zero_grad()
        value.backward()
        self.optimizer.step()
        return self.config.batch_size


class OnReadyViews(Contender):
    """The limit: nothing but the network, the loss and the optimizer, in one memory format throughout."""

    def __init__(self, config: Config, images: Tensor, channels_last: bool = True):
        super().__init__(config, images, channels_last)
        format = torch.channels_last if channels_last else torch.contiguous_format
        views = make_views(self.images, config.views)
        self.views = [x.flatten(0, 1).contiguous(memory_format=format) for x in views if len(x)]

    def step(self) -> int:
        n = self.config.batch_size
        with self.autocast():
            h = torch.cat([self.model.backbone(x) for x in self.views])
            v = self.model.head(h).unflatten(0, (-1, n))
        n_top = 2 if len(self.views) == 2 else 1
        return self.learn(multi_crop_info_nce(v[:n_top], v[n_top:], self.config.temperature))


class Ours(Contender):
    """The step of `stochcon pretrain`."""

    def __init__(self, config: Config, images: Tensor):
        super().__init__(config, images)
        self.fabric = training.launch(config.precision)
        self.network, self.optimizer = self.fabric.setup(self.model, self.optimizer)

    def step(self) -> int:
        self.optimizer.zero_grad()
        backward(self.fabric, self.network, self.images, 0, 1.0, self.config)
        self.optimizer.step()
        return self.config.batch_size
