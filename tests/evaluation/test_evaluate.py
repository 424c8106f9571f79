"""The metrics of runs with every latent, on networks that have learnt nothing."""

import json
from pathlib import Path

import pytest

from stochcon.config import Data
from stochcon.evaluation.evaluate import NAMES, evaluate, labelled_images, show, table
from stochcon.recipebook import recipe
from tests.data.test_array_sets import write_cifar
from tests.evaluation.examples import tiny
from tests.shared import write_run

MEASURES = ["linear", "knn", *(f"{m}{macro}" for m in ("map", "p10", "p100") for macro in ("", "-macro"))]
PIXELS = ["pixels", "pixels-pca-sign", "pixels-itq"]


@pytest.mark.parametrize("kind, codes", [("bernoulli", ["z", "bits"]), ("gaussian", ["z"]), ("deterministic", [])])
def test_metrics_have_the_keys_that_the_latent_has(kind: str, codes: list[str], tmp_path: Path) -> None:
    run = write_run(tmp_path / kind, tiny(kind, dim=16, limit=80, seed=3))
    metrics = evaluate(run, "validation", progress=False)
    assert metrics == json.loads((run / "metrics-validation.json").read_text())
    counts = {"bits", "active", "dead", "compression"} if "bits" in codes else set()
    representations = [*PIXELS, "h", "h-itq", *codes]
    assert {*metrics} == {f"{m}.{name}" for m in MEASURES for name in representations} | counts | {"seed"}
    assert metrics["seed"] == 3
    if counts:
        assert (metrics["bits"], metrics["compression"]) == (16, 16 * 16 * 8 / 16)
    assert table(metrics)["representation"].tolist() == [NAMES[name] for name in representations]


def test_cifar_is_measured_as_the_literature_on_hashing_does(tmp_path: Path) -> None:
    write_cifar(tmp_path / "cifar")
    small = {"backbone": {"name": "small", "width": 1}, "latent": {"kind": "bernoulli", "dim": 16}}
    run = write_run(tmp_path / "run", recipe("cifar10", **{"data.root": tmp_path / "cifar"}, **small))
    metrics = evaluate(run, "test", progress=False, hashing=True)
    codes = ["pixels-pca-sign", "pixels-itq", "h-itq", "bits"]
    assert {name for name in metrics if name.startswith("mapall")} == {f"mapall.{code}" for code in codes}
    assert metrics["map1000.bits"] == metrics["mapall.bits"], "the database has fewer images"
    assert "mAP@1000" in table(metrics)


def test_metrics_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Also those that an earlier version wrote, without retrieval."""
    show({"linear.bits": 84.26, "knn.bits": 86.0, "bits": 64, "compression": 8.0, "active": 48.0, "dead": 1}, "run")
    printed = capsys.readouterr().out
    assert "84.3" in printed and "64 bits an image, 8 times smaller" in printed
    assert "mAP" not in printed.split("kNN:")[0]


def test_validation_images_are_not_among_those_to_learn_from() -> None:
    """Even where the network has seen them."""
    everything = Data(name="digits", size=8, channels=1, holdout=False)
    train, _, validation, _ = labelled_images(everything, "validation")
    assert not {*train.ids} & {*validation.ids}
    whole, _, test, _ = labelled_images(everything, "test")
    assert {*validation.ids} < {*whole.ids}
    assert not {*whole.ids} & {*test.ids}
