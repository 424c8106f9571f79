"""Equation 1, InfoNCE: between two views, and over the pairs of a multi-crop, with the negatives of all processes.

Shapes: T top views, B bottom views, N images of this process, M images of all processes, D dimensions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from stochcon.parallel import gather, rank

BLOCK = 2**22
"""Similarities of a pair of views that are kept for the gradient; those of larger batches are computed again."""


def info_nce(v: Tensor, v_prime: Tensor, temperature: float = 0.2) -> Tensor:
    """Equation 1, averaged over the 2N anchors of two batches of views.

    Args:
        v: Embeddings of one view of N images, (N, D), not yet normalised.
        v_prime: Embeddings of another view of the same images, (N, D).
        temperature: τ, above 0.

    Returns:
        The loss, a scalar. Under torch.distributed its negatives are the images of all processes.

    Raises:
        ValueError: If the shapes do not pair up, or the temperature is not positive.

    Example:
        >>> v = torch.eye(4)
        >>> same, other = info_nce(v, v, 0.1), info_nce(v, v.roll(1, 0), 0.1)
        >>> bool(same < 0.01 < other)
        True
    """
    if v.dim() != 2 or v.shape != v_prime.shape:
        raise ValueError(f"info_nce needs two (N, D) tensors, not {tuple(v.shape)} and {tuple(v_prime.shape)}")
    return multi_crop_info_nce(v[None], v_prime[None], temperature)


def multi_crop_info_nce(top: Tensor, bottom: Tensor, temperature: float = 0.2) -> Tensor:
    """Average equation 1 over every pair of a top view with any other view (section 4, multi-crop).

    Args:
        top: Embeddings of the T top views, (T, N, D), not yet normalised.
        bottom: Embeddings of the B bottom views, (B, N, D).
        temperature: τ, above 0.

    Returns:
        The loss, a scalar. Each pair has its own 2M candidates.

    Raises:
        ValueError: If the shapes do not pair up, or the temperature is not positive.

    Example:
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
    with torch.autocast(top.device.type, enabled=False):  # similarities in bfloat16 say little at a small τ
        precision = torch.promote_types(top.dtype, torch.float32)
        views = F.normalize(torch.cat([top, bottom]).to(precision), dim=-1)
        candidates = gather(views).transpose(0, 1).flatten(1, 2)  # (T + B, M, D)
        n, m = views.shape[1], candidates.shape[1]
        block = max(1, BLOCK // (4 * m))  # images of which a pair's similarities are in memory at a time
        places = (torch.arange(n, device=top.device) + rank() * n).split(block)
        losses = []
        for pair in ([a, w] for a in range(len(top)) for w in range(a + 1, len(views))):
            v, others = views[pair], candidates[pair]
            for some, i in zip(v.split(block, dim=1), places, strict=True):
                if block < n:  # computed once more for the gradient, instead of kept
                    losses.append(checkpoint(equation_1, some, others, i, temperature, use_reentrant=False))
                else:
                    losses.append(equation_1(some, others, i, temperature))
    return torch.cat(losses, dim=1).mean()


def equation_1(v: Tensor, candidates: Tensor, i: Tensor, temperature: float) -> Tensor:
    """Compute -log( exp(sim(v_i, v_j) / τ) / Σ_{k ≠ i} exp(sim(v_i, v_k) / τ) ) for a pair of views.

    Args:
        v: Normalised embeddings of N images in both views, (2, N, D). One anchors the other's, and in turn.
        candidates: Those of all M images, (2, M, D).
        i: Where the N images stand among the M, (N,).
        temperature: τ.

    Returns:
        The loss of every anchor, (2, N).
    """
    positive = (v * v.flip(0)).sum(2) / temperature  # j is the same image in the other view
    sim = v / temperature @ candidates.flatten(0, 1).T  # (2, N, 2M)
    itself = torch.stack([i, i + candidates.shape[1]])[..., None]
    return sim.scatter_(2, itself, -torch.inf).logsumexp(2) - positive


def decorrelation(phi: Tensor) -> Tensor:
    """Extension: sum the squared correlations between different logits and divide by the number of logits.

    Args:
        phi: Logits, (..., D); correlations are over all leading dimensions and all processes.

    Returns:
        A scalar, zero when no two logits say the same.

    Example:
        >>> x = torch.randn(1000, 1, dtype=torch.float64)
        >>> round(decorrelation(torch.cat([x, x], dim=1)).item(), 6)
        1.0
    """
    phi = gather(phi).flatten(0, -2)
    phi = F.normalize(phi - phi.mean(0), dim=0)
    correlation = phi.T @ phi
    return (correlation.square().sum() - correlation.diagonal().square().sum()) / phi.shape[1]
