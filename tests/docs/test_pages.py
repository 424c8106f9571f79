"""The README's Python runs as it stands, pages name files that exist, and the reference leaves nothing out."""

import re
from pathlib import Path
from pkgutil import resolve_name

import pytest

import stochcon

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "results").rglob("*.md")]
HISTORY = {"CHANGELOG.md"}
"""Pages that may name what is gone."""


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(code, names)
    codes, bits = names["codes"], names["bits"]
    assert isinstance(codes, stochcon.Codes)
    assert len(codes) == 360
    assert bits.tolist() == codes[:5].unpack().tolist()  # type: ignore[attr-defined]


def test_the_readme_fits_a_few_screens() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_named_in_a_page_exist(page: Path) -> None:
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    if page.name not in HISTORY:
        files = re.findall(r"`((?:src|tests|docs|results|benchmarks)/[\w./-]+)`", text)
        missing += [name for name in files if not (ROOT / name).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_of_the_library_in_a_page_are_there(page: Path) -> None:
    text = page.read_text()
    names = (
        {*re.findall(r"(?<![\w/.-])stochcon(?:\.[A-Za-z]\w*)+(?![\w/])", text)} if page.name not in HISTORY else set()
    )
    for module, imported in re.findall(r"from (stochcon[\w.]*) import (\w+(?:, \w+)*)", text):
        names |= {f"{module}.{name}" for name in imported.split(", ")}
    for name in names:
        resolve_name(name)


def test_paper_names_a_file_and_a_test_for_each_part_that_is_built() -> None:
    rows = [line.split("|")[1:-1] for line in (ROOT / "PAPER.md").read_text().splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15
    for part, where, test, status in ([cell.strip() for cell in row] for row in rows):
        assert status in ("built", "not yet"), part
        if status == "built":
            assert re.search(r"`src/stochcon/[\w/]+\.py`", where), part
            assert re.search(r"`tests/(\w+/)*test_\w+\.py`", test), part


def test_the_reference_has_every_public_name() -> None:
    page = (ROOT / "docs" / "reference" / "api.md").read_text()
    listed = re.findall(r"auto(?:function|class):: (\w+)", page)
    assert sorted(listed) == sorted(stochcon.__all__)
