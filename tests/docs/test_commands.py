"""Every line of shell that a page shows runs as it stands, at toy size, or is listed here with the reason."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from stochcon.cli import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOT_RUN_HERE = {
    "make ": "builds an environment and runs everything",
    "torchrun ": "needs several GPUs or nodes; tests/train/test_steps.py runs two processes",
    "stochcon demo": "takes minutes; tests/experiments/test_demo.py runs it small",
    "stochcon check ": "says of a toy run that it is too short, with status 1; tests/train/test_check.py trains enough",
    "stochcon paper all --jobs": "takes hours; tests/experiments/test_paper.py runs it small",
    "stochcon paper all --redraw": "writes over the committed pictures; tests/experiments/test_paper.py redraws",
    "stochcon pretrain --resume": "there is nothing left to train; tests/train/test_interruption.py interrupts runs",
}
"""How a line begins that is not run, and why."""
SMALLER = {
    "--epochs": "1",
    "--min-steps": "1",
    "--batch-size": "32",
    "--data.limit": "64",
    "--backbone.width": "4",
    "--rebit.steps": "2",
}
"""Options that make `pretrain` quick: they replace those of the page."""
OUT = "runs/my-pictures-bernoulli-0"
STAND_FOR = {"DIR": "my-pictures", "RUN": "runs/another"}


def lines() -> list[str]:
    """The lines of all ```sh blocks, each once, without comments and with continued lines joined."""
    blocks = [block for page in PAGES for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)]
    joined = "".join(blocks).replace("\\\n", " ")
    return list(dict.fromkeys(" ".join(shlex.split(line, comments=True)) for line in joined.splitlines()))


def run(line: str) -> int:
    """Run a line in this process; whether it went well, as an exit status."""
    program, verb, *rest = [STAND_FOR.get(word, word) for word in line.split()]
    assert program == "stochcon"
    if verb == "rebit":
        rest += ["--rebit.steps", "2"]
    if verb == "pretrain":
        chunk = {"--chunk": "16"} if "--chunk" in rest else {}
        for option, value in (SMALLER | chunk).items():
            if option in rest:
                at = rest.index(option)
                del rest[at : at + 2]
            rest += [option, value]
    return main([verb, *rest])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages' lines start from: pictures, two runs and a file of codes."""
    folder = tmp_path_factory.mktemp("workspace")
    photographs = {"cat": data.chelsea(), "china": data.coffee(), "tissue": data.immunohistochemistry()}
    for name, photograph in photographs.items():
        (folder / "my-pictures" / name).mkdir(parents=True)
        for top, left in np.ndindex(6, 6):
            tile = photograph[top * 32 : top * 32 + 64, left * 64 : left * 64 + 64]
            Image.fromarray(tile).save(folder / "my-pictures" / name / f"{top * 32:03}-{left * 64:03}.png")
    for name in ("cat.jpg", "new-picture.jpg"):
        Image.fromarray(data.chelsea()).save(folder / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in (
            "stochcon pretrain my-pictures",
            "stochcon pretrain folder --data.root my-pictures --latent.kind deterministic --out runs/simclr",
            "stochcon pretrain digits --out runs/digits",
            "stochcon encode runs/mine my-pictures",
        ):
            assert run(line) == 0
            if not Path("runs/mine").exists():
                shutil.copytree(OUT, "runs/mine")
    return folder


RUN_HERE = [line for line in lines() if line and not line.startswith(tuple(NOT_RUN_HERE))]


@pytest.mark.parametrize("line", RUN_HERE)
def test_a_line_of_a_page_runs(line: str, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(workspace, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    if "pretrain" in line:
        out = re.search(r"--out (\S+)", line)
        shutil.rmtree(out[1] if out else OUT, ignore_errors=True)  # a run is never written over
    assert run(line) == 0


def test_no_line_is_excused_without_need() -> None:
    for beginning in NOT_RUN_HERE:
        assert any(line.startswith(beginning) for line in lines()), beginning
