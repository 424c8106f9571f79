"""The parts that the figures' pictures share."""

from collections.abc import Iterable, Sequence

import pandas as pd
from matplotlib.axes import Axes

from stochcon.experiments.results import interval


def line(axis: Axes, x: Sequence[float], y: Iterable[pd.Series], label: str) -> None:
    """Draw means over seeds with their 95 % intervals: no bar for one seed, and no point for none."""
    found = [interval(values) for values in y]
    half = [half if n > 1 else 0.0 for _, half, n in found]
    axis.errorbar(x, [mean for mean, _, _ in found], half, label=label, elinewidth=0.9)


def log_ticks(axis: Axes, places: Iterable[float]) -> None:
    """Make the x axis logarithmic, with ticks at these places alone."""
    axis.set_xscale("log")
    axis.set_xticks([*places], [f"{place:g}" for place in places])
    axis.minorticks_off()
