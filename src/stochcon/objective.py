"""Equation 1, InfoNCE: over two views, and over every pair of a multi-crop, with everyone's negatives.

Shapes: T top views, B bottom views, N images of this process, M images of all processes, D dimensions.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stochcon.distributed import gather, rank, world_size

BLOCK = 2**22
"""Similarities of top views that are in memory at a time; larger batches are taken a block of anchors after another."""


def info_nce(v: Tensor, v_prime: Tensor, temperature: float = 0.2) -> Tensor:
    """Equation 1 averaged over the 2N anchors of two batches of views.

    v, v_prime: (N, D) embeddings of two views of the same N images, not yet normalised.
    temperature: tau, positive. Returns a scalar. Raises ValueError when the shapes do not pair up.

    >>> v = torch.eye(4)
    >>> same, other = info_nce(v, v, 0.1), info_nce(v, v.roll(1, 0), 0.1)
    >>> bool(same < 0.01 < other)
    True
    """
    if v.dim() != 2 or v.shape != v_prime.shape:
        raise ValueError(
            f"info_nce needs two (N, D) tensors, not {tuple(v.shape)} and {tuple(v_prime.shape)}"
        )
    return multi_crop_info_nce(v[None], v_prime[None], temperature)


def multi_crop_info_nce(top: Tensor, bottom: Tensor, temperature: float = 0.2) -> Tensor:
    """The mean of equation 1 over every pair of a top view with any other view; each pair has its own 2M candidates.

    top: (T, N, D), bottom: (B, N, D) embeddings, not yet normalised; candidates come from all processes.

    >>> top, bottom = torch.randn(2, 8, 16), torch.randn(6, 8, 16)
    >>> multi_crop_info_nce(top, bottom, 0.2).shape
    torch.Size([])
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; it must be positive")
    if top.dim() != 3 or bottom.dim() != 3 or top.shape[1:] != bottom.shape[1:]:
        raise ValueError(
            f"top (T, N, D) and bottom (B, N, D) do not pair up: {tuple(top.shape)}, {tuple(bottom.shape)}"
        )
    precision = torch.promote_types(top.dtype, torch.float32)
    with torch.autocast(
        top.device.type, enabled=False
    ):  # bf16 similarities say little at a small temperature
        return _multi_crop(top.to(precision), bottom.to(precision), temperature)


def _multi_crop(top: Tensor, bottom: Tensor, temperature: float) -> Tensor:
    views = torch.cat([F.normalize(top, dim=-1), F.normalize(bottom, dim=-1)])
    everyone = gather(views).transpose(0, 1).flatten(1, 2)  # (V, M, D)
    together = max(1, BLOCK // (len(top) * len(views) * everyone.shape[1]))
    if together >= views.shape[1]:
        return _of_anchors(views, everyone, 0, len(top), temperature)
    value: Tensor = _InBlocks.apply(views, everyone, together, len(top), temperature)
    return value


class _InBlocks(torch.autograd.Function):
    """The mean of `_of_anchors` over blocks of anchors, each differentiated as soon as it is known.

    So the similarities of one block are in memory, whatever N and M, and none is computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any, views: Tensor, everyone: Tensor, together: int, n_top: int, temperature: float
    ) -> Tensor:
        views, everyone = (x.detach().requires_grad_(x.requires_grad) for x in (views, everyone))
        n, total = views.shape[1], views.new_zeros(())
        for first in range(0, n, together):
            with torch.set_grad_enabled(views.requires_grad):
                some = views[:, first : first + together]
                value = _of_anchors(some, everyone, first, n_top, temperature) * (some.shape[1] / n)
            if value.requires_grad:
                value.backward()
            total += value.detach()
        ctx.gradients = views.grad, everyone.grad
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        of_views, of_everyone = ctx.gradients
        return gradient * of_views, gradient * of_everyone, None, None, None


def _of_anchors(views: Tensor, everyone: Tensor, first: int, n_top: int, temperature: float) -> Tensor:
    """The mean over the anchors of some images: views (V, N, D), this process's images first, first + 1, ..."""
    n_bottom, n = len(views) - n_top, views.shape[1]
    top, bottom = views[:n_top], views[n_top:]
    i = torch.arange(n, device=views.device)
    mine = rank() * (everyone.shape[1] // world_size()) + first + i  # where the images stand among the M

    # log sum exp of the similarities of an anchor in one view (rows) to all images in another (columns);
    # an anchor is no candidate of its own.
    similar = torch.einsum("aid,wjd->aiwj", top, everyone) / temperature  # (T, N, V, M)
    positive = similar[:, i, :, mine]  # (N, T, V)
    t = torch.arange(n_top, device=views.device)
    alone = similar.new_full((), -torch.inf)
    masked = similar.index_put((t[:, None], i, t[:, None], mine), alone)
    top_to = masked.logsumexp(dim=3)  # (T, N, V)
    if n == everyone.shape[1]:
        bottom_to_top = similar[:, :, n_top:].logsumexp(dim=1).permute(1, 2, 0)  # (B, N, T)
    else:
        bottom_to_top = (torch.einsum("bid,ajd->biaj", bottom, everyone[:n_top]) / temperature).logsumexp(
            dim=3
        )
    own = torch.einsum("bid,bjd->bij", bottom, everyone[n_top:]) / temperature
    b = torch.arange(n_bottom, device=views.device)
    bottom_to_own = own.index_put((b[:, None], i, mine), alone).logsumexp(dim=2)  # (B, N)

    # loss of a pair (a, w), summed over its two directions: -2 sim(a, w) + the two log denominators
    loss = views.new_zeros(())
    for a in range(n_top):
        to_self = top_to[a, :, a]
        for w in range(a + 1, n_top):
            loss = loss + torch.logaddexp(to_self, top_to[a, :, w]).mean() - 2 * positive[:, a, w].mean()
            loss = loss + torch.logaddexp(top_to[w, :, w], top_to[w, :, a]).mean()
        loss = loss + torch.logaddexp(to_self[:, None], top_to[a, :, n_top:]).mean(0).sum()
        loss = loss + torch.logaddexp(bottom_to_own, bottom_to_top[:, :, a]).mean(1).sum()
        loss = loss - 2 * positive[:, a, n_top:].mean(0).sum()
    pairs = n_top * (n_top - 1) // 2 + n_top * n_bottom
    return loss / (2 * pairs)


def decorrelation(phi: Tensor) -> Tensor:
    """Extension: the squared off-diagonal correlations of the logits, summed and divided by their number of units.

    phi: (..., D), over all leading dimensions and all processes. Zero when no two units say the same.

    >>> x = torch.randn(1000, 1, dtype=torch.float64)
    >>> round(decorrelation(torch.cat([x, x], dim=1)).item(), 6)
    1.0
    """
    phi = gather(phi).flatten(0, -2)
    phi = F.normalize(phi - phi.mean(0), dim=0)
    correlation = phi.T @ phi
    return (correlation.square().sum() - correlation.diagonal().square().sum()) / phi.shape[1]
