"""Puts the tables of results/performance/*.json between their marks in docs/performance.md."""

from __future__ import annotations

import json
import re
from pathlib import Path

from benchmarks.measure import RESULTS, Row

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


def table(content: Row) -> str:
    """Markdown, headed by the machine.

    >>> speed = {"median": 2.0, "lowest": 1.0, "highest": 3.0}
    >>> rows = [{"program": "a", "images per second": speed}, {"program": "b", "images per second": speed}]
    >>> print(table({"machine": None, "rows": rows}))
    | program | images per second |
    |---|---|
    | a | 2 (1 to 3) |
    | b | 2 (1 to 3) |
    """
    rows = content["rows"]
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += ["| " + " | ".join(_cell(value) for value in row.values()) + " |" for row in rows]
    if machine := content["machine"]:
        versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
        load = " and ".join(f"{x:.1f}" for x in machine["load"])
        line = (
            f"{machine['date']}, {machine['cores']} cores of {machine['processor']}, {machine['threads']} threads, "
            f"load {load} before and after; Python {machine['python']}, {versions}."
        )
        lines = [line, "", *lines]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return "{median:,.4g} ({lowest:,.4g} to {highest:,.4g})".format_map(value)
    return str(value)


def fill(page: str, folder: Path) -> str:
    """The page with every table between `<!-- NAME -->` and `<!-- / -->` made anew, if it was measured."""

    def made(match: re.Match[str]) -> str:
        file = folder / f"{match[1]}.json"
        body = table(json.loads(file.read_text())) if file.exists() else "Not measured yet."
        return f"<!-- {match[1]} -->\n\n{body}\n\n<!-- / -->"

    return re.sub(r"<!-- ([\w-]+) -->.*?<!-- / -->", made, page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text(), RESULTS))
