"""The site builds without a warning, which runs its tutorials, and every page is reached from the first."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    sphinx = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", str(tmp_path / "trees")]
    built = subprocess.run([*sphinx, ROOT / "docs", tmp_path / "site"], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    for page in (ROOT / "docs").rglob("*.md"):
        assert (tmp_path / "site" / page.relative_to(ROOT / "docs").with_suffix(".html")).exists(), page
    assert (
        "of the nearest neighbours are from the same photograph"
        in (tmp_path / "site" / "tutorials" / "own-folder.html").read_text()
    )
