"""Scores codes at finding the copies of a picture in a collection, as a person with a folder of pictures would.

    python -m benchmarks.collections icons|wallpapers|drawings [--run RUN ...] [--simclr RUN ...] [--root DIR]

Every test image asks for the nearest of the other test images. An answer is right if it is of the query's group, and of
the variant that the task asks for: another rendering of the same source, or another source (see `make`). The images of
the group that the task does not ask for are no answers, neither right nor wrong. Queries that have no right answer do
not count. Equally near images count by expectation over their orders, in closed form.

Choices are made on `drawings`, the validation collection; the test images of the others are for reports.

Scores are top-1 and top-10 (a right answer among ten) in per cent. They go to results/collections/COLLECTION-SEED.json,
and summary.json has {collection: {task: {method: [top-1 a seed]}}}. A run of SimCLR belongs to the run of its seed.
Rivals that need no run are scored alone if there is none, as seed 0.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import imagehash
import torch
from PIL import Image
from torch import Tensor

from benchmarks.collections.make import KINDS, ROOT
from stochcon import atomic, runs
from stochcon.config import Config, Data
from stochcon.data.images import Images
from stochcon.data.sets import load_data
from stochcon.evaluation import probes
from stochcon.evaluation.baselines import itq_fits, pixel_floats, principal
from stochcon.evaluation.features import extract
from stochcon.evaluation.self_retrieval import PLACES, success_at
from stochcon.recipebook import recipe

OUT = Path(__file__).parents[2] / "results" / "collections"
TASKS = {
    "icons": ("another size", "another theme"),
    "wallpapers": ("recompressed", "origin"),
    "drawings": ("recompressed", "origin"),
}
"""Of each collection: the task that asks for another rendering of the source, and the one for another source."""
BITS = 64
Scores = dict[str, dict[str, dict[str, float]]]  # by task, by method, by measure


class Variants(NamedTuple):
    """The group, source and rendering of N images, as numbers (N,)."""

    group: Tensor
    source: Tensor
    rendering: Tensor

    def chosen(self, places: Tensor) -> Variants:
        """Keep some of the images."""
        return Variants(*(column[places, None] for column in self))


def read_variants(folder: Path, ids: tuple[str, ...]) -> Variants:
    """Read what groups.json says of images."""
    groups = json.loads((folder / "groups.json").read_text())
    columns = zip(*((groups[i]["group"], *groups[i]["variant"].split("/")) for i in ids), strict=True)
    return Variants(
        *(torch.tensor([{name: k for k, name in enumerate(dict.fromkeys(c))}[v] for v in c]) for c in columns)
    )


def score(features: Tensor, variants: Variants, another_source: bool) -> dict[str, float]:
    """Score features (N, D) of all test images at one task; see `probes.similarities`."""
    values: list[Tensor] = []
    numbers = torch.arange(len(features))
    similarities = probes.similarities(features, features)
    for similarity, asked in zip(similarities, numbers.split(probes.CHUNK), strict=True):
        query = variants.chosen(asked)
        of_group, of_source = query.group == variants.group, query.source == variants.source
        wanted = ~of_source if another_source else of_source & (query.rendering != variants.rendering)
        right = of_group & wanted & (asked[:, None] != numbers)
        answers = right | ~of_group
        best = similarity.masked_fill(~right, -math.inf).amax(1, keepdim=True)
        nearer = ((similarity > best) & answers).sum(1)
        tied, tied_right = (((similarity == best) & some).sum(1) for some in (answers, right))
        found = torch.stack([success_at(k, nearer, tied, tied_right) for k in PLACES], 1)
        values.append(found[right.any(1)])
    top = 100 * torch.cat(values).mean(0)
    return {"queries": sum(map(len, values))} | {
        f"top{k}": round(float(t), 2) for k, t in zip(PLACES, top, strict=True)
    }


def perceptual_hashes(folder: Path, ids: tuple[str, ...]) -> Tensor:
    """Compute pHash of image files as they are: 64 bits, (N, 64)."""
    rows = []
    for name in ids:
        with Image.open(folder / name) as image:
            rows.append(torch.from_numpy(imagehash.phash(image).hash.flatten()))
    return torch.stack(rows)


def rivals(train: Images, test: Images, folder: Path) -> dict[str, list[Tensor]]:
    """Make the features of test images that need no run; a method with several fits is scored by their mean."""
    pixels = pixel_floats(train), pixel_floats(test)
    components = principal(*pixels, BITS)
    return {
        "pixels": [pixels[1]],
        "pca-sign": [components[1] > 0],
        "itq": [fit[1] for fit in itq_fits(*components, BITS)],
        "imagehash": [perceptual_hashes(folder, test.ids)],
    }


def data_of(config: Config, folder: Path) -> Data:
    """Read the collection as a run reads its own images."""
    return config.data.model_copy(update={"name": "folder", "root": folder, "limit": None})


def of_run(run: Path, folder: Path, simclr: bool = False) -> tuple[tuple[str, ...], dict[str, list[Tensor]]]:
    """Make a run's features of the test images: `bits` and `h`, or `simclr-itq`."""
    model, config = runs.load_model(run)
    test = load_data(data_of(config, folder), "test")
    b = extract(model, test.pixels, config.views)
    if simclr:
        a = extract(model, load_data(data_of(config, folder), "train").pixels, config.views)
        return test.ids, {"simclr-itq": [fit[1] for fit in itq_fits(a.h, b.h, BITS)]}
    if b.bits is None:
        raise ValueError(f"{run} has no bits; a run of SimCLR is named by --simclr")
    return test.ids, {"bits": [b.bits], "h": [b.h]}


