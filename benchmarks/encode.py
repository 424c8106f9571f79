"""(d) Encoding uint8 images to packed bits, against the network's forward alone on ready tensors."""

from __future__ import annotations

import torch

from benchmarks.measure import DEVICE, Program, Row, speeds, write
from benchmarks.ours import NETWORKS
from stochcon.codes.packed import Codes
from stochcon.config import Backbone, Config, Latent, Views
from stochcon.evaluation.features import extract
from stochcon.method.backbones import folded
from stochcon.method.model import StochCon
from stochcon.views import eval_view


def programs(backbone: Backbone, n: int, size: int = 32) -> dict[str, Program]:
    """Make both programs for one network and n images."""
    config = Config(backbone=backbone, latent=Latent(dim=64), views=Views(global_size=size))
    model = StochCon(config).to(memory_format=torch.channels_last).to(DEVICE).eval()
    network = model.backbone
    model.backbone = folded(network)  # as stochcon.load does
    images = torch.randint(256, (n, 3, size, size), dtype=torch.uint8)
    ready = eval_view(images.to(DEVICE), config.views).contiguous(memory_format=torch.channels_last)
    ids = [str(i) for i in range(n)]

    def encode() -> int:
        features = extract(model, images, config.views)
        assert features.code is not None and features.flips is not None
        return len(Codes.pack(features.code.numpy(), ids, features.flips.sum(1).numpy()))

    @torch.inference_mode()
    def forward() -> int:
        return sum(len(network(batch)) for batch in ready.split(256))

    return {"encode to packed bits": encode, "the network's forward alone": forward}


def measure(n: int = 512, seconds: float = 1.5, repeats: int = 5) -> list[Row]:
    """Measure images of 32 x 32 pixels, the size that they are stored in."""
    return [
        {"network": network, "program": name, "images per second": speed}
        for network, (backbone, _) in NETWORKS.items()
        for name, speed in speeds(programs(backbone, n), seconds, repeats).items()
    ]


if __name__ == "__main__":
    write("encode", measure)
