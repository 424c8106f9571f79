"""Imports only point up the list of the design."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import stochcon

SOURCE = Path(stochcon.__path__[0])
ORDER = [
    "config",
    "recipes",
    "rundir",
    "distributed",
    "images",
    "photographs",
    "listing",
    "folder",
    "shards",
    "loading",
    "data",
    "labels",
    "process",
    "threads",
    "draws",
    "large",
    "views",
    "backbones",
    "latents",
    "objective",
    "model",
    "chunked_norm",
    "cached",
    "training",
    "pretraining",
    "features",
    "probes",
    "retrieval",
    "regression",
    "evaluation",
    "curves",
    "classifier",
    "classify",
    "hamming",
    "codes",
    "sources",
    "encoding",
    "transformer",
    "export",
    "hub",
    "stored",
    "weighted",
    "index",
    "search",
    "gallery",
    "paper",
    "explore",
    "demo",
    "options",
    "model_verbs",
    "code_verbs",
    "cli",
    "__init__",
    "__main__",
]
FILES = sorted(SOURCE.rglob("*.py"))


def place(path: Path) -> str:
    """The name in the list: a file's, or that of the package that it is in."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Every part of stochcon that the file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write `from stochcon ...`, not a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            package, *rest = name.split(".")
            if package == "stochcon":
                yield rest[0] if rest else "__init__"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_only_point_up_the_list(path: Path) -> None:
    mine = place(path)
    assert mine in ORDER, (
        f"{path.name} is new: put {mine} into ORDER of {Path(__file__).name}, below what it imports"
    )
    allowed = {*ORDER[: ORDER.index(mine)], *([mine] if path.parent != SOURCE else [])}
    down = set(imports(path)) - allowed
    assert not down, (
        f"{path.name} imports {', '.join(sorted(down))}, which the list has below it or not at all"
    )


def test_the_reader_of_imports_sees_every_kind(tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    file.write_text(
        "import stochcon.cli\nfrom stochcon import data\ndef f():\n    from stochcon.views import x, y\n"
    )
    assert set(imports(file)) == {"cli", "data", "views"}
