"""Put the tables of results/performance/*.json between their marks in docs/performance.md."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from benchmarks.measure import RESULTS, Row
from stochcon.report import markdown

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


class Ratio(NamedTuple):
    """A number of one row of a measurement over that of another; patterns of their values find the rows."""

    what: str
    aim: str
    file: str
    column: str
    ours: dict[str, str]
    peer: dict[str, str]


def _speed(what: str, aim: str, file: str, ours: str, peer: str, **of: str) -> Ratio:
    """Compare our images a second with the peer's."""
    return Ratio(what, aim, file, "images per second", {"program": ours} | of, {"program": peer} | of)


_LIMIT = "limit: ready views, channels_last"


def _step(network: str, what: str, aim: str, ours: str, peer: str) -> Ratio:
    name = f"step of {network}, 2 + 8 views: {what}"
    return _speed(name, aim, f"steps-{network}", ours, peer, views="2 + 8")


def _chunked(views: str, what: str, aim: str, column: str) -> Ratio:
    ours, peer = {"batch": "4096", "views": views}, {"batch": "256", "chunk": "–", "views": views}
    return Ratio(f"4096 images in chunks of 256, {views} views: {what}", aim, "memory", column, ours, peer)


RATIOS = (
    _speed("views of 32 / 16, over lightly's", "≥ 30", "views", "stochcon", "lightly*", pixels="32 / 16"),
    _speed("views of 32 / 16, over kornia's", "≥ 10", "views", "stochcon", "kornia*", pixels="32 / 16"),
    _speed("views of 224 / 96, over lightly's", "≥ 4", "views", "stochcon", "lightly*", pixels="224 / 96"),
    *(_step(n, "over lightly's", "≥ 7", "stochcon, SimCLR", "lightly*") for n in ("small16", "small32")),
    *(
        ratio
        for n in ("small16", "small32", "resnet18")
        for ratio in (
            _step(n, "over its limit", "≥ 0.97", "stochcon, SimCLR", _LIMIT),
            _step(n, "compiled, over that limit", "> 1", "stochcon, SimCLR, compiled", _LIMIT),
        )
    ),
    _step("small16", "time of Bernoulli over SimCLR's", "≤ 1.03", "stochcon, SimCLR", "stochcon, Bernoulli"),
    _step("small16", "time of Gaussian over SimCLR's", "≤ 1.03", "stochcon, SimCLR", "stochcon, Gaussian"),
    *(
        ratio
        for views in ("2 + 0", "2 + 8")
        for ratio in (
            _chunked(views, "memory over that of 256", "≤ 1.3", "peak MiB"),
            _chunked(views, "time an image over that of 256", "≤ 1.4", "ms per image"),
        )
    ),
    _speed("2 processes over 1 of 2 threads", "≥ 0.9", "processes", "2 processes of 1*", "1 process*"),
    _speed("the same without synchronising batch norm", "≥ 0.9", "processes", "2 processes, *", "1 process*"),
    *(
        _speed(f"encoding by {n}, over its forward", "≥ 0.95", "encode", "encode*", "the network*", network=n)
        for n in ("small16", "small32", "resnet18")
    ),
)
"""What this project set out to reach, each against a peer or a limit of the same measurement."""


def ratios(folder: Path) -> str:
    """Write the table of RATIOS; a ratio of speeds is that of the medians."""

    def value(rows: list[Row], column: str, wanted: dict[str, str]) -> float:
        (row,) = (r for r in rows if all(fnmatch(str(r[k]), pattern) for k, pattern in wanted.items()))
        found = row[column]
        return float(found["median"] if isinstance(found, dict) else found)

    lines = []
    for ratio in RATIOS:
        file = folder / f"{ratio.file}.json"
        measured = "not yet"
        if file.exists():
            rows = json.loads(file.read_text())["rows"]
            ours, peer = (value(rows, ratio.column, wanted) for wanted in (ratio.ours, ratio.peer))
            measured = f"{ours / peer:.3g}"
        lines.append({"ratio": ratio.what, "aim": ratio.aim, "measured": measured})
    return markdown(pd.DataFrame(lines))


def table(content: Row) -> str:
    """Write a measurement as a Markdown table, below a line about the machine.

    >>> speed = {"median": 2.0, "lowest": 1.0, "highest": 3.0}
    >>> rows = [{"program": "a", "images per second": speed}, {"program": "b", "images per second": speed}]
    >>> print(table({"machine": None, "rows": rows}))
    | program   |   images per second |
    |:----------|--------------------:|
    | a         |          2 (1 to 3) |
    | b         |          2 (1 to 3) |
    """
    lines = [markdown(pd.DataFrame(content["rows"]).map(_cell))]
    if machine := content["machine"]:
        versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
        load = " and ".join(f"{x:.1f}" for x in machine["load"])
        line = (
            f"{machine['date']}, {machine['cores']} cores of {machine['processor']}, "
            f"{machine['threads']} threads, load {load} before and after; "
            f"Python {machine['python']}, {versions}."
        )
        lines = [line, "", *lines]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return "{median:,.4g} ({lowest:,.4g} to {highest:,.4g})".format_map(value)
    return str(value)


def fill(page: str, folder: Path) -> str:
    """Make every table between `<!-- NAME -->` and `<!-- / -->` of a page anew, if it was measured."""

    def made(match: re.Match[str]) -> str:
        file = folder / f"{match[1]}.json"
        if match[1] == "ratios":
            return f"<!-- ratios -->\n\n{ratios(folder)}\n\n<!-- / -->"
        body = table(json.loads(file.read_text())) if file.exists() else "Not measured yet."
        return f"<!-- {match[1]} -->\n\n{body}\n\n<!-- / -->"

    return re.sub(r"<!-- ([\w-]+) -->.*?<!-- / -->", made, page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text(), RESULTS))
