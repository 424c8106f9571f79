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
import torch.nn.functional as F
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


def leave() -> None:
    """Ends this process's part in the group, if it has one, while Python can still join the group's threads.

    Left to the interpreter's own end, a thread of it that is still at work can abort the process.
    """
    if dist.is_initialized():
        dist.destroy_process_group()


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
        precise = x.to(torch.promote_types(x.dtype, torch.float32))
        out, mean, variance, size = _Normalise.apply(precise, self.weight, self.bias, self.eps)
        update_running(self, mean, variance, size)
        return out.to(x.dtype)


class _Normalise(torch.autograd.Function):
    """x (N, C, ...) normalised by everyone's mean and variance, with the fused kernels of torch's own batch norm.

    Written with one operation after another, a step of two CPU processes took half as long again. Gradients sum what
    all processes' losses have by x, and are this process's share by weight and bias, as data-parallel
    training wants them.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, variance = torch.batch_norm_update_stats(x, None, None, 0.0)
        size = torch.full_like(mean, x.numel() / len(mean))
        sizes, means, variances = gather(torch.stack([size, mean, variance])).unbind(1)
        total = sizes.sum(0)
        mean = (sizes * means).sum(0) / total
        variance = (sizes * (variances + (means - mean).square())).sum(0) / total
        ctx.save_for_backward(x, weight, mean, variance, total)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, total)
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps), mean, variance, total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight, mean, variance, total = ctx.saved_tensors
        plain, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )  # as if mean and variance were constants
        through = gather(torch.stack([of_weight, of_bias])).sum(0)  # gloo's all_reduce waits longer
        slope = (1 if weight is None else weight) * (variance + ctx.eps).rsqrt() / total
        plain -= F.batch_norm(x, mean, variance, slope * through[0], slope * through[1], eps=ctx.eps)
        return plain, *((None, None) if weight is None else (of_weight, of_bias)), None


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
