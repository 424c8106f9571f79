"""A mean over seeds and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy.stats import t

CONFIDENCE = 0.95


class Interval(NamedTuple):
    mean: float
    half: float
    """Half the width of the 95 % t interval; infinite for a single value."""
    n: int

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half


def interval(values: Iterable[float]) -> Interval | None:
    """Student's t interval of the mean; None of no values.

    >>> found = interval([1.0, 2.0, 3.0])
    >>> found.mean, round(found.half, 3), found.n
    (2.0, 2.484, 3)
    >>> interval([5.0])
    Interval(mean=5.0, half=inf, n=1)
    """
    x = np.array(list(values), dtype=float)
    n = len(x)
    if n == 0:
        return None
    half = (
        float(t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * float(x.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    )
    return Interval(float(x.mean()), half, n)


def cell(values: Iterable[float], digits: int = 1) -> str:
    """A table's cell: mean ± half the interval's width.

    >>> cell([1.0, 2.0, 3.0]), cell([5.0]), cell([])
    ('2.0 ± 2.5', '5.0', 'not run yet')
    """
    found = interval(values)
    if found is None:
        return "not run yet"
    spread = "" if math.isinf(found.half) else f" ± {found.half:.{digits}f}"
    return f"{found.mean:.{digits}f}{spread}"
