"""The views of one large image, in space: each crop is cut, resized and blurred by itself.

In large images the matrices of `views` are mostly zeros. PyTorch's resampling of bytes needs a tenth of the
time of their product and is within 1 grey level of it, of 255, as it rounds after each axis.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLUR_REACH = 5
"""Gaussian widths after which a blur is cut off."""


def cut_views(image: Tensor, start: Tensor, length: Tensor, flip: Tensor, sigma: Tensor, size: int) -> Tensor:
    """Antialiased bilinear views (V, S, S, C) of a uint8 image (C, H, W), floats of 0 to 255.

    start, length: crops in whole pixels, (V, 2); flip, sigma: mirrored, and blurred in pixels of the view, (V,).
    """
    pixels = image[None].contiguous(memory_format=torch.channels_last)
    boxes = torch.cat([start, start + length], 1).int().tolist()
    out = torch.empty(len(boxes), size, size, len(image))
    for view, (top, left, bottom, right), mirrored, width in zip(
        out, boxes, flip.tolist(), sigma.tolist(), strict=True
    ):
        crop = pixels[:, :, top:bottom, left:right]
        resized = F.interpolate(crop, (size, size), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
        view.copy_(resized.flip(1) if mirrored else resized)
        blur_view_(view, width)
    return out


def blur_view_(view: Tensor, sigma: float) -> None:
    """Gaussian blur of a view (S, S, C), cut off where it has no effect. Borders are reflected."""
    size = len(view)
    radius = min(int(BLUR_REACH * sigma), size - 1)
    if not radius:
        return
    offset = torch.arange(-radius, radius + 1)
    kernel = (-0.5 * (offset / sigma).square()).softmax(0).tolist()
    for axis in (0, 1):
        before, after = view.narrow(axis, 1, radius), view.narrow(axis, size - 1 - radius, radius)
        padded = torch.cat([before.flip(axis), view, after.flip(axis)], axis)
        torch.mul(padded.narrow(axis, 0, size), kernel[0], out=view)
        for tap in range(1, len(kernel)):
            view.add_(padded.narrow(axis, tap, size), alpha=kernel[tap])