def compare(collection: str, folder: Path, found: Iterator[tuple[tuple[str, ...], dict[str, list[Tensor]]]]) -> Scores:
    """Score all features at both tasks."""
    scores: Scores = {task: {} for task in TASKS[collection]}
    for ids, methods in found:
        variants = read_variants(folder, ids)
        for name, fits in methods.items():
            for task, another_source in zip(TASKS[collection], (False, True), strict=True):
                each = [score(fit, variants, another_source) for fit in fits]
                mean = {key: round(sum(fit[key] for fit in each) / len(each), 2) for key in each[0]}
                scores[task][name] = mean
                print(
                    f"{task:14s} {name:11s}" + "".join(f"  {key} {value:g}" for key, value in mean.items()), flush=True
                )
    return scores


def main() -> None:
    """Score a collection for each seed, and collect all seeds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("collection", choices=list(KINDS))
    parser.add_argument("--run", type=Path, nargs="+", default=[], help="finished runs of StochCon, one a seed")
    parser.add_argument("--simclr", type=Path, nargs="+", default=[], help="finished runs of SimCLR, one a seed")
    parser.add_argument("--root", type=Path, default=ROOT)
    options = parser.parse_args()
    folder = options.root.expanduser() / options.collection
    if not (folder / "groups.json").exists():
        parser.error(f"{folder} is no collection; make it: python -m benchmarks.collections.make {options.collection}")
    own, theirs = ({runs.read_config(run).seed: run for run in given} for given in (options.run, options.simclr))
    data = recipe("folder", data={"root": folder}).data
    train, test = load_data(data, "train"), load_data(data, "test")
    without_run = rivals(train, test, folder)

    def found(seed: int) -> Iterator[tuple[tuple[str, ...], dict[str, list[Tensor]]]]:
        yield test.ids, without_run
        if seed in own:
            yield of_run(own[seed], folder)
        if seed in theirs:
            yield of_run(theirs[seed], folder, simclr=True)

    for seed in sorted(own.keys() | theirs.keys()) or [0]:
        counts = {"train": len(train), "test": len(test)}
        content = {"images": counts, "scores": compare(options.collection, folder, found(seed))}
        atomic.write_json(OUT / f"{options.collection}-{seed}.json", content)
    summarise()


def summarise() -> None:
    """Collect the top-1 of every collection and seed."""
    summary: dict[str, dict[str, dict[str, list[float]]]] = {}
    for path in sorted(OUT.glob("*-[0-9]*.json")):
        of_collection = summary.setdefault(path.stem.rpartition("-")[0], {})
        for task, methods in json.loads(path.read_text())["scores"].items():
            for method, values in methods.items():
                of_collection.setdefault(task, {}).setdefault(method, []).append(values["top1"])
    atomic.write_json(OUT / "summary.json", summary)
