"""A room imports only from rooms before it, in no circle, and from packages that pyproject.toml declares."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import stochcon

SOURCE = Path(stochcon.__path__[0])
ROOMS: dict[str, set[str]] = {
    "atomic": set(),
    "config": set(),
    "parallel": set(),
    "recipebook": {"config"},
    "report": {"atomic"},
    "views": {"config"},
    "method": {"config", "parallel"},
    "runs": {"config", "atomic", "method"},
    "data": {"config", "parallel", "atomic"},
    "train": {"config", "recipebook", "parallel", "atomic", "report", "runs", "views", "method", "data"},
}
"""What each room at the bottom may import; the rooms above may import all that stand before them."""
UPPER = ["evaluation", "codes", "exporters", "explorer", "experiments", "program", "pretrain_verb", "cli", "__main__"]
for _room in UPPER:
    ROOMS[_room] = set(ROOMS)
FILES = [path for path in sorted(SOURCE.rglob("*.py")) if path != SOURCE / "__init__.py"]


def module(path: Path) -> str:
    """A file's name within the package: `method.views`, `cli`; a package's own file has the package's."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module(path) for path in FILES}


def names(path: Path) -> Iterator[str]:
    """Every name that a file imports, wherever in the file, with the modules before it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write `from stochcon ...`, not a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported(path: Path) -> Iterator[str]:
    """Every file of stochcon that a file imports, by its name within the package."""
    for name in names(path):
        package, *rest = name.split(".")
        if package == "stochcon":
            while rest and ".".join(rest) not in NAMES:
                rest.pop()
            yield ".".join(rest)


@pytest.mark.parametrize("path", FILES, ids=module)
def test_a_room_imports_only_from_the_rooms_before_it(path: Path) -> None:
    room = module(path).split(".")[0]
    assert room in ROOMS, f"{room} is new: say in ROOMS what it may import"
    others = {name.split(".")[0] for name in imported(path) if name} - {room}
    assert others <= ROOMS[room], f"{module(path)} imports {', '.join(sorted(others - ROOMS[room]))}"


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {module(path): set(imported(path)) - {module(path), ""} for path in FILES}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_the_reader_of_imports_sees_every_kind(tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    file.write_text("import stochcon.cli\nfrom stochcon import data\ndef f():\n    from stochcon.views import x, y\n")
    assert set(imported(file)) == {"cli", "data", "views"}


PYPROJECT = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text())["project"]
EXTRAS = PYPROJECT["optional-dependencies"]
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "faiss": "faiss-cpu", "skimage": "scikit-image"}
"""The distribution that has a package, where its name is another one."""
NOT_IMPORTED = {"scikit-image": "its photographs are a data set"}


def distributions(requirements: Iterable[str]) -> set[str]:
    """The names in requirements, spelt as packages are."""
    return {re.split(r"[\[<>=,;! ]", line)[0].replace("-", "_") for line in requirements}


def packages(folder: Path) -> set[str]:
    """The distributions whose packages the files of a folder import."""
    found = {name.split(".")[0] for path in folder.rglob("*.py") for name in names(path)}
    others = found - {*sys.stdlib_module_names} - {"stochcon", "benchmarks", "tests"}
    return distributions(DISTRIBUTIONS.get(name, name) for name in others)


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    declared = distributions(PYPROJECT["dependencies"])
    imported = packages(SOURCE)
    exported = distributions(EXTRAS["export"]) - declared
    assert imported - exported == declared - distributions(NOT_IMPORTED)
    root = SOURCE.parents[1]
    tested = distributions([line for extra in ("test", "bench", "export", "tensorboard") for line in EXTRAS[extra]])
    assert packages(root / "tests") | packages(root / "benchmarks") <= declared | tested
