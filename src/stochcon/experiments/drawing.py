"""What the figures share: axes, styles that can be told apart in grey, intervals over seeds, tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stochcon.experiments.intervals import interval
from stochcon.experiments.plan import BySeed

STYLES: tuple[dict[str, Any], ...] = (
    {"color": "#000000", "marker": "o", "linestyle": "-"},
    {"color": "#0072b2", "marker": "s", "linestyle": "--"},
    {"color": "#d55e00", "marker": "^", "linestyle": "-."},
    {"color": "#56b4e9", "marker": "D", "linestyle": ":"},
    {"color": "#999999", "marker": "v", "linestyle": (0, (5, 1, 1, 1, 1, 1))},
    {"color": "#cc79a7", "marker": "P", "linestyle": (0, (1, 1))},
)
"""Okabe and Ito's colours, which differ in luminance too; marker and dashes say the same again."""


def panels(count: int, width: float = 4.4, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width * count, height), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    for axis in axes:
        axis.grid(alpha=0.3, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def line(
    axis: Axes, x: Sequence[float], y: Sequence[BySeed], style: int, label: str, nudge: float = 0.0
) -> None:
    """Means over seeds with their 95 % intervals; points that have not run are left out.

    nudge: a relative shift along x, so that the bars of several lines do not hide each other.
    """
    points = [(a * (1 + nudge), found) for a, b in zip(x, y, strict=True) if (found := interval(b.values()))]
    if not points:
        return
    half = [found.half if np.isfinite(found.half) else 0.0 for _, found in points]
    axis.errorbar(
        [a for a, _ in points],
        [found.mean for _, found in points],
        yerr=half,
        label=label,
        markersize=5,
        linewidth=1.4,
        capsize=2.5,
        elinewidth=0.9,
        **STYLES[style],
    )


def ticks(axis: Axes, values: Sequence[float], names: Sequence[str] | None = None) -> None:
    """A logarithmic x axis with these ticks alone."""
    axis.set_xscale("log")
    axis.set_xticks(values, names or [f"{value:g}" for value in values])
    axis.minorticks_off()


def legend(axis: Axes, **options: Any) -> None:
    """A legend, if something has been drawn."""
    if axis.get_legend_handles_labels()[1]:
        axis.legend(frameon=False, fontsize=8, **options)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows in Markdown; all columns but the first are numbers.

    >>> print(table(["width", "top-1"], [["16", "80.1"]]))
    | width | top-1 |
    |---|--:|
    | 16 | 80.1 |
    """
    lines = [head, ["---", *(["--:"] * (len(head) - 1))], *rows]
    texts = ["| " + " | ".join(line) + " |" for line in lines]
    texts[1] = "|" + "|".join(lines[1]) + "|"
    return "\n".join(texts)


def scatter(axis: Axes, x: Sequence[float], y: Sequence[BySeed], style: int, label: str) -> None:
    """Every seed's value, and a line through the geometric means: for quantities over orders of magnitude."""
    points = [(a, list(b.values())) for a, b in zip(x, y, strict=True) if b]
    if points:
        means = [float(np.exp(np.log(np.maximum(b, 1e-12)).mean())) for _, b in points]
        axis.plot([a for a, _ in points], means, label=label, linewidth=1.4, markersize=0, **STYLES[style])
        flat = [(a, value) for a, b in points for value in b]
        axis.plot(*zip(*flat, strict=True), **{**STYLES[style], "linestyle": "none"}, markersize=5, alpha=0.8)
