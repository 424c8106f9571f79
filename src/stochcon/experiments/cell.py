"""A cell of the grid: one run, whose result is one JSON file below results/paper."""

import json
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from stochcon.config import Config
from stochcon.train.classifier import Mode

RESULTS, RUNS = Path("results/paper"), Path("runs/paper")


@dataclass(frozen=True)
class Cell:
    """One run: a pretraining, or a measurement of its model, or a classifier that starts from it."""

    model: str
    config: Config  # of the pretraining, with the seed
    task: Literal["pretrain", "probe"] | Mode = "pretrain"
    labels: float | None = None  # the share of the training labels that a classifier has
    epochs: int | None = None  # the length of classification
    batch_size: int | None = None  # of classification
    lr: tuple[float, ...] | None = None  # the best on validation is tested; None means A.3's
    crop: tuple[float, float] | None = None  # the share that random crops cover; None means ImageNet's
    units: tuple[int, ...] | None = None  # how many the forests of a probe have
    images: int | None = None  # how many the forests of a probe have, or the pretraining

    @property
    def settings(self) -> dict[str, Any]:
        """All that a result depends on besides the configuration, as JSON has it."""
        return json.loads(json.dumps({k: v for k, v in asdict(self).items() if k not in ("model", "config")}))

    @property
    def path(self) -> Path:
        """The JSON file of the result: tier and data set / model / what was done, and the seed."""
        length = "" if self.labels is None else f"-{self.labels:g}-{self.epochs}epochs"
        return RESULTS / self.config.recipe / self.model / f"{self.task}{length}-seed{self.config.seed}.json"

    @property
    def directory(self) -> Path:
        """The run directory of the pretraining, which all cells of one configuration share."""
        said = self.config.model_dump_json(exclude_defaults=True)  # a new option changes no name
        return RUNS / f"{self.config.recipe}-{self.model}-{sha256(said.encode()).hexdigest()[:12]}"

    def work(self) -> float:
        """Estimate the work, counted in images of a global view's size that pass forward and backward.

        Example:
            >>> Cell("simclr", Config(), "frozen", labels=0.5, epochs=6, images=1000).work()  # forward alone
            1000.0
        """
        if self.task == "probe":
            return 20_000.0  # for its forests and regressions
        views, images = self.config.views, self.images or 0
        if self.task == "pretrain":
            share = (views.local_size / views.global_size) ** 2
            return images * self.config.epochs * (2 + views.local_views * share)
        passes = len(self.lr or "1") * images * (self.labels or 1) * (self.epochs or 1)
        return passes / 3 if self.task == "frozen" else passes

    def __str__(self) -> str:
        """Name the run for the progress of a grid."""
        return self.path.relative_to(RESULTS).with_suffix("").as_posix()
