"""How results are shown: as a table in a page or a terminal, as a picture, and while they are made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.progress import TimeRemainingColumn as TimeLeft
from rich.text import Text

from stochcon.atomic import replacing

if TYPE_CHECKING:  # neither is loaded before it is needed: a search is to answer at once
    import pandas as pd
    from matplotlib.figure import Figure

MISSING = "–"
"""A cell of a table without a value."""


def markdown(frame: pd.DataFrame, digits: int = 1, style: str = "pipe") -> str:
    """Write a frame as a table in a style of tabulate; its first column is text, and the others are numbers.

    Example:
        >>> import pandas as pd
        >>> print(markdown(pd.DataFrame({"code": ["bits", "h"], "kNN": [86.04, None]})))
        | code   |   kNN |
        |:-------|------:|
        | bits   |  86.0 |
        | h      |     – |
    """
    align = ["left", *["right"] * (frame.shape[1] - 1)]
    texts = frame.map(lambda value: f"{value:.{digits}f}" if isinstance(value, float) else str(value))
    texts = texts.mask(frame.isna(), MISSING)
    table: str = texts.to_markdown(index=False, colalign=align, disable_numparse=True, tablefmt=style)
    return table


def show(frame: pd.DataFrame, title: str, digits: int = 1) -> None:
    """Print a frame in the terminal, below a title."""
    print(f"{title}\n{markdown(frame, digits, style='rounded_outline')}")


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the style of this project (stochcon.mplstyle) within the block."""
    import matplotlib.style

    with as_file(files("stochcon") / "stochcon.mplstyle") as sheet, matplotlib.style.context(sheet):
        yield


def save(figure: Figure, path: Path) -> Path:
    """Save a picture as a PNG file, whole or not at all; returns where it is."""
    with styled(), replacing(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})
    return path


class Speed(ProgressColumn):
    """Images a second; each task needs the field `images`, the number of images of one unit of its progress."""

    def render(self, task: Task) -> Text:
        """Show the speed of the last minute, or that it is not known yet."""
        speed = task.finished_speed or task.speed
        per_second = f"{speed * task.fields['images']:,.0f}" if speed else MISSING
        return Text(f"{per_second} images/s", style="progress.data.speed")


def progress_bar(shown: bool, *more: ProgressColumn | str) -> Progress:
    """Make a progress bar with the units done, the `Speed`, more columns if given, and the time left."""
    known = TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), Speed()
    return Progress(*known, *more, TimeLeft(), disable=not shown, speed_estimate_period=60)
