"""The paper's networks at full width: one true step of each, with a small batch."""

import pytest
import torch

from stochcon.experiments.tiers import PAPER, bernoulli
from stochcon.method.model import StochCon
from stochcon.views import make_views
from stochcon.train.loop import build_optimizer
from stochcon.train.pretrain import loss


@pytest.mark.parametrize("data", PAPER.table)
def test_one_step_at_full_width(data: str) -> None:
    config = PAPER.config(data, bernoulli(), seed=0)
    views = config.views.model_copy(update={"local_views": 2 if "imagenet" in data else 8})
    torch.manual_seed(0)
    model = StochCon(config).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, config.optimizer)
    images = torch.randint(0, 256, (2, 3, config.data.size, config.data.size), dtype=torch.uint8)
    matrices = [
        p for p in model.parameters() if p.ndim > 1
    ]  # residual branches start at zero: their norms wait
    before = [p.detach().clone() for p in matrices]
    value = loss(model(*make_views(images, views), 1.0), config)
    value.backward()
    optimizer.step()
    assert value.isfinite()
    assert all(p.isfinite().all() for p in model.parameters())
    assert not any(torch.equal(old, new) for old, new in zip(before, matrices, strict=True))
