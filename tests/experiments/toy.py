"""The paper's experiments at toy size: networks that train in a second, and results that nobody measured."""

from dataclasses import replace
from typing import Any

from stochcon import atomic
from stochcon.config import Config
from stochcon.experiments.plans import PHOTOGRAPHS, SIMCLR, Cell, Plan, bernoulli
from stochcon.recipebook import recipe


def tiny() -> Config:
    network = {"views.local_views": 1, "backbone.width": 2, "head": {"hidden": 8, "dim": 4}, "rebit.steps": 0}
    return recipe("digits", recipe="toy-digits", epochs=2, batch_size=50, **network, **{"data.limit": 100})


TOY: Plan = replace(
    PHOTOGRAPHS,
    config=tiny(),
    images=100,
    models=(bernoulli(), SIMCLR),
    widths=(16, None),
    own=(None,),
    narrow=16,
    lengths={1.0: (1, 2)},
    longer=(1, 2, 3),
    batch_size=50,
    units=(2,),
    few=2,
    forest_images=50,
    looks=2,
)


def seeds(count: int) -> Plan:
    return TOY.with_seeds(range(count))


def fake(cell: Cell, **metrics: Any) -> None:
    """Write a result that was not measured, to test what is made of results."""
    record = {"model": cell.model, "seed": cell.config.seed, "settings": cell.settings, "metrics": metrics}
    atomic.write_json(cell.path, record | {"config": cell.config.model_dump(mode="json")})
