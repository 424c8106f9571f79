"""(a) Views alone: images a second, of which 2 global and 8 local views are made."""

from __future__ import annotations

import torch

from benchmarks.measure import CORES, DEVICE, Program, Row, speeds, write
from benchmarks.peers import KorniaViews, lightly_loader
from stochcon.config import Views
from stochcon.views import make_views

SIZES = ((32, 32, 16, 256), (256, 224, 96, 16))
"""Pixels of the image, of the global and of the local views, and images a batch."""


def programs(canvas: int, large: int, small: int, batch: int, workers: int) -> dict[str, Program]:
    config = Views(global_size=large, local_size=small)
    images = torch.randint(256, (2 * batch, 3, canvas, canvas), dtype=torch.uint8)
    loader, kornia = lightly_loader(images, config, batch, workers), KorniaViews(config).to(DEVICE)
    images = images.to(DEVICE)
    return {
        # A whole epoch, so that no worker goes on when it is another's turn.
        f"lightly DINOTransform, {workers} workers": lambda: sum(len(views[0]) for views in loader),
        "kornia on batches": lambda: kornia(images[:batch])[0].shape[1],
        "stochcon": lambda: make_views(images[:batch], config)[0].shape[1],
    }


def measure(
    sizes: tuple[tuple[int, int, int, int], ...] = SIZES,
    workers: int = CORES,
    seconds: float = 2.0,
    repeats: int = 5,
) -> list[Row]:
    return [
        {"pixels": f"{size[1]} / {size[2]}", "program": name, "images per second": speed}
        for size in sizes
        for name, speed in speeds(programs(*size, workers), seconds, repeats).items()
    ]


if __name__ == "__main__":
    write("views", measure)
