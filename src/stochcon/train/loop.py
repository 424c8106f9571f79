"""The one training loop: processes, optimizer, schedules, order, randomness, checkpoints, resuming and the log.

Everything random in step t is a function of (seed, t, rank), and the order of epoch e of (seed, e). So a run that
was killed at any moment and resumed ends with the same bits as one that never stopped, and no state of any generator
is stored.
"""

import atexit
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers.logger import Logger
from rich.progress import TextColumn
from timm.optim.lars import Lars
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from stochcon import config, parallel, runs
from stochcon.parallel import rank, world_size
from stochcon.report import progress_bar

Batch = TypeVar("Batch")


def launch(precision: Literal["32-true", "bf16-mixed", "64-true"] = "32-true") -> Fabric:
    """Start Fabric on this machine's best device, over all processes if torchrun or SLURM started several."""
    local, world = parallel.launched_local_world_size(), parallel.launched_world_size()
    fabric = Fabric(
        devices=local if world > 1 else 1,
        num_nodes=max(1, world // local),
        strategy="ddp" if world > 1 else "auto",
        precision=precision,
    )
    parallel.rejoin_process_group()
    fabric.launch()
    if world > 1:
        atexit.register(parallel.leave_process_group)
    return fabric


def build_optimizer(
    model: nn.Module, options: config.Optimizer, factor: Callable[[str], float] = lambda name: 1.0
) -> Optimizer:
    """Make LARS or AdamW; biases and normalisation parameters are excluded from decay and from LARS's adaptation.

    A parameter has the learning rate times the `factor` of its name.
    """
    named: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        named.setdefault((p.ndim <= 1, factor(name)), []).append(p)
    groups = [
        {"params": parameters, "weight_decay": 0.0 if excluded else options.weight_decay, "factor": each}
        for (excluded, each), parameters in sorted(named.items(), key=lambda item: item[0])
    ]
    if options.name == "lars":  # timm adapts just those groups that decay
        return Lars(groups, lr=options.lr, momentum=0.9)
    return AdamW(groups, lr=options.lr, fused=True)  # one pass over the weights instead of about ten


def cosine(step: int, steps: int, start: float, end: float) -> float:
    """Go from start at step 0 to end at the last of `steps`, along half a cosine.

    >>> [round(cosine(t, 5, 1.0, 0.1), 3) for t in range(5)]
    [1.0, 0.868, 0.55, 0.232, 0.1]
    """
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, steps - 1))))


def warmup_cosine(step: int, steps: int, warmup: int, peak: float) -> float:
    """Rise linearly over `warmup` steps, then fall along one cosine, which would be zero at step `steps`.

    >>> [round(warmup_cosine(t, 8, 2, 1.0), 3) for t in range(8)]
    [0.5, 1.0, 1.0, 0.933, 0.75, 0.5, 0.25, 0.067]
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return cosine(step - warmup, steps - warmup + 1, peak, 0.0)


def derive_seed(*parts: int) -> int:
    """Derive a seed that depends on all of the parts, and on nothing else."""
    return int.from_bytes(sha256(repr(parts).encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True)
class Schedule:
    """How long a training is and which images are in each step; the order of epoch e is a function of (seed, e).

    Example:
        >>> schedule = Schedule(images=10, batch_size=3, epochs=2, seed=0, log_every=1, checkpoint_every=2)
        >>> schedule.steps, [schedule.due(done, 4) for done in range(1, 7)]
        (6, [False, False, False, True, False, True])
    """

    images: int
    batch_size: int
    """Images in a step, over all processes; the rest of an epoch is dropped."""
    epochs: int
    seed: int
    log_every: int
    checkpoint_every: int

    @property
    def per_epoch(self) -> int:
        """Return the steps of an epoch."""
        return self.images // self.batch_size

    @property
    def steps(self) -> int:
        """Return the steps of the whole training."""
        return self.per_epoch * self.epochs

    def due(self, done: int, every: int) -> bool:
        """Whether something is due after `done` steps that is done every so many steps, and after the last."""
        return done == self.steps or done % every == 0

    def order(self, start: int = 0) -> Iterator[Tensor]:
        """Yield this process's share of the indices of steps start, start + 1, ..."""
        share = self.batch_size // world_size()
        epoch = -1
        for step in range(start, self.steps):
            if step // self.per_epoch != epoch:
                epoch = step // self.per_epoch
                generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch))
                order = torch.randperm(self.images, generator=generator)
            at = step % self.per_epoch * self.batch_size + rank() * share
            yield order[at : at + share]


