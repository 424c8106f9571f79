"""The tier `toy`, and a folder in which all of it has run once."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from stochcon.experiments import plans
from stochcon.experiments.paper import FIGURES, paper
from tests.experiments.toy import TOY

PAGE = "\n".join(f"<!-- paper: {name} digits -->\nold\n<!-- /paper -->\n" for name in ("claims", *FIGURES))


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plans.TIERS, "toy", {"digits": TOY})


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("paper")
    (folder / "docs").mkdir()
    (folder / "docs" / "replication.md").write_text(PAGE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setitem(plans.TIERS, "toy", {"digits": TOY})
        paper("all", tier="toy", seeds=1)
    yield folder


@pytest.fixture
def copy(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, to be changed; it is the current folder."""
    shutil.copytree(done, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
