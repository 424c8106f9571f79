"""Collections at a toy size: they are split by group, and scores are those of a slow loop."""

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks.collections import make
from benchmarks.collections import score as scoring
from tests.shared import tiny_digits, write_run


def toy(root: Path) -> Path:
    """Icons of 24 names by two themes at two sizes, of which one pair has the same bytes."""
    rng = np.random.default_rng(0)
    items = []
    for name in range(24):
        pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        for theme in ("a", "b"):
            image = Image.fromarray(pixels if theme == "a" else 255 - pixels // 2)
            for size in (16, 24):
                items.append(make.Item(f"icon {name}", f"{theme}/{size}", ".png", make.png(image.resize((size, size)))))
    copy = make.Item("icon 99", "a/16", ".png", items[0].content)
    assert make.write([*items, copy], root / "icons") == len(items)
    return root / "icons"


def slow(features: Tensor, about: list[dict[str, str]], k: int, another_source: bool) -> float:
    """The share of right answers, query by query and in every order of ties, by distances of bits."""
    shares = []
    for i, query in enumerate(about):
        source, rendering = query["variant"].split("/")
        answers = []
        for j, other in enumerate(about):
            its_source, its_rendering = other["variant"].split("/")
            wanted = its_source != source if another_source else its_source == source and its_rendering != rendering
            if i != j and (other["group"] != query["group"] or wanted):
                answers.append((int((features[i] != features[j]).sum()), other["group"] == query["group"]))
        if any(right for _, right in answers):
            orders = [[answers[n] for n in order] for order in permutations(range(len(answers)))]
            hits = [any(right for _, right in sorted(each, key=lambda pair: pair[0])[:k]) for each in orders]
            shares.append(sum(hits) / len(hits))
    return 100 * sum(shares) / len(shares)


def test_scores_are_those_of_a_slow_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "PLACES", (1, 2))
    names = [("x", "a/1"), ("x", "a/2"), ("x", "b/1"), ("y", "a/1"), ("y", "b/1"), ("z", "a/1"), ("z", "a/2")]
    groups = {str(i): {"group": group, "variant": variant} for i, (group, variant) in enumerate(names)}
    (tmp_path / "groups.json").write_text(json.dumps(groups))
    variants = scoring.read_variants(tmp_path, tuple(groups))
    for seed in range(3):
        bits = torch.rand(len(names), 3, generator=torch.Generator().manual_seed(seed)) > 0.5
        for another_source in (False, True):
            found = scoring.score(bits, variants, another_source)
            assert found["queries"] == (5 if another_source else 4)
            for k in (1, 2):
                assert found[f"top{k}"] == pytest.approx(slow(bits, [*groups.values()], k, another_source), abs=0.006)


def test_floats_are_compared_by_cosine_about_the_mean() -> None:
    variants = scoring.Variants(torch.tensor([0, 0, 1, 1]), torch.zeros(4), torch.tensor([0, 1, 0, 1]))
    features = torch.tensor([[11.0, 11.0], [13.0, 13.3], [9.0, 9.0], [7.0, 6.7]])
    assert scoring.score(features, variants, False)["top1"] == 100  # about 0, the first and the third are the same


def test_a_toy_collection_is_made_and_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = toy(tmp_path)
    groups = json.loads((folder / "groups.json").read_text())
    splits: dict[str, set[str]] = {}
    for path, about in groups.items():
        splits.setdefault(about["group"], set()).add(path.split("/")[0])
    assert all(len(each) == 1 for each in splits.values()) and len(splits) == 24
    monkeypatch.setattr(scoring, "OUT", tmp_path / "results")
    monkeypatch.setattr(scoring, "BITS", 8)
    fields = {"data.channels": 1, "seed": 3}
    bernoulli = write_run(tmp_path / "bernoulli", tiny_digits(**fields))
    simclr = write_run(tmp_path / "simclr", tiny_digits(**fields, **{"latent.kind": "deterministic"}))
    for more in ([], ["--run", str(bernoulli), "--simclr", str(simclr)]):
        monkeypatch.setattr("sys.argv", ["collections", "icons", "--root", str(tmp_path), *more])
        scoring.main()
    summary = json.loads((tmp_path / "results" / "summary.json").read_text())["icons"]
    assert summary.keys() == {"another size", "another theme"}
    methods = {method: len(values) for method, values in summary["another size"].items()}
    assert methods == {"pixels": 2, "pca-sign": 2, "itq": 2, "imagehash": 2, "bits": 1, "h": 1, "simclr-itq": 1}
    assert summary["another size"]["pixels"][0] == 100
