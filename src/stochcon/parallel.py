"""The processes of one run, which torchrun or SLURM starts: how many they are, and what they exchange."""

import os
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.modules.batchnorm import _BatchNorm

T = TypeVar("T")


def world_size() -> int:
    """Return the number of processes of this run; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number; 0 without torch.distributed."""
    return dist.get_rank() if dist.is_initialized() else 0


def launched_world_size() -> int:
    """Return how many processes torchrun or SLURM has started, whether they have met or not."""
    return int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1)


def launched_rank() -> int:
    """Return this process's number among those."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0)


def launched_local_world_size() -> int:
    """Return how many of those processes are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("SLURM_NTASKS_PER_NODE") or 1)


def restarted() -> bool:
    """Whether torchrun has started the processes again after one of them died (its --max-restarts)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def rejoin_process_group() -> None:
    """Join the processes that torchrun has restarted, under new keys: its store has the old addresses."""
    if restarted() and launched_world_size() > 1:
        store, rank, world = next(rendezvous("env://"))
        attempt = PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=attempt, rank=rank, world_size=world)


def leave_process_group() -> None:
    """End the group's threads. One that is at work when the interpreter ends can abort the process."""
    if dist.is_initialized():
        dist.destroy_process_group()


def all_gather_object(value: T) -> list[T]:
    """Return every process's value, in the order of their numbers."""
    values: list[Any] = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


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
    """Gather everyone's tensor (...), of one shape in all processes, as (world size, ...).

    The gradient sums every process's use of mine. The mean over processes that data-parallel training takes
    afterwards is thus the gradient of the mean of the processes' losses.
    """
    return mine[None] if world_size() == 1 else _Gather.apply(mine)


class _SyncBatchNorm(_BatchNorm):
    """Batch norm over all processes on any device (torch's own refuses CPUs), in float32 at least."""

    def _check_input_dim(self, x: Tensor) -> None:
        """Accept any (N, C, ...)."""

    def forward(self, x: Tensor) -> Tensor:
        out = self._synchronised(x) if self.training and world_size() > 1 else super().forward(x)
        for child in self.children():  # the dropout and activation that timm puts into some batch norms
            out = child(out)
        return out

    def _synchronised(self, x: Tensor) -> Tensor:
        precise = x.to(torch.promote_types(x.dtype, torch.float32))
        out, mean, variance, size = _Normalise.apply(precise, self.weight, self.bias, self.eps)
        if self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
            momentum = 0.1 if self.momentum is None else self.momentum
            unbiased = variance * size / (size - 1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        return out.to(x.dtype)


class _Normalise(torch.autograd.Function):
    """Normalise x (N, C, ...) by everyone's mean and variance, with the fused kernels of torch's batch norm.

    The gradient with respect to x sums all processes' losses. Those with respect to weight and bias are this
    process's share, as data-parallel training wants them. Unfused operations would take half as long again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Any:
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


def synchronise_batch_norm(module: nn.Module) -> nn.Module:
    """Replace every batch norm of a module by one over all processes; parameters and statistics are kept."""
    if any(p.is_cuda for p in module.parameters()):
        return convert_sync_batchnorm(module)
    for name, child in module.named_children():
        setattr(module, name, synchronise_batch_norm(child))
    if not isinstance(module, _BatchNorm):
        return module
    synced = _SyncBatchNorm(module.num_features)
    synced.__dict__.update(module.__dict__)  # parameters, statistics, settings and children
    return synced
