"""From a command to runs, pictures and pages."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.table import Table

from stochcon import atomic
from stochcon.experiments import claims, cost, figure2, figure3, figure4, figure5, table1, tiers
from stochcon.experiments.grid import RESULTS, Cell, read, run_grid
from stochcon.experiments.plan import Plan, with_pretraining
from stochcon.experiments.tiers import Tier

FIGURES: dict[str, ModuleType] = {
    "table1": table1,
    "figure2": figure2,
    "figure3": figure3,
    "figure4": figure4,
    "figure5": figure5,
}
PAGES = (Path("README.md"), Path("docs/replication.md"))
PICTURES = Path("docs/figures")
BLOCK = re.compile(r"(<!-- paper: (\w+) ([\w-]+) -->\n).*?(<!-- /paper -->)", re.DOTALL)


def paper(
    what: str,
    tier: str = "cpu",
    seeds: int = 3,
    data: str | None = None,
    jobs: int = 1,
    redraw: bool = False,
    dry_run: bool = False,
    machine: cost.Machine | None = None,
) -> None:
    """Run what has not run of a figure, or of `all`, then draw its pictures and fill its tables into the pages.

    redraw: draw only, from the JSON files that are there. dry_run: say what would run and what it would
    cost. Raises ValueError for a name that is not there, and if a recipe changed since its first runs.
    """
    chosen = tiers.tier(tier)
    if what != "all" and what not in FIGURES:
        raise ValueError(f"there is no {what!r} in the paper; there are {', '.join(FIGURES)} and all")
    names = list(FIGURES) if what == "all" else [what]
    if seeds < 1 or jobs < 1:
        raise ValueError(f"--seeds is {seeds} and --jobs is {jobs}; both must be at least 1")
    cells = {name: planned(chosen, name, data, tuple(range(seeds))) for name in names}
    if dry_run:
        show_cost(chosen, cells, jobs, machine or cost.Machine())
        return
    if not redraw:
        whose = "" if tier == "cpu" else f" --tier {tier}"
        command = f"stochcon paper {what}{whose}{f' --data {data}' if data else ''} --seeds {seeds}"
        run_grid(list(dict.fromkeys(c for grid in cells.values() for c in grid)), jobs, command)
    draw(chosen, names)


def datasets(tier: Tier, name: str, data: str | None = None) -> list[str]:
    """What a figure is made of: the one asked for, or for table 1 all, and for the others the tier's choice."""
    if data and data not in tier.table:
        raise ValueError(f"--data: the tier {tier.name} has no {data!r}; it has {', '.join(tier.table)}")
    return [data] if data else list(tier.table if name == "table1" else tier.figures)


def planned(tier: Tier, name: str, data: str | None, seeds: tuple[int, ...]) -> list[Cell]:
    plans = [Plan(tier, each, seeds) for each in datasets(tier, name, data)]
    return [cell for plan in plans for cell in with_pretraining(FIGURES[name].cells(plan), plan)]


def measured_seeds(tier: Tier, data: str) -> tuple[int, ...]:
    """The seeds of which there is any run."""
    files = (RESULTS / f"{tier.name}-{data}").glob("*/*-seed*.json")
    return tuple(sorted({int(path.stem.rpartition("seed")[2]) for path in files}))


def draw(tier: Tier, names: Sequence[str]) -> None:
    """Pictures of the data sets of which a whole seed has run, and every block of the pages about this tier."""
    plans = {data: Plan(tier, data, measured_seeds(tier, data)) for data in tier.table}
    for name in names:
        for data, plan in plans.items():
            if whole(FIGURES[name].cells(plan)):
                content = BytesIO()
                FIGURES[name].draw(plan).savefig(content, dpi=150, metadata={"Software": None})
                atomic.write(picture(name, data), content.getvalue())
    for page in filter(Path.is_file, PAGES):
        fill(page, plans)


def whole(cells: Sequence[Cell]) -> bool:
    """Whether all cells of any one seed have run."""
    missing = {cell.config.seed for cell in cells if read(cell) is None}
    return any(cell.config.seed not in missing for cell in cells)


def fill(page: Path, plans: dict[str, Plan]) -> None:
    """Every block of a page anew: what is between <!-- paper: NAME DATA --> and <!-- /paper -->."""
    old = page.read_text()
    new = BLOCK.sub(lambda match: filled(match, page, plans), old)
    if new != old:
        atomic.write(page, new.encode())


def picture(name: str, data: str) -> Path:
    return PICTURES / f"{name}-{data}.png"


def filled(match: re.Match[str], page: Path, plans: dict[str, Plan]) -> str:
    """A block of a page with its content made anew; one of another tier's data set is left as it is."""
    start, name, data, end = match.groups()
    if data not in plans:
        return match[0]
    if name != "claims" and name not in FIGURES:
        raise ValueError(f"{page} has a block for {name!r}; there are claims, {', '.join(FIGURES)}")
    plan = plans[data]
    text = claims.markdown(plan) if name == "claims" else FIGURES[name].markdown(plan)
    if name != "claims" and picture(name, data).is_file():
        link = Path(os.path.relpath(picture(name, data), page.parent)).as_posix()
        text += f"\n\n![{FIGURES[name].TITLE}, {data}]({link})"
    seeds = len(plan.seeds)
    n = f"Seeds run: {seeds}. With several: mean ± half of the 95 % t interval."
    return f"{start}{text}\n\n{n}\n{end}"


def show_cost(tier: Tier, cells: dict[str, list[Cell]], jobs: int, machine: cost.Machine) -> None:
    """Print what would run, and how long it would take; a run that figures share is counted with the first."""
    gpus = tier.speed == 0
    shown = Table("", "runs", "to do", "hours", "dollars") if gpus else Table("", "runs", "to do", "minutes")
    counted: set[Cell] = set()
    total = 0.0
    for name, grid in cells.items():
        todo = [cell for cell in grid if cell not in counted and read(cell) is None]
        counted |= {*grid}
        hours = cost.hours(todo, machine) if gpus else sum(map(cost.work, todo)) / (tier.speed * jobs) / 3600
        total += hours
        shown.add_row(name, str(len(grid)), str(len(todo)), *_spent(hours, gpus, machine))
    shown.add_row("together", str(len(counted)), "", *_spent(total, gpus, machine))
    console = Console()
    console.print(shown)
    if gpus:
        console.print(
            f"Assumed, not measured: {machine.gpus} GPUs of {machine.peak / 1e12:.0f} TFLOP/s used to "
            f"{machine.utilisation:.0%}, {machine.dollars:g} dollars for one GPU and hour; a training step "
            "costs three times its forward pass; nothing waits for data.",
            highlight=False,
        )
    else:
        console.print(
            f"At {tier.speed:,.0f} views of full size a second for each of {jobs} jobs, one core each.",
            highlight=False,
        )


def _spent(hours: float, gpus: bool, machine: cost.Machine) -> list[str]:
    if gpus:
        return [f"{hours:,.1f}", f"{hours * machine.gpus * machine.dollars:,.0f}"]
    return [f"{60 * hours:.0f}"]
