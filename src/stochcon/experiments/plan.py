"""The runs of a tier on one data set, by what is asked of them; and what has been measured of these."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from stochcon.experiments.grid import Cell, values
from stochcon.experiments.tiers import Model, Tier
from stochcon.train.classifier import Mode

BySeed = dict[int, float]


@dataclass(frozen=True)
class Plan:
    tier: Tier
    data: str
    seeds: tuple[int, ...]

    def cells(self, model: Model, **measured: object) -> list[Cell]:
        """One cell a seed."""
        configs = [self.tier.config(self.data, model, seed) for seed in self.seeds]
        cells = [Cell(model.name, config, images=self.tier.images[self.data]) for config in configs]
        return [replace(cell, **measured) for cell in cells]  # type: ignore[arg-type]

    def probe(self, model: Model, forest: bool = True) -> list[Cell]:
        units = self.tier.units if forest else ()
        return self.cells(model, task="probe", units=units, images=self.tier.forest_images)

    def classify(self, model: Model, mode: Mode, labels: float, epochs: int) -> list[Cell]:
        lr = self.tier.rates[labels] if mode.startswith("supervised") else None
        size = self.tier.batch_size
        crop = self.tier.crops.get(self.data)
        return self.cells(model, task=mode, labels=labels, epochs=epochs, batch_size=size, lr=lr, crop=crop)

    def lengths(self, mode: Mode, labels: float) -> tuple[int, ...]:
        """What table 1 chooses from. Supervised training starts from nothing: twice the longest, at several rates."""
        tried = self.tier.lengths[labels]
        return (2 * max(tried),) if mode.startswith("supervised") else tried

    def best(self, model: Model, mode: Mode, labels: float, code: str = "top1") -> BySeed:
        """By seed, test top-1 of the length that is best on validation, of the seeds that have run all lengths."""
        tried = [self.classify(model, mode, labels, length) for length in self.lengths(mode, labels)]
        validation = [values(cells, f"validation.{code}") for cells in tried]
        test = [values(cells, f"test.{code}") for cells in tried]
        whole = [seed for seed in self.seeds if all(seed in scores for scores in validation)]
        chosen = {seed: max(range(len(tried)), key=lambda i: validation[i][seed]) for seed in whole}
        return {seed: test[i][seed] for seed, i in chosen.items()}

    def width(self, dim: int | None) -> int:
        return dim or self.tier.full


def combine(function: Callable[..., float], *columns: BySeed) -> BySeed:
    """A number computed seed by seed, for the seeds that every column has.

    >>> combine(lambda a, b: a - b, {0: 3.0, 1: 4.0}, {0: 1.0})
    {0: 2.0}
    """
    seeds = [seed for seed in columns[0] if all(seed in column for column in columns)]
    return {seed: function(*(column[seed] for column in columns)) for seed in seeds}


def difference(a: BySeed, b: BySeed) -> BySeed:
    return combine(lambda x, y: x - y, a, b)


def with_pretraining(cells: Iterable[Cell], plan: Plan) -> list[Cell]:
    """The cells, each once, the pretrainings that they need before them."""
    needed: Sequence[Cell] = list(cells)
    images = plan.tier.images[plan.data]
    return list(dict.fromkeys([*(Cell(cell.model, cell.config, images=images) for cell in needed), *needed]))
