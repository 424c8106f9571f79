"""What the processes of one run exchange: embeddings with their gradient, and batch norm's statistics."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous


def world_size() -> int:
    """The number of processes of this run; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number; 0 without torch.distributed."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def local_world_size() -> int:
    """The number of processes of this run on this machine, as torchrun or SLURM says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("SLURM_NTASKS_PER_NODE") or 1)


def meet_again() -> None:
    """When torchrun has restarted the processes: join them under keys of this attempt.

    They share one store with the processes before them, whose addresses are still in it; to connect to one
    of those hangs or fails.
    """
    if restarted() and int(os.environ["WORLD_SIZE"]) > 1:
        store, rank, world = next(rendezvous("env://"))
        attempt = PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=attempt, rank=rank, world_size=world)


def restarted() -> bool:
    """Whether torchrun has started the processes again after one of them died (its --max-restarts)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


T = TypeVar("T")


def everyones(value: T) -> list[T]:
    """Every process's value, in the order of their numbers."""
    values: list[Any] = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


LOST = re.compile("closed by peer|reset by peer|broken pipe|remote process exited|timed out", re.IGNORECASE)


@contextmanager
def resumable(how: str) -> Iterator[None]:
    """Around a run: what to say when it is told to stop, or when one of its processes is lost.

    SIGTERM becomes a KeyboardInterrupt, as Ctrl-C is; the connections that the death of another process
    breaks become a ConnectionError. Both say how to go on.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(how) from None
    except RuntimeError as error:
        if world_size() > 1 and LOST.search(str(error)):
            raise ConnectionError(f"process {rank()} has lost another process of this run; {how}") from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        mine = mine.contiguous()
        everyone = [torch.empty_like(mine) for _ in range(world_size())]
        dist.all_gather(everyone, mine)
        return torch.stack(everyone)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient[rank()]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        total = mine.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


def gather(mine: Tensor) -> Tensor:
    """Everyone's tensor of shape (...) as (world, ...), with the gradient of every process's use of mine.

    The gradients that come back are summed over processes, so the mean over processes that data-parallel
    training takes afterwards is the gradient of the mean of the processes' losses.
    """
    return mine[None] if world_size() == 1 else _Gather.apply(mine)


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over all processes on any device (torch's own refuses CPUs), statistics in float32 at least.

    Its children, the dropout and activation that timm puts into some batch norms, are applied afterwards.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {x.dim()}")

    def forward(self, x: Tensor) -> Tensor:
        out = self._synchronised(x) if self.training and world_size() > 1 else super().forward(x)
        for child in self.children():
            out = child(out)
        return out

    def _synchronised(self, x: Tensor) -> Tensor:
        dtype, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))
        over = [d for d in range(x.dim()) if d != 1]
        shape = [-1 if d == 1 else 1 for d in range(x.dim())]
        size = x.new_tensor([x.numel() / x.shape[1]])
        total = _Sum.apply(torch.cat([x.sum(over), size]))
        mean = total[:-1] / total[-1]
        centred = x - mean.view(shape)
        variance = _Sum.apply((centred * centred).sum(over)) / total[-1].detach()
        update_running(self, mean.detach(), variance.detach(), total[-1])
        out = centred * torch.rsqrt(variance + self.eps).view(shape)
        return (out * self.weight.view(shape) + self.bias.view(shape) if self.affine else out).to(dtype)


@torch.no_grad()
def update_running(
    norm: nn.modules.batchnorm._BatchNorm, mean: Tensor, variance: Tensor, size: Tensor
) -> None:
    """Moves running statistics towards those of `size` values a channel, as torch's batch norm does."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked += 1
    momentum = 0.1 if norm.momentum is None else norm.momentum
    unbiased = variance * size / (size - 1)
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
    norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), momentum)


def synchronise_batch_norm(module: nn.Module) -> nn.Module:
    """The module with every batch norm replaced by one over all processes; parameters and statistics are kept."""
    if any(p.is_cuda for p in module.parameters()):
        return convert_sync_batchnorm(module)
    for name, child in module.named_children():
        setattr(module, name, synchronise_batch_norm(child))
    if not isinstance(module, nn.modules.batchnorm._BatchNorm):
        return module
    synced = SyncBatchNorm(module.num_features)
    synced.__dict__.update(module.__dict__)  # parameters, statistics, settings and children
    return synced
