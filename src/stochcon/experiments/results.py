"""All results as one tidy frame, and how tables and figures read and show them."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from scipy.stats import t

from stochcon.experiments.plans import RESULTS, Model, Plan
from stochcon.train.classifier import Mode

SUMMARY = "summary.json"
COLUMNS = ["data", "model", "task", "labels", "epochs", "seed", "metric", "value"]


def load(folder: Path = RESULTS) -> pd.DataFrame:
    """Read every JSON file below a folder of results: a row for each metric of each run.

    `data` is tier and data set. `epochs` is the length of classification; for `active.train` and `active.test` it
    says when the active bits were counted. Raises ValueError for a file that is no result.
    """
    rows: list[dict[str, Any]] = []
    for path in sorted({*folder.rglob("*.json")} - {folder / SUMMARY}):
        try:
            record = json.loads(path.read_bytes())
            run = {"data": record["config"]["recipe"], "model": record["model"], "seed": record["seed"]}
            run |= {name: record["settings"][name] for name in ("task", "labels", "epochs")}
            for name, value in record["metrics"].items():
                if not isinstance(value, list):
                    rows.append(run | {"metric": name, "value": value})
                    continue
                for look in value:
                    at = run | {"epochs": look["epoch"]}
                    rows += [at | {"metric": f"{name}.{s}", "value": look[s]} for s in ("train", "test")]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not the result of a run ({error!r}); move it away") from None
    return pd.DataFrame(rows, columns=COLUMNS).astype({"labels": float, "epochs": float, "value": float})


def values(results: pd.DataFrame, **where: Any) -> pd.Series:
    """Select one number a seed: the rows in which each named column has the given value.

    Example:
        >>> rows = {"model": "simclr", "seed": [0, 1], "metric": "linear.h", "value": [90.0, 91.0]}
        >>> values(pd.DataFrame(rows), model="simclr", metric="linear.h").to_dict()
        {0: 90.0, 1: 91.0}
    """
    for column, value in where.items():
        results = results[results[column] == value]
    return results.set_index("seed")["value"]


def probed(results: pd.DataFrame, model: Model, metric: str) -> pd.Series:
    """Select a measurement of a model's frozen features, one number a seed."""
    return values(results, model=model.name, task="probe", metric=metric)


def best(
    plan: Plan, results: pd.DataFrame, model: Model, mode: Mode, labels: float, reading: str = "top1"
) -> pd.Series:
    """Select test top-1 by seed, at the length with the best validation; seeds that miss a length are out."""

    def scores(split: str) -> pd.DataFrame:
        where = {"model": model.name, "task": mode, "labels": labels, "metric": f"{split}.{reading}"}
        return pd.DataFrame({n: values(results, epochs=n, **where) for n in plan.lengths[labels]})

    test, validation = scores("test"), scores("validation").dropna()
    chosen = {seed: test.at[seed, validation.loc[seed].idxmax()] for seed in validation.index}
    return pd.Series(chosen, dtype=float)


def interval(values: pd.Series, confidence: float = 0.95) -> tuple[float, float, int]:
    """Compute the mean of n values, half the width of its t interval (infinite for one value), and n.

    Example:
        >>> mean, half, n = interval(pd.Series([1.0, 2.0, 3.0]))
        >>> mean, round(half, 3), n
        (2.0, 2.484, 3)
    """
    n = len(values)
    half = float(t.ppf(0.5 + confidence / 2, n - 1)) * float(values.sem()) if n > 1 else math.inf
    return float(values.mean()), half, n


def shown(values: pd.Series, digits: int = 1) -> str | None:
    """Write a mean ± half the width of its interval, or None if there is no value.

    Example:
        >>> shown(pd.Series([1.0, 2.0, 3.0])), shown(pd.Series([5.0])), shown(pd.Series())
        ('2.0 ± 2.5', '5.0', None)
    """
    mean, half, n = interval(values)
    spread = f" ± {half:.{digits}f}" if n > 1 else ""
    return f"{mean:.{digits}f}{spread}" if n else None


def line(axis: Axes, x: Sequence[float], y: Iterable[pd.Series], label: str) -> None:
    """Draw means over seeds, and each seed as a dot."""
    columns = [*y]
    (means,) = axis.plot(x, [column.mean() for column in columns], label=label)
    dots(axis, x, columns, means)


def dots(axis: Axes, x: Sequence[float], y: Sequence[pd.Series], means: Line2D) -> None:
    """Draw each seed in the colour of the line through the means."""
    for place, column in zip(x, y, strict=True):
        axis.plot([place] * len(column), column, color=means.get_color(), marker=".", linestyle="none", alpha=0.6)


def log_ticks(axis: Axes, places: Iterable[float]) -> None:
    """Make the x axis logarithmic, with ticks at these places alone."""
    axis.set_xscale("log")
    axis.set_xticks([*places], [f"{place:g}" for place in places])
    axis.minorticks_off()
