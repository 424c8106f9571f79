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
from shared import error, write_run

import stochcon
from stochcon import atomic, runs
from stochcon import recipebook as recipes
from stochcon.cli import main
from stochcon.codes.encoder import Encoder, model_hash
from stochcon.config import Data, Latent
from stochcon.exporters.hub import to_hub

EVALUATED = Path(__file__).parents[2] / "results" / "photographs" / "bernoulli-seed0"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """With the configuration and the metrics of a real one."""
    directory = write_run(tmp_path / "runs" / "photographs-0", runs.read_config(EVALUATED))
    shutil.copy(EVALUATED / runs.METRICS, directory)
    return directory


def table(text: str) -> dict[str, list[str]]:
    """The cells of a page's tables, by the first of each row."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    return {row[0]: row[1:] for row in rows if row}


def python_of(card: Path) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", card.read_text(), re.DOTALL)
    return code


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
    assert card.data.library_name == "stochcon"
    assert card.data.license is None, "the licence is the publisher's to give"
    assert card.data.model_name == "photographs-0" and card.data.eval_results
    assert [result.metric_value for result in card.data.eval_results] == [
        metrics["linear.bits"],
        metrics["knn.bits"],
    ]
    headings = re.findall(r"^## (.*)", card.text, re.MULTILINE)
    assert headings == ["How to use it", "Data", "Recipe", "Metrics", "Limits", "Licence", "Citation"]
    assert "64 bits" in card.text and "18 photographs" in card.text and "not semantic labels" in card.text
    assert table(card.text)["StochCon's bits"][:2] == [
        f"{metrics['linear.bits']:.1f}",
        f"{metrics['knn.bits']:.1f}",
    ]


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
    # what the card shows, and a repository that an earlier day has downloaded
    (tmp_path / "card.py").write_text(python_of(folder / "README.md"))
    repository = tmp_path / "cache" / "hub" / "models--someone--photographs-0"
    shutil.copytree(folder, repository / "snapshots" / ("0" * 40))
    atomic.write(repository / "refs" / "main", b"0" * 40)
    picture = Image.effect_noise((50, 40), 60)
    picture.save(tmp_path / "picture.png")
    said = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert said.returncode == 0, said.stderr
    *_, from_folder, from_cache, unknown = said.stdout.splitlines()
    ours = Encoder(run).file(tmp_path / "picture.png").packed.tobytes().hex()
    assert from_folder == from_cache == ours
    assert unknown.startswith("someone/else is no folder, and the Hub does not give it: ")


def test_the_card_of_simclr_shows_how_to_have_h(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = recipes.digits().model_copy(update={"latent": Latent(kind="deterministic")})
    folder = to_hub(write_run(tmp_path / "run", config), tmp_path / "baseline")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(python_of(folder / "README.md"), names)
    h = names["h"]
    assert isinstance(h, torch.Tensor) and h.shape == (360, 256)
    assert "256 floats" in (folder / "README.md").read_text()


def test_a_card_says_nothing_that_is_not_known(tmp_path: Path) -> None:
    private = Data(name="folder", root=tmp_path / "private", size=16, channels=1)
    config = recipes.digits().model_copy(
        update={"recipe": "mine", "data": private, "latent": Latent(kind="gaussian", dim=5)}
    )
    run = write_run(tmp_path / "run", config)
    atomic.write_json(run / runs.METRICS, {"linear.h": 50.0, "knn.h": 40.0, "map.h": 30.0})
    folder = to_hub(run, tmp_path / "out")
    rows = table((folder / "README.md").read_text())
    assert rows["representation"][2] == "mAP"
    assert rows["h, the backbone's output"] == ["50.0", "40.0", "30.0"]
    (run / runs.METRICS).unlink()
    to_hub(run, folder)
    assert sorted(os.listdir(folder)) == ["README.md", "config.json", "model.safetensors"]
    card = ModelCard.load(folder / "README.md")
    assert card.data.eval_results is None and "has not been evaluated" in card.text
    assert (
        "publisher's own" in card.text
        and "means and variances" in card.text
        and "variance=cross" in card.text
    )
    for file in folder.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), "where the images lay is not published"
    assert runs.read_config(folder).data == private.model_copy(update={"root": None})


def test_a_clone_is_exported_into_and_nothing_else_is_touched(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clone = tmp_path / "clone"
    (clone / ".git").mkdir(parents=True)
    (clone / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    to_hub(run, clone)
    assert {".git", ".gitattributes", "README.md"} < {*os.listdir(clone)}

    export = "export", run, "--to", "hub", "--out"
    thesis = tmp_path / "thesis.tex"
    thesis.write_text("years of work")
    assert error(capsys, *export, thesis) == f"{thesis} is a file; it must name a folder"
    (tmp_path / "work").mkdir()
    shutil.move(thesis, tmp_path / "work")
    message = f"{tmp_path / 'work'} holds thesis.tex, which is no part of a Hub folder: choose another --out"
    assert error(capsys, *export, tmp_path / "work") == message
    assert os.listdir(tmp_path / "work") == ["thesis.tex"]

    (run / runs.MODEL).unlink()
    atomic.write(run / runs.CHECKPOINT, b"")
    message = f"{run} is not finished: stochcon pretrain --resume {run}"
    assert error(capsys, *export, tmp_path / "new") == message
    assert not (tmp_path / "new").exists()


def test_what_is_neither_a_folder_nor_a_repository_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^no/such/folder is no folder, and the Hub does not give it: "):
        stochcon.from_hub("no/such/folder")
