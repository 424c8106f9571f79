"""The command `stochcon paper`: runs, pictures, and the tables of a page."""

import json
import math
import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

import pandas as pd

from stochcon import atomic, report
from stochcon.experiments import claims, figure2, figure3, figure4, figure5, results, table1
from stochcon.experiments.grid import read, run_grid
from stochcon.experiments.plans import FEWER, RESULTS, TIERS, Cell, Plan

MODULES = (table1, figure2, figure3, figure4, figure5)
FIGURES: dict[str, ModuleType] = {module.__name__.rpartition(".")[2]: module for module in MODULES}
PAGES = (Path("README.md"), Path("docs/replication.md"))
PICTURES = Path("docs/figures")
BLOCK = re.compile(r"(<!-- paper: (\w+) ([\w-]+) -->\n).*?(<!-- /paper -->)", re.DOTALL)
SPEED = 1500.0  # images of a global view's size that pass forward and backward in a second on one core


def paper(
    what: str,
    tier: str = "cpu",
    seeds: int = 5,
    data: str | None = None,
    jobs: int = 1,
    minutes: float = math.inf,
    redraw: bool = False,
    dry_run: bool = False,
) -> None:
    """Run what has not run yet of the paper's table or a figure, draw it, and fill docs/replication.md.

    Results are JSON files below results/paper of the current folder, and networks are kept below runs/paper.
    summary.json there has the values and the verdict of every claim. After an interruption the same call goes on.

    Args:
        what: table1, figure2, figure3, figure4, figure5 or all.
        tier: "cpu", a few minutes a run, or "paper", the size of the paper, for GPUs.
        seeds: How many seeds of the central models, at least 1; all others have at most three.
        data: Only this data set; by default those that the tier has for the figure.
        jobs: How many runs at a time, at least 1; each has one thread if there are several.
        minutes: No run begins later than so many minutes from now.
        redraw: Run nothing; make pictures and tables from the results that are there.
        dry_run: Only print what would run.

    Raises:
        ValueError: If an argument is wrong, if a recipe has changed since its first runs, or if `redraw`
            finds no results.

    Example:
        >>> paper("figure4", tier="paper", dry_run=True)  # doctest: +ELLIPSIS
        figure4 of the tier paper...
    """
    if tier not in TIERS:
        raise ValueError(f"--tier: there is no {tier!r}; there are {', '.join(TIERS)}")
    plans = TIERS[tier]
    if what != "all" and what not in FIGURES:
        raise ValueError(f"there is no {what!r} in the paper; there are {', '.join(FIGURES)} and all")
    if data and data not in plans:
        raise ValueError(f"--data: the tier {tier} has no {data!r}; it has {', '.join(plans)}")
    if seeds < 1 or jobs < 1:
        raise ValueError(f"--seeds is {seeds} and --jobs is {jobs}; both must be at least 1")
    names = list(FIGURES) if what == "all" else [what]
    cells: dict[str, list[Cell]] = {}
    for name in names:
        sets = [data] if data else [*plans] if name == "table1" else [*plans][:1]
        some = [plans[each].with_seeds(range(seeds)) for each in sets]
        cells[name] = [cell for plan in some for cell in plan.with_pretraining(FIGURES[name].cells(plan))]
    if dry_run:
        _show_work(f"{what} of the tier {tier}", cells, SPEED * jobs if tier == "cpu" else None)
        return
    if not redraw:
        of_tier = "" if tier == "cpu" else f" --tier {tier}"
        command = f"stochcon paper {what}{of_tier}{f' --data {data}' if data else ''} --seeds {seeds}"
        run_grid(list(dict.fromkeys(cell for grid in cells.values() for cell in grid)), jobs, command, minutes)
    _publish(plans, names)


def _show_work(title: str, cells: dict[str, list[Cell]], speed: float | None) -> None:
    """Print what would run; a run that figures share is to do in the first of them."""
    rows, counted = [], set[Cell]()
    for name, grid in cells.items():
        todo = [cell for cell in grid if cell not in counted and read(cell) is None]
        counted |= {*grid}
        minutes = {"minutes": round(sum(cell.work() for cell in todo) / speed / 60)} if speed else {}
        rows.append({"": name, "runs": len(grid), "to do": len(todo)} | minutes)
    report.show(pd.DataFrame(rows), title)


def _publish(plans: dict[str, Plan], names: Sequence[str]) -> None:
    """Draw the pictures of the data sets of which a whole seed has run, and fill the pages."""
    found = results.load()
    known: dict[str, tuple[Plan, pd.DataFrame]] = {}
    for data, plan in plans.items():
        some = found[found["data"] == plan.config.recipe]
        known[data] = plan.with_seeds(sorted(some["seed"].unique().tolist())), some
    if all(some.empty for _, some in known.values()):
        raise ValueError(
            f"there are no results of this tier below {RESULTS} here: change to the folder that has them, "
            "or run without --redraw to make them"
        )
    for name in names:
        for data, (plan, some) in known.items():
            missing = {cell.config.seed for cell in FIGURES[name].cells(plan) if read(cell) is None}
            if {*plan.seeds} - missing:
                with report.styled():
                    report.save(FIGURES[name].draw(plan, some), _picture(name, data))
    whole = {data: claims.summary(plan, some) for data, (plan, some) in known.items() if not some.empty}
    path = RESULTS / results.SUMMARY
    written = json.loads(path.read_bytes()) if path.is_file() else {}
    atomic.write_json(path, written | whole)  # another tier's data sets stay
    for page in filter(Path.is_file, PAGES):
        old = page.read_text()
        new = BLOCK.sub(partial(_filled, page, known), old)
        if new != old:
            atomic.write(page, new.encode())


def _picture(name: str, data: str) -> Path:
    return PICTURES / f"{name}-{data}.png"


def _filled(page: Path, known: dict[str, tuple[Plan, pd.DataFrame]], match: re.Match[str]) -> str:
    """Make a block of a page anew; one about another tier's data set is left as it is."""
    start, name, data, end = match.groups()
    if data not in known:
        return match[0]
    module = (FIGURES | {"claims": claims}).get(name)
    if module is None:
        raise ValueError(f"{page} has a block for {name!r}; there are claims, {', '.join(FIGURES)}")
    plan, some = known[data]
    parts = [report.markdown(module.table(plan, some))]
    if module is not claims:
        parts.append(module.PUBLISHED)
    if _picture(name, data).is_file():
        link = Path(os.path.relpath(_picture(name, data), page.parent)).as_posix()
        parts.append(f"![{module.TITLE}, {data}]({link})")
    counted = f"Seeds run: at most {len(plan.seeds)}, of models that are not central at most {FEWER}"
    parts.append(f"{counted}. With several: mean ± half of the 95 % t interval.")
    return start + "\n\n".join(parts) + f"\n{end}"
