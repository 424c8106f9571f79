"""How results are shown: as a table in a page or a terminal, as a picture, and while they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from stochcon.atomic import replacing

if TYPE_CHECKING:  # neither is loaded before it is needed: a search is to answer at once
    import pandas as pd
    from matplotlib.figure import Figure

MISSING = "–"
"""A cell of a table without a value."""


def texts(frame: pd.DataFrame, digits: int = 1) -> pd.DataFrame:
    """Every cell of a frame as text: floats with so many digits, and a dash where there is no value.

    Example:
        >>> import pandas as pd
        >>> texts(pd.DataFrame({"code": ["bits", "h"], "kNN": [86.04, None]})).to_numpy().tolist()
        [['bits', '86.0'], ['h', '–']]
    """

    def text(value: Any) -> str:
        if value is None or value != value:
            return MISSING
        return f"{value:.{digits}f}" if isinstance(value, float) else str(value)

    return frame.map(text)


def markdown(frame: pd.DataFrame, digits: int = 1) -> str:
    """Write a frame as a Markdown table, whose first column is text and whose others are numbers.

    Example:
        >>> import pandas as pd
        >>> print(markdown(pd.DataFrame({"code": ["bits"], "kNN": [86.04]})))
        | code   |   kNN |
        |:-------|------:|
        | bits   |  86.0 |
    """
    align = ["left", *["right"] * (frame.shape[1] - 1)]
    table: str = texts(frame, digits).to_markdown(index=False, colalign=align, disable_numparse=True)
    return table


def show(
    frame: pd.DataFrame,
    title: str,
    digits: int = 1,
    bold: Callable[[str], bool] = lambda name: False,
    console: Console | None = None,
) -> None:
    """Print a frame as a table in the terminal.

    Args:
        frame: The first column is text, the others are numbers.
        title: A line above the table.
        digits: Digits after the point.
        bold: Whether the row whose first cell has this text is to stand out.
        console: Where to print; by default the terminal.
    """
    table = Table(title=title, title_justify="left", title_style="")
    for i, column in enumerate(frame.columns):
        table.add_column(str(column), justify="right" if i else "left", overflow="fold")
    for row in texts(frame, digits).itertuples(index=False):
        table.add_row(*(Text(cell) for cell in row), style="bold" if bold(row[0]) else None)
    (console or Console()).print(table)


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
    """Images a second. The field `images` of a task says how many images one unit of its progress is."""

    def render(self, task: Task) -> Text:
        """Show the speed of the last minute, or that it is not known yet."""
        speed = task.finished_speed or task.speed
        per_second = f"{speed * task.fields['images']:,.0f}" if speed else MISSING
        return Text(f"{per_second} images/s", style="progress.data.speed")


def progress_bar(shown: bool, *more: ProgressColumn | str) -> Progress:
    """Make a progress bar with the units done, images a second and the time left.

    Args:
        shown: Whether anything is to be seen.
        more: Further columns before the time left, as `rich.progress` has them.

    Returns:
        The bar; each of its tasks needs the field `images`, the number of images of one unit.
    """
    columns: Sequence[ProgressColumn | str] = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        Speed(),
        *more,
        TimeRemainingColumn(),
    )
    return Progress(*columns, disable=not shown, speed_estimate_period=60)
