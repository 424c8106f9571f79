"""The README's Python runs as it stands, and every file that PAPER.md names exists."""

import re
from pathlib import Path

import pytest

import stochcon

ROOT = Path(__file__).parents[1]


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(code, names)
    features = names["features"]
    assert isinstance(features, stochcon.Features)
    assert features.bits is not None
    assert features.bits.shape == (360, 16)


@pytest.mark.parametrize(
    "page", ["README.md", "PAPER.md", "docs/decisions.md", "docs/lab-notes.md", "docs/replication.md"]
)
def test_files_named_in_a_page_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    files = re.findall(r"`((?:src|tests|docs|results|benchmarks)/[\w./-]+)`", text)
    missing = [name for name in links if not (ROOT / page).parent.joinpath(name).exists()]
    missing += [name for name in files if not (ROOT / name).exists()]
    assert missing == []


def test_paper_names_a_file_and_a_test_for_each_part_that_is_built() -> None:
    rows = [
        line.split("|")[1:-1]
        for line in (ROOT / "PAPER.md").read_text().splitlines()
        if line.startswith("| ")
    ][1:]
    assert len(rows) > 15
    for part, where, test, status in ([cell.strip() for cell in row] for row in rows):
        assert status in ("built", "not yet"), part
        if status == "built":
            assert re.search(r"`src/stochcon/[\w/]+\.py`", where), part
            assert re.search(r"`tests/test_\w+\.py`", test), part
