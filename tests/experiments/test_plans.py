"""The plans of the tier `paper` have the paper's sizes, and each of its networks can take a step."""

import pytest
import torch
from lightning_fabric import Fabric

from stochcon.experiments.plans import TIERS, bernoulli
from stochcon.method.algorithm1 import Algorithm1
from stochcon.method.model import StochCon
from stochcon.train.loop import build_optimizer
from stochcon.train.pretrain import backward

PAPER = TIERS["paper"]


@pytest.mark.parametrize("data", PAPER)
def test_the_papers_tier_has_the_papers_sizes(data: str) -> None:
    (cell,) = PAPER[data].with_seeds([0]).cells(bernoulli())
    config = cell.config
    assert config.recipe == f"paper-{data}"
    assert (config.batch_size, config.optimizer.name, config.views.local_views) == (4096, "lars", 8)
    assert config.latent.logit_scale == config.latent.decorrelation == 0
    with torch.device("meta"):
        assert StochCon(config).latent.dim == PAPER[data].full


@pytest.mark.parametrize("data", PAPER)
def test_one_step_at_full_width(data: str) -> None:
    (cell,) = PAPER[data].with_seeds([0]).cells(bernoulli())
    views = cell.config.views.model_copy(update={"local_views": 2 if "imagenet" in data else 8})
    config = cell.config.model_copy(update={"views": views})
    torch.manual_seed(0)
    model = Algorithm1(config).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, config.optimizer)
    images = torch.randint(0, 256, (2, 3, config.data.size, config.data.size), dtype=torch.uint8)
    matrices = [p for p in model.parameters() if p.ndim > 1]  # norms that end a residual branch start at zero
    before = [p.detach().clone() for p in matrices]
    fabric = Fabric(accelerator="cpu", devices=1)
    value, _ = backward(fabric, fabric.setup_module(model), images, step=0, relaxation=1.0, config=config)
    optimizer.step()
    assert value.isfinite()
    assert all(p.isfinite().all() for p in model.parameters())
    assert not any(torch.equal(old, new) for old, new in zip(before, matrices, strict=True))
