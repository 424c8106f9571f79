"""Batch norm over a whole batch that passes through the network chunk by chunk, in the memory of a chunk.

A layer's statistics depend on those of the layers before it and on no others. So pass all chunks through
the network with guessed statistics, measure them, and again: each pass makes at least one more layer exact,
until nothing changes. The gradients by the statistics settle in the same way, from the last layer to the
first. L calls of a batch norm take at most L + 1 passes forward and L + 1 back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stochcon.parallel import gather, update_running

ROUNDING = 32
"""What changes by at most so many units of rounding has settled."""


class ChunkedBatchNorm:
    """What the calls of a network's batch norms normalise by. A layer that is called for each size of view has a call for each.

    Moments and gradients by them are (2, C): mean and variance of every channel.
    """

    def __init__(self) -> None:
        self.norms: list[_BatchNorm] = []  # whose the calls are
        self.moments: list[Tensor] = []
        self.gradients: list[Tensor] = []
        self.sizes: list[Tensor] = []  # how many values a channel has, over all chunks and processes
        self._call = 0
        self._chunks: list[list[Tensor]] = []  # size, mean and variance of every chunk so far
        self._through: list[Tensor] = []

    @contextmanager
    def in_place_of(self, network: nn.Module) -> Iterator[None]:
        """The training batch norms of the network normalise by the moments; at the end their running statistics move, once."""
        norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.training]
        for norm in norms:
            norm.__dict__["forward"] = partial(self._normalise, norm)
        try:
            yield
        finally:
            for norm in norms:
                del norm.__dict__["forward"]
        for norm, (mean, variance), size in zip(self.norms, self.moments, self.sizes, strict=True):
            update_running(norm, mean.detach(), variance.detach(), size)

    def start_chunk(self) -> None:
        self._call, self._through = 0, []

    def through_moments(self) -> Tensor:
        """What has, by the inputs of this chunk's calls, the gradient that reaches them through the moments."""
        return torch.stack(self._through).sum()

    def measured(self) -> bool:
        """After a pass without gradients: takes its moments. True if they are those that it used."""
        before, self.moments, self.sizes = self.moments, [], []
        for chunks in self._chunks:
            size, mean, variance = gather(torch.stack(chunks)).flatten(0, 1).unbind(1)
            total = size.sum(0)
            whole = (size * mean).sum(0) / total
            spread = (size * (variance + (mean - whole).square())).sum(0) / total
            self.moments.append(torch.stack([whole, spread]))
            self.sizes.append(total[0])
        self._chunks = []
        return _settled(before, self.moments)

    def differentiate(self) -> None:
        """From here on the moments are leaves, whose gradients are yet unknown."""
        for moments in self.moments:
            moments.requires_grad_()
        self.gradients = [torch.zeros_like(moments) for moments in self.moments]

    def take(self, gradients: list[Tensor]) -> bool:
        """After a pass with gradients: takes those by the moments. True if they are those that it used."""
        before, self.gradients = self.gradients, [gather(x).sum(0) for x in gradients]
        return _settled(before, self.gradients)

    def _normalise(self, norm: _BatchNorm, x: Tensor) -> Tensor:
        call, self._call = self._call, self._call + 1
        dtype, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))
        over, shape = [d for d in range(x.dim()) if d != 1], [-1 if d == 1 else 1 for d in range(x.dim())]
        if not torch.is_grad_enabled():
            variance, mean = torch.var_mean(x, over, correction=0)
            size = torch.full_like(mean, x.numel() / len(mean))
            if call == len(self.norms):  # a first guess
                self.norms.append(norm)
                self.moments.append(gather(torch.stack([mean, variance])).mean(0))
            if call == len(self._chunks):
                self._chunks.append([])
            self._chunks[call].append(torch.stack([size, mean, variance]))
        mean, variance = self.moments[call]
        centred = x - mean.view(shape)
        if torch.is_grad_enabled():
            # The squares' gradient by the mean is zero: they are smallest about it.
            by_mean, by_variance = self.gradients[call] / self.sizes[call]
            self._through.append(by_mean @ x.sum(over) + by_variance @ centred.square().sum(over))
        scale = torch.rsqrt(variance + norm.eps)
        if norm.affine:
            out = torch.addcmul(norm.bias.view(shape), centred, (norm.weight * scale).view(shape))
        else:
            out = centred * scale.view(shape)
        out = out.to(dtype)
        for child in norm.children():  # timm's dropout and activation
            out = child(out)
        return out


def _settled(before: list[Tensor], after: list[Tensor]) -> bool:
    return all(
        bool(((b - a).norm(dim=1) <= ROUNDING * torch.finfo(a.dtype).eps * a.norm(dim=1)).all())
        for b, a in zip(before, after, strict=True)
    )
