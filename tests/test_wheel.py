"""The wheel: it has every file of the package, and works in an environment without the source."""

import os
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, since a build writes beside its sources."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    subprocess.run([*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", out, source], check=True)
    return next(out.glob("stochcon-*.whl"))


def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    package = ROOT / "src"
    files = {path.relative_to(package).as_posix() for path in (package / "stochcon").rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in files if "__pycache__" not in name} <= {*archive.namelist()}


@pytest.mark.slow
def test_the_program_runs_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    venv.create(environment)
    python = environment / "bin" / "python"
    subprocess.run([*PIP, "--python", python, "install", "--no-deps", wheel], check=True)
    # The wheel's dependencies are found where this test finds them, but its source is not: Python reads no .pth
    # files in a folder that a .pth file names.
    (packages,) = environment.glob("lib/*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command: str | Path) -> str:
        return subprocess.check_output(
            [environment / "bin" / command[0], *command[1:]], cwd=tmp_path, env=clean, text=True
        )

    assert Path(run("python", "-c", "import stochcon; print(stochcon.__file__)").strip()).is_relative_to(packages)
    assert "StochCon's bits" in run("stochcon", "demo", "--epochs=1", "--out=demo")
    assert (tmp_path / "demo" / "bits.png").stat().st_size > 10_000
    run("stochcon", "export", "demo/bernoulli", "--to=hub", "--out=hub")
    assert "stochcon" in (tmp_path / "hub" / "README.md").read_text()
