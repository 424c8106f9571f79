"""What every kind of training here shares: processes, optimizer, schedules, order, randomness, checkpoints, progress.

Everything random in step t is a function of (seed, t, rank), and the order of epoch e of (seed, e). So a
run that was killed at any moment and resumed ends with the same bits as one that never stopped, and no
state of any generator is stored.
"""

from __future__ import annotations

import atexit
import math
import os
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from timm.optim.lars import Lars
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from stochcon import runs
from stochcon.config import Optimizer as OptimizerConfig
from stochcon.parallel import leave, meet_again, rank, world_size
from stochcon.program import compute_in_batches, keep_freed_memory

Precision = Literal["32-true", "bf16-mixed", "64-true"]


def launch(precision: Precision = "32-true") -> Fabric:
    """Fabric on this machine's best device; over all processes when torchrun or SLURM started them."""
    keep_freed_memory()
    local = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("SLURM_NTASKS_PER_NODE") or 1)
    world = int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1)
    fabric = Fabric(
        devices=local if world > 1 else 1,
        num_nodes=max(1, world // local),
        strategy="ddp" if world > 1 else "auto",
        precision=precision,
    )
    if fabric.device.type == "cpu":
        compute_in_batches()
    meet_again()
    fabric.launch()
    if world > 1:
        atexit.register(leave)
    return fabric


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """LARS or AdamW; biases and normalisation parameters are excluded from decay, and from LARS's adaptation."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if config.name == "lars":  # timm adapts just those groups that decay
        return Lars(groups, lr=config.lr, momentum=0.9)
    return AdamW(groups, lr=config.lr, fused=True)  # one pass over the weights instead of some ten


def cosine(step: int, steps: int, start: float, end: float) -> float:
    """From start at step 0 to end at the last of `steps`, along half a cosine.

    >>> [round(cosine(t, 5, 1.0, 0.1), 3) for t in range(5)]
    [1.0, 0.868, 0.55, 0.232, 0.1]
    """
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, steps - 1))))


def warmup_cosine(step: int, steps: int, warmup: int, peak: float) -> float:
    """A linear rise over `warmup` steps, then one cosine, which would be zero at step `steps`.

    >>> [round(warmup_cosine(t, 8, 2, 1.0), 3) for t in range(8)]
    [0.5, 1.0, 1.0, 0.933, 0.75, 0.5, 0.25, 0.067]
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return cosine(step - warmup, steps - warmup + 1, peak, 0.0)


def number(*parts: int) -> int:
    """A seed that depends on all of its parts, and on nothing else."""
    return int.from_bytes(sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def batches(images: int, batch_size: int, seed: int, start: int, steps: int) -> Iterator[Tensor]:
    """The indices of steps start, start + 1, ... steps - 1: every epoch a new permutation, the rest dropped."""
    per_epoch = images // batch_size
    epoch = -1
    for step in range(start, steps):
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            order = torch.randperm(images, generator=torch.Generator().manual_seed(number(seed, epoch)))
        at = step % per_epoch * batch_size
        yield order[at : at + batch_size]


def share(batch_size: int) -> slice:
    """This process's part of a batch."""
    return slice(rank() * batch_size // world_size(), (rank() + 1) * batch_size // world_size())


def due(done: int, steps: int, *every: int) -> bool:
    """Whether something that is done every so many steps, and after the last, is due after `done` steps.

    >>> [done for done in range(1, 8) if due(done, 7, 3)]
    [3, 6, 7]
    """
    return done == steps or any(done % often == 0 for often in every)


def save_checkpoint(path: Path, step: int, model: nn.Module, optimizer: Optimizer, digest: str) -> None:
    """Parameters, buffers and the optimizer's state after `step` steps, in one safetensors file."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    states: Any = optimizer.state_dict()["state"]
    for index, state in states.items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    runs.write_tensors(path, tensors, step=str(step), data=digest)


def load_checkpoint(path: Path, model: nn.Module, optimizer: Optimizer, digest: str) -> int:
    """Back to where save_checkpoint was; the number of steps done. Raises ValueError for a file of another run."""
    tensors, metadata = runs.read_tensors(path)
    if metadata.get("data") != digest:
        raise ValueError(f"{path} was made with other training images; bring those back, or start a new run")
    optimizer_state: dict[int, dict[str, Tensor]] = {}
    model_state = {}
    for key, tensor in tensors.items():
        kind, name = key.split(".", 1)
        if kind == "model":
            model_state[name] = tensor
        else:
            parameter, slot = name.split(".", 1)
            optimizer_state.setdefault(int(parameter), {})[slot] = tensor
    try:
        model.load_state_dict(model_state)
    except RuntimeError as error:
        raise ValueError(f"{path} is of another model: {str(error).splitlines()[-1].strip()}") from None
    groups: Any = optimizer.param_groups
    parameters: list[Tensor] = [p for group in groups for p in group["params"]]
    for index, state in optimizer_state.items():
        for slot, tensor in state.items():
            if tensor.shape == parameters[index].shape:  # strides as the optimizer would have made them
                state[slot] = torch.empty_like(parameters[index]).copy_(tensor)
    optimizer.load_state_dict(
        {"state": optimizer_state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
    return int(metadata["step"])


class Speed(ProgressColumn):
    """Images a second. A task has the field batch_size: images in one unit of its progress."""

    def render(self, task: Task) -> Text:
        speed = (task.finished_speed or task.speed or 0) * task.fields["batch_size"]
        return Text(f"{speed:,.0f} images/s", style="cyan")


def progress_bar(shown: bool) -> Progress:
    """A bar with steps, images a second, loss and time left. A task of it has the fields batch_size and loss."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        Speed(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, disable=not shown, speed_estimate_period=60)


class Journal:
    """What a loop tells of itself: a progress bar, and now and then the mean loss, there and in log.jsonl.

    One process tells, but each sees to it that its loss is finite. advice: what to do when it is not.
    """

    def __init__(
        self,
        directory: Path,
        title: str,
        start: int,
        steps: int,
        per_epoch: int,
        batch_size: int,
        progress: bool,
        advice: str,
    ):
        self.per_epoch, self.batch_size, self.advice = per_epoch, batch_size, advice
        self.log = runs.Log(directory / runs.LOG, start) if rank() == 0 else None
        self.bar = progress_bar(progress and rank() == 0)
        self.task = self.bar.add_task(
            title, total=steps, completed=start, batch_size=batch_size, loss=float("nan")
        )
        self.losses: list[Tensor] = []  # since the last line, since to look at one waits for the device
        self.began = self.since = time.perf_counter()

    def __enter__(self) -> Journal:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def add(self, loss: Tensor) -> None:
        """Count a step."""
        self.losses.append(loss.detach())
        self.bar.update(self.task, advance=1)

    def write(self, done: int, details: dict[str, float]) -> None:
        """Tell of the steps since the last time. Raises FloatingPointError, with the step, for a loss that is not finite."""
        losses = torch.stack(self.losses)
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            step = done - len(losses) + int(bad[0]) + 1
            raise FloatingPointError(f"the loss is not finite at step {step}: {self.advice}")
        mean = losses.mean().item()
        seconds, self.since = time.perf_counter() - self.since, time.perf_counter()
        self.bar.update(self.task, loss=mean)
        if self.log:
            self.log.append(
                {"step": done, "epoch": done / self.per_epoch, "loss": mean}
                | details
                | {
                    "seconds": round(self.since - self.began, 1),
                    "images_per_second": round(len(losses) * self.batch_size / seconds, 1),
                }
            )
        self.losses = []
