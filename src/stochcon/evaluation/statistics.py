"""Statistics of a code that need no labels: its active bits, and the noise of its latent."""

from torch import Tensor


def count_bits(bits: Tensor) -> dict[str, float]:
    """Count (N, D) booleans: how many bits there are, per cent of ones (section 4.3), and how many never change.

    Example:
        >>> import torch
        >>> count_bits(torch.tensor([[True, False], [True, True]]))
        {'bits': 2, 'active': 75.0, 'dead': 1}
    """
    ones = bits.sum(0)
    active, dead = 100 * bits.float().mean().item(), int(((ones == 0) | (ones == len(bits))).sum())
    return {"bits": bits.shape[1], "active": active, "dead": dead}


def aggregate_variance(uncertainty: Tensor) -> float:
    """Average the variance of q(z|x) over (N, D) images and dimensions, from its standard deviation (figure 3 right).

    The spread of the means from image to image does not count: a latent whose variance collapsed has 0.
    """
    return uncertainty.double().square().mean().item()
