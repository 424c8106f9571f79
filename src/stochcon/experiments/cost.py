"""How much work a grid is, and what it would take on GPUs that are not here.

Work is counted in passes: one image of the global views' size, forward and backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from stochcon.config import Config
from stochcon.method import backbones

if TYPE_CHECKING:
    from stochcon.experiments.grid import Cell

PROBE = 20_000.0
"""Passes that a probe's forests and regressions take as long as."""


@dataclass(frozen=True)
class Machine:
    """What the hours and dollars are computed for. The utilisation and the price are assumptions, not measured."""

    gpus: int = 8
    peak: float = 989e12
    """FLOP/s of one GPU: an H100's dense bf16, by its data sheet."""
    utilisation: float = 0.1
    """Share of the peak that training a ResNet uses; convolutions of small channel counts wait for memory."""
    dollars: float = 3.0
    """For one GPU and hour."""


def work(cell: Cell) -> float:
    """Passes of a run, from nothing; of a frozen backbone the forward pass alone, a third.

    >>> from stochcon.experiments.grid import Cell
    >>> from stochcon.recipebook import recipe
    >>> config = recipe("photographs").model_copy(update={"epochs": 2})
    >>> work(Cell("simclr", config, images=1000))  # 2 global views and 4 local ones of a quarter of the pixels
    6000.0
    >>> work(Cell("simclr", config, "frozen", labels=0.5, epochs=6, images=1000))
    1000.0
    """
    if cell.task == "probe":
        return PROBE
    assert cell.images is not None
    if cell.task == "pretrain":
        views = cell.config.views
        share = (views.local_size / views.global_size) ** 2
        return cell.images * cell.config.epochs * (2 + views.local_views * share)
    assert cell.labels is not None and cell.epochs is not None
    trials = len(cell.lr or (None,))
    return trials * cell.images * cell.labels * cell.epochs * (1 / 3 if cell.task == "frozen" else 1)


def flops(config: Config) -> float:
    """FLOPs of one pass: three times those of the backbone forward, a multiplication and an addition being two.

    >>> from stochcon.config import Backbone, Views
    >>> resnet50 = Backbone(name="resnet50", stem="standard")
    >>> f"{flops(Config(backbone=resnet50, views=Views(global_size=224))):.2e}"
    '2.45e+10'
    """
    with torch.device("meta"):
        backbone = backbones.build(config.backbone, config.data.channels)
        image = torch.empty(1, config.data.channels, config.views.global_size, config.views.global_size)
    with FlopCounterMode(display=False) as counter:
        backbone.eval()(image)
    return 3.0 * counter.get_total_flops()


def hours(cells: Sequence[Cell], machine: Machine) -> float:
    """Of the machine, for all of the cells."""
    per_pass: dict[tuple[str, int], float] = {}
    total = 0.0
    for cell in cells:
        key = cell.config.backbone.name, cell.config.views.global_size
        if key not in per_pass:
            per_pass[key] = flops(cell.config)
        total += work(cell) * per_pass[key]
    return total / (machine.gpus * machine.peak * machine.utilisation) / 3600
