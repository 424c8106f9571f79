"""Equation 1, InfoNCE: over two views, and over every pair of a multi-crop, with everyone's negatives.

Shapes: T top views, B bottom views, N images of this process, M images of all processes, D dimensions.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stochcon.parallel import gather, rank, world_size

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
        needed, n = views.requires_grad, views.shape[1]
        everyone = everyone.detach().requires_grad_(needed)
        total, of_views, of_everyone = views.new_zeros(()), list[Tensor](), torch.zeros_like(everyone)
        for first in range(0, n, together):
            with torch.set_grad_enabled(needed):
                some = views[:, first : first + together].detach().requires_grad_(needed)
                value = _of_anchors(some, everyone, first, n_top, temperature) * (some.shape[1] / n)
            if needed:
                by_some, by_everyone = torch.autograd.grad(value, (some, everyone))
                of_views.append(by_some)
                of_everyone += by_everyone
            total += value.detach()
        if needed:
            ctx.gradients = torch.cat(of_views, dim=1), of_everyone
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        of_views, of_everyone = ctx.gradients
        return gradient * of_views, gradient * of_everyone, None, None, None


class _LogSumExp(torch.autograd.Function):
    """Of the similarities of K anchors to the M images of each of W views: (G, K, D), (G, W M, D) to (G, K, W).

    In G groups; without those at the indices `itself` into (G, K, W M). As matmul and logsumexp would, with
    a third of their passes over the similarities, which are what takes long.
    """

    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        candidates: Tensor,
        n_views: int,
        itself: tuple[Tensor, ...],
        temperature: float,
    ) -> Tensor:
        similar = torch.bmm(anchors / temperature, candidates.mT)
        if itself:
            similar[itself] = -torch.inf
        similar = similar.unflatten(2, (n_views, -1))
        highest = similar.amax(3, keepdim=True).clamp(min=torch.finfo(similar.dtype).min)
        exponential = similar.sub_(highest).exp_()
        total = exponential.sum(3)
        ctx.save_for_backward(anchors, candidates, exponential, total)
        ctx.temperature = temperature
        return total.log() + highest[..., 0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        anchors, candidates, exponential, total = ctx.saved_tensors
        weight = gradient / (total.clamp(min=1) * ctx.temperature)  # the highest adds 1; 0 without candidates
        by_similar = (exponential * weight[..., None]).flatten(2)
        return torch.bmm(by_similar, candidates), torch.bmm(by_similar.mT, anchors), None, None, None


def _of_anchors(views: Tensor, everyone: Tensor, first: int, n_top: int, temperature: float) -> Tensor:
    """The mean over the anchors of some images: views (V, N, D), this process's images first, first + 1, ..."""
    n_bottom, n = len(views) - n_top, views.shape[1]
    top, bottom = views[:n_top], views[n_top:]
    i = torch.arange(n, device=views.device)
    mine = rank() * (everyone.shape[1] // world_size()) + first + i  # where the images stand among the M

    # log sum exp of the similarities of an anchor in one view to all images in another; an anchor is no
    # candidate of its own.
    def to_all(anchors: Tensor, candidates: Tensor, n_views: int, itself: tuple[Tensor, ...]) -> Tensor:
        lse: Tensor = _LogSumExp.apply(anchors, candidates, n_views, itself, temperature)
        return lse

    t, b = (torch.arange(x, device=views.device)[:, None] for x in (n_top, n_bottom))
    at = t * everyone.shape[1] + mine
    top_to = to_all(top.flatten(0, 1)[None], everyone.flatten(0, 1)[None], len(views), (t * 0, t * n + i, at))
    top_to = top_to.view(n_top, n, -1)  # (T, N, V)
    bottom_to_top = to_all(bottom.flatten(0, 1)[None], everyone[:n_top].flatten(0, 1)[None], n_top, ())
    bottom_to_top = bottom_to_top.view(n_bottom, n, n_top)  # (B, N, T)
    bottom_to_own = to_all(bottom, everyone[n_top:], 1, (b, i, mine))[..., 0]  # (B, N)
    positive = torch.einsum("tid,vid->itv", top, views) / temperature  # (N, T, V)

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
