"""The cost of a run on other machines: a model of a step, fed with measurements and with named assumptions.

`python -m benchmarks.scaling` prints the predictions, and puts them and the measured tables into
docs/scaling.md.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from timm import create_model
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import RESULTS, Row
from benchmarks.report import fill, table

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"


def utilisation(folder: Path = RESULTS) -> float:
    """Read which share of its peak a GPU reached in a step of ResNet-50 (`benchmarks.gpu`), or guess a tenth."""
    file = folder / "gpu-steps-resnet50-224.json"
    if not file.exists():
        return 0.1
    rows = [row for row in json.loads(file.read_text())["rows"] if row["views"] == "2 + 8"]
    return next(row["share of the peak (%)"] for row in rows if row["program"] == "stochcon, SimCLR, compiled") / 100


@dataclass(frozen=True)
class Machine:
    """Assumptions, none of them measured here: data sheets of an H100 node, and guesses without any."""

    gpus: int = 8
    node: int = 8
    """GPUs a node."""
    cores: float = 14
    """CPU cores a GPU, for decoding."""
    flops: float = 989e12
    """Dense bf16 operations a second, by the data sheet."""
    utilisation: float = field(default_factory=utilisation)
    """The share of them that a ResNet reaches: batch norm and ReLU wait for memory. Measured, or a guess."""
    memory: float = 3.35e12 * 0.6
    """Bytes a second between a GPU and its memory: data sheet, times a guess of what is reached."""
    nvlink: float = 450e9 * 0.8
    """Bytes a second and direction of a GPU to the others of its node: data sheet, times a guess."""
    network: float = 50e9 * 0.8
    """Bytes a second of a GPU to other nodes: 400 Gbit/s InfiniBand, times a guess."""
    latency: float = 30e-6
    """Seconds of the smallest exchange."""
    disk: float = 1e9
    """Bytes a second of a checkpoint."""
    dollars: float = 3.0
    """The price of one GPU for an hour. A guess."""

    @property
    def link(self) -> float:
        """Return the bytes a second of the slowest exchange."""
        return self.nvlink if self.gpus <= self.node else self.network


@dataclass(frozen=True)
class Job:
    """ImageNet as the paper would have it: ResNet-50, batch 4096, 2 + 8 views."""

    images: float = 1.281e6
    epochs: int = 100
    batch: int = 4096
    network: str = "resnet50"
    large: int = 224
    small: int = 96
    local_views: int = 8
    embedding: int = 128
    canvas: int = 224
    checkpoint_every: int = 100
    view_passes: int = 30
    """How often each float32 value of a view is read or written while it is made. A guess."""

    @property
    def pixels(self) -> int:
        """Return the pixels of all views of an image."""
        return 2 * self.large**2 + self.local_views * self.small**2


@cache
def weights(network: str) -> int:
    """Count the parameters."""
    with torch.device("meta"):
        return sum(p.numel() for p in create_model(network, num_classes=0).parameters())


@cache
def forward_flops(network: str, side: int) -> int:
    """Count the operations of one image's forward pass; a multiplication and an addition are two.

    >>> round(forward_flops("resnet50", 224) / 1e9, 1)
    8.2
    """
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        create_model(network, num_classes=0).eval()(torch.empty(1, 3, side, side))
    return counter.get_total_flops()


@cache
def norms(network: str) -> int:
    """Count the layers of batch norm."""
    with torch.device("meta"):
        modules = create_model(network, num_classes=0).modules()
        return sum(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in modules)


def step(job: Job, machine: Machine, decoded: float) -> dict[str, float]:
    """Predict the seconds of the parts of one step; `decoded` is the images a second that one core decodes.

    decode      images of a GPU / (its cores * decoded); hidden behind the rest
    views       images * pixels * 3 channels * 4 bytes * passes / memory bandwidth
    network     images * 3 * FLOPs of a forward (the backward is two) / (peak * utilisation)
    gradients   all-reduce: 2 (P - 1) / P * weights * 4 bytes / link; DDP hides some of it behind the backward
    gather      embeddings: all-gather and, backwards, all-reduce:
                3 (P - 1) / P * batch * views * width * 4 / link
    contrast    3 * 2 * images * (2 batch) * width FLOPs for each pair of views, at a tenth of float32's peak
    batch norm  3 exchanges a layer and size of view, of which latency is all that counts
    checkpoint  weights * 4 bytes * 2 (momentum) / disk, every so many steps
    """
    mine = job.batch / machine.gpus
    others = (machine.gpus - 1) / machine.gpus
    views = 2 + job.local_views
    flops = 2 * forward_flops(job.network, job.large) + job.local_views * forward_flops(job.network, job.small)
    pairs = 2 * (job.local_views or 1)
    return {
        "decode": mine / (machine.cores * decoded),
        "views": mine * job.pixels * 3 * 4 * job.view_passes / machine.memory,
        "network": mine * 3 * flops / (machine.flops * machine.utilisation),
        "gradients": 2 * others * weights(job.network) * 4 / machine.link,
        "gather": 3 * others * job.batch * views * job.embedding * 4 / machine.link,
        "contrast": 3 * 2 * mine * 2 * job.batch * job.embedding * pairs / (67e12 / 10),
        "batch norm": 3 * 2 * norms(job.network) * machine.latency if machine.gpus > 1 else 0.0,
        "checkpoint": weights(job.network) * 4 * 2 / machine.disk / job.checkpoint_every,
    }


def total(parts: dict[str, float]) -> float:
    """Add up the seconds of a step; decoding runs beside all the rest."""
    return max(parts["decode"], sum(seconds for name, seconds in parts.items() if name != "decode"))


def hours(job: Job, machine: Machine, decoded: float) -> float:
    """Predict the hours of a whole run."""
    return job.images * job.epochs / job.batch * total(step(job, machine, decoded)) / 3600


def line(xs: list[float], ys: list[float]) -> tuple[float, float]:
    """Fit a line by least squares: y at 0, and what each x adds.

    >>> [round(v, 6) for v in line([1, 2, 3], [5, 7, 9])]
    [3.0, 2.0]
    """
    slope, start = np.polyfit(xs, ys, 1)
    return float(start), float(slope)


def rows_of(name: str) -> list[Row]:
    """Read the rows of a measurement."""
    return json.loads((RESULTS / f"{name}.json").read_text())["rows"]


def fitted() -> list[Row]:
    """Fit lines through the measurements: what does not grow, and what each image adds."""
    lines = []
    for kept in dict.fromkeys(row["kept as"] for row in rows_of("folders")):
        rows = [row for row in rows_of("folders") if row["kept as"] == kept]
        images = [row["images"] for row in rows]
        for what, unit in (("core seconds to list", 1e6), ("MB at most, listing", 1e6)):
            start, slope = line(images, [row[what] for row in rows])
            lines.append({"of": f"{kept}: {what}", "at 0 images": start, "each million adds": slope * unit})
    if (RESULTS / "data-size.json").exists():
        rows = rows_of("data-size")
        start, slope = line([row["images"] for row in rows], [row["seconds"] for row in rows])
        lines.append({"of": "pretrain, 1 epoch: seconds", "at 0 images": start, "each million adds": slope * 1e6})
    return [{key: _rounded(value) for key, value in row.items()} for row in lines]


IMAGENET = Job()
BILLION = Job(images=1e9, epochs=1, batch=32768)
MACHINES = {
    "1 H100": Machine(gpus=1),
    "8 H100s": Machine(),
    "64 H100s": Machine(gpus=64),
    "256 H100s": Machine(gpus=256),
}


def predictions(decoded: float) -> dict[str, list[Row]]:
    """Make the tables of the page, by the name of their marks."""
    parts = {name: step(IMAGENET, machine, decoded) for name, machine in MACHINES.items()}
    imagenet = [
        {"milliseconds of a step": part, **{name: _rounded(1000 * p[part]) for name, p in parts.items()}}
        for part in parts["8 H100s"]
    ]
    runs = []
    for name, job, machines in (
        ("ImageNet, 100 epochs, batch 4096", IMAGENET, ("1 H100", "8 H100s", "64 H100s")),
        ("a billion images, 1 epoch, batch 32768", BILLION, ("8 H100s", "64 H100s", "256 H100s")),
    ):
        for kind in machines:
            for share in sorted({0.05, MACHINES[kind].utilisation, 0.2}):
                machine = replace(MACHINES[kind], utilisation=share)
                seconds, whole = step(job, machine, decoded), hours(job, machine, decoded)
                runs.append(
                    {
                        "run": name,
                        "machine": kind,
                        "utilisation": share,
                        "images per second": _rounded(job.batch / total(seconds)),
                        "hours": _rounded(whole),
                        "dollars": _rounded(whole * machine.gpus * machine.dollars),
                        "the largest part": max(seconds, key=lambda part: seconds[part]),
                    }
                )
    return {"imagenet": imagenet, "runs": runs, "bottlenecks": bottlenecks(decoded)}


def bottlenecks(decoded: float) -> list[Row]:
    """Say where, on 8 H100s and with ImageNet's job, each part takes as long as the network."""
    machine, job = MACHINES["8 H100s"], IMAGENET
    parts = step(job, machine, decoded)
    network = parts["network"]
    between_nodes = machine.network / machine.link
    far = replace(machine, gpus=1 << 20)
    fixed = step(job, far, decoded)
    mine = job.batch / machine.gpus
    return [
        {"part": part, "takes as long as the network": where}
        for part, where in (
            ("decode", f"below {_rounded(machine.cores * parts['decode'] / network)} cores a GPU"),
            (
                "views",
                f"above {_rounded(job.view_passes * network / parts['views'])} passes over a view's values",
            ),
            (
                "gradients",
                f"below {_rounded(mine * fixed['gradients'] / network)} images a GPU and step, between nodes",
            ),
            (
                "gather",
                f"above {_rounded(machine.gpus * network / parts['gather'] * between_nodes)} "
                f"GPUs of {mine:.0f} images each, between nodes",
            ),
            ("contrast", f"at a batch above {_rounded(job.batch * network / parts['contrast'])}"),
            ("batch norm", f"below {_rounded(mine * parts['batch norm'] / network)} images a GPU and step"),
            (
                "checkpoint",
                f"when made every {_rounded(job.checkpoint_every * parts['checkpoint'] / network)} steps",
            ),
        )
    ]


def _rounded(value: object) -> object:
    if not isinstance(value, float):
        return value
    return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def main() -> None:
    """Print the predictions and put them into the page."""
    decode = next(row for row in rows_of("decode") if row["canvas"] == IMAGENET.canvas and row["threads"] == 1)
    decoded = decode["images per core second"]["median"]
    tables = {"fitted": fitted(), **predictions(decoded)}
    page = fill(PAGE.read_text(), RESULTS)
    for name, rows in tables.items():
        body = table({"machine": None, "rows": rows})
        print(f"{name}\n{body}\n")
        page = re.sub(
            rf"<!-- {name} -->.*?<!-- / -->",
            f"<!-- {name} -->\n\n{body}\n\n<!-- / -->",
            page,
            flags=re.DOTALL,
        )
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
