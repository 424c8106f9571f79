"""Hub folders: what the card says, and that they load with one line in a process without a network."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from stochcon import atomic, load, recipe, runs
from stochcon.cli import main
from stochcon.codes.encoder import model_hash
from stochcon.config import Data
from stochcon.exporters.hub import to_hub
from tests.shared import error, write_run

EVALUATED = Path(__file__).parents[2] / "results" / "photographs" / "bernoulli-seed0"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with the configuration and the metrics of a real one."""
    directory = write_run(tmp_path / "runs" / "photographs-0", runs.read_config(EVALUATED))
    shutil.copy(EVALUATED / runs.METRICS, directory)
    return directory


def python_of(card: Path) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", card.read_text(), re.DOTALL)
    return code


def has_row(text: str, *cells: object) -> bool:
    """Whether a table of a page has a row of these cells, and perhaps more."""
    return " ".join(f"| {cell}" for cell in cells) in re.sub(r" +", " ", text)


def test_the_command_writes_a_folder_that_the_hub_understands(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # a second time over the first
        assert main(["export", str(run), "--to", "hub"]) == 0
        assert capsys.readouterr().out.startswith(f"{Path('hub/photographs-0')} is ready. ")
    folder = tmp_path / "hub" / "photographs-0"
    assert sorted(os.listdir(folder)) == ["README.md", "config.json", "metrics.json", "model.safetensors"]
    assert model_hash(folder) == model_hash(run), "its codes are comparable with those of the run"
    metrics = json.loads((EVALUATED / runs.METRICS).read_text())
    assert json.loads((folder / runs.METRICS).read_text()) == metrics

    card = ModelCard.load(folder / "README.md")
    assert card.data.license is None, "the licence is the publisher's to give"
    assert (card.data.library_name, card.data.model_name) == ("stochcon", "photographs-0")
    best = [metrics["linear.bits"], metrics["knn.bits"]]
    assert [result.metric_value for result in card.data.eval_results or ()] == best
    headings = re.findall(r"^## (.*)", card.text, re.MULTILINE)
    assert headings == ["How to use it", "Data", "Recipe", "Metrics", "Limits", "Licence", "Citation"]
    assert "64 bits" in card.text and "18 photographs" in card.text and "not semantic labels" in card.text
    assert has_row(card.text, "StochCon's bits", *(f"{value:.1f}" for value in best))


OFFLINE = """
import socket, sys

def refused(*arguments, **options):
    raise AssertionError("a socket was opened")

socket.socket.connect = socket.getaddrinfo = socket.create_connection = refused
exec(open("card.py").read(), names := {})
print(names["code"].packed.tobytes().hex())
import stochcon
print(stochcon.from_hub("someone/photographs-0").file(names["Path"]("picture.png")).packed.tobytes().hex())
try:
    stochcon.from_hub("someone/else")
except ValueError as error:
    print(error)
"""


def test_it_loads_with_one_line_in_a_process_without_a_network(run: Path, tmp_path: Path) -> None:
    folder = to_hub(run, tmp_path / "photographs-0")
    # The card shows one program; and an earlier day has downloaded a repository.
    (tmp_path / "card.py").write_text(python_of(folder / "README.md"))
    repository = tmp_path / "cache" / "hub" / "models--someone--photographs-0"
    shutil.copytree(folder, repository / "snapshots" / ("0" * 40))
    atomic.write(repository / "refs" / "main", b"0" * 40)
    Image.effect_noise((50, 40), 60).save(tmp_path / "picture.png")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", OFFLINE]
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert said.returncode == 0, said.stderr
    *_, from_folder, from_cache, unknown = said.stdout.splitlines()
    assert from_folder == from_cache == load(run).file(tmp_path / "picture.png").packed.tobytes().hex()
    assert unknown.startswith("someone/else is no folder, and the Hub does not give it: ")


def test_the_card_of_simclr_shows_how_to_have_h(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simclr = write_run(tmp_path / "run", recipe("digits", **{"latent.kind": "deterministic"}))
    card = to_hub(simclr, tmp_path / "baseline") / "README.md"
    monkeypatch.chdir(tmp_path)
    names: dict[str, torch.Tensor] = {}
    exec(python_of(card), names)
    assert names["h"].shape == (360, 256)
    assert "256 floats" in card.read_text()


def test_a_card_says_nothing_that_is_not_known(tmp_path: Path) -> None:
    private = Data(name="folder", root=tmp_path / "private", size=16, channels=1)
    run = write_run(tmp_path / "run", recipe("digits", data=private, latent={"kind": "gaussian", "dim": 5}))
    atomic.write_json(run / runs.METRICS, {"linear.h": 50.0, "knn.h": 40.0})
    folder = to_hub(run, tmp_path / "it's: #1")
    card = (folder / "README.md").read_text()
    assert has_row(card, "h, the backbone's output", "50.0", "40.0 |\n") and "mAP |" not in card
    (run / runs.METRICS).unlink()
    to_hub(run, folder)
    assert sorted(os.listdir(folder)) == ["README.md", "config.json", "model.safetensors"]
    loaded = ModelCard.load(folder / "README.md")
    assert loaded.data.eval_results is None and loaded.data.model_name == "it's: #1"
    for text in ("has not been evaluated", "publisher's own", "5 means and variances", "variance=cross"):
        assert text in loaded.text
    for file in folder.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), "where the images lay is not published"
    assert runs.read_config(folder).data == private.model_copy(update={"root": None})


def test_a_clone_is_exported_into_and_nothing_else_is_touched(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clone = tmp_path / "clone"
    (clone / ".git").mkdir(parents=True)
    to_hub(run, clone)
    assert {".git", "README.md"} < {*os.listdir(clone)}

    card = clone / "README.md"
    card.write_text(edited := card.read_text().replace("# clone", "# My model"))
    line = error(capsys, "export", run, "--to", "hub", "--out", clone)
    assert line == f"{card} has been edited and is not replaced: move it away, or choose another --out"
    assert card.read_text() == edited
    card.unlink()
    to_hub(run, clone)
    assert "# clone" in card.read_text()

    thesis = tmp_path / "work" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    (run / "unfinished").mkdir()
    (run / runs.CONFIG).rename(run / "unfinished" / runs.CONFIG)
    atomic.write(run / "unfinished" / runs.CHECKPOINT, b"")
    runs.write_config(run, runs.read_config(EVALUATED))
    for directory, out, message in (
        (run, thesis, "thesis.tex is a file; it must name a folder"),
        (run, thesis.parent, "work holds thesis.tex, which is no part of a Hub folder: choose another --out"),
        (run / "unfinished", tmp_path / "new", f"is not finished: stochcon pretrain --resume {run}/unfinished"),
    ):
        assert error(capsys, "export", directory, "--to", "hub", "--out", out).endswith(message)
    assert os.listdir(thesis.parent) == ["thesis.tex"] and not (tmp_path / "new").exists()