class Loop:
    """The steps of one training, which go on from the directory's checkpoint if there is one.

    `digest` is a hash of the images, which a checkpoint must have been made with, and `advice` says what to do when the
    loss is not finite. Raises ValueError for a checkpoint that does not fit, or if processes disagree.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        directory: Path,
        schedule: Schedule,
        *,
        digest: str,
        title: str,
        advice: str,
        progress: bool,
    ):
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        self.digest, self.advice, self.checkpoint = digest, advice, directory / runs.CHECKPOINT
        self.done = 0
        if rank() == 0:  # what a process that was killed had begun to write
            for partial in self.checkpoint.parent.glob(f"{self.checkpoint.name}.*.partial"):
                partial.unlink()
        if self.checkpoint.exists():
            self.done = load_checkpoint(self.checkpoint, model, optimizer, digest)
        if len(set(parallel.all_gather_object((self.done, digest)))) > 1:
            wrong = f"the processes see different images, or not the same {directory}"
            raise ValueError(f"{wrong}: all must share the files")
        self.log = runs.Log(directory / runs.LOG, self.done) if rank() == 0 else None
        self.bar = progress_bar(progress and rank() == 0, TextColumn("{task.fields[loss]}"))
        fields: dict[str, Any] = {"images": schedule.batch_size, "loss": ""}
        self.task = self.bar.add_task(title, total=schedule.steps, completed=self.done, **fields)
        self.losses: list[Tensor] = []  # since the last line, since to look at one waits for the device
        self.note = ""  # shown beside the loss
        self.logger: Logger | None = None  # receives each line of the log too
        self.began = self.since = time.perf_counter()

    def steps(
        self, batches: Callable[[Iterator[Tensor]], Iterable[Batch]], lr: Callable[[int], float]
    ) -> Iterator[tuple[int, Batch]]:
        """Yield number and batch of each step that is left, its learning rate set; `record` is to be called in each.

        `batches` turns the indices of the steps into batches, perhaps some steps ahead.
        """
        with self.bar:
            for step, batch in enumerate(batches(self.schedule.order(self.done)), self.done):
                for group in self.optimizer.param_groups:
                    group["lr"] = lr(step) * group["factor"]
                yield step, batch

    def record(self, loss: Tensor, **details: float | Tensor) -> bool:
        """Count a step as done, and write a line of the log and a checkpoint when they are due.

        Returns whether a checkpoint was due. Raises FloatingPointError for a loss that has not been finite.
        """
        self.losses.append(loss.detach())
        self.done += 1
        self.bar.update(self.task, advance=1)
        save = self.schedule.due(self.done, self.schedule.checkpoint_every)
        if save or self.schedule.due(self.done, self.schedule.log_every):
            self._write_line(details)
        if save and rank() == 0:
            save_checkpoint(self.checkpoint, self.done, self.model, self.optimizer, self.digest)
        return save

    def _write_line(self, details: dict[str, float | Tensor]) -> None:
        losses = torch.stack(self.losses)
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            step = self.done - len(losses) + int(bad[0]) + 1
            if self.log:  # `stochcon check` reads it; a resumed run drops it
                self.log.append({"step": step, "epoch": step / self.schedule.per_epoch, "loss": None})
            raise FloatingPointError(f"the loss is not finite at step {step}: {self.advice}")
        mean, images = losses.mean().item(), len(losses) * self.schedule.batch_size
        seconds, self.since, self.losses = time.perf_counter() - self.since, time.perf_counter(), []
        self.bar.update(self.task, loss=f"loss {mean:.3f}{self.note}")
        if self.log:
            entry = {"step": self.done, "epoch": self.done / self.schedule.per_epoch, "loss": mean}
            entry |= {"lr": self.optimizer.param_groups[0]["lr"]} | {k: float(v) for k, v in details.items()}
            entry["seconds"], entry["images_per_second"] = round(self.since - self.began, 1), round(images / seconds, 1)
            self.log.append(entry)
            if self.logger:
                self.logger.log_metrics({name: value for name, value in entry.items() if name != "step"}, self.done)


def save_checkpoint(path: Path, step: int, model: nn.Module, optimizer: Optimizer, digest: str) -> None:
    """Write parameters, buffers and the optimizer's state after `step` steps as one safetensors file."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    states: Any = optimizer.state_dict()["state"]
    for index, state in states.items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    runs.write_tensors(path, tensors, step=str(step), data=digest)


def load_checkpoint(path: Path, model: nn.Module, optimizer: Optimizer, digest: str) -> int:
    """Go back to where `save_checkpoint` was, and return the number of steps done. Raises ValueError if it cannot."""
    tensors, metadata = runs.read_tensors(path)
    if metadata.get("data") != digest:
        raise ValueError(f"{path} was made with other training images; bring those back, or start a new run")
    try:
        model.load_state_dict({k.removeprefix("model."): t for k, t in tensors.items() if k.startswith("model.")})
    except RuntimeError as error:
        raise ValueError(f"{path} is of another model: {str(error).splitlines()[-1].strip()}") from None
    parameters: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, index, slot = key.split(".")
            like = parameters[int(index)]
            if tensor.shape == like.shape:  # strides as the optimizer would have made them
                tensor = torch.empty_like(like).copy_(tensor)
            states.setdefault(int(index), {})[slot] = tensor
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(metadata["step"])
