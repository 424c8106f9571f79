"""DINO's augmentations on whole batches: uint8 images in, global and local views out.

Everything but the clamp and solarize is linear, and what is linear in space commutes with what is
linear in colour. So a view is one matrix product per axis (crop, resize, flip and blur in one
matrix) and one affine map of colour (jitter, grey and normalisation). Each image of each view has its
own draws, hence its own matrices.

Shapes: N images of C channels and H x W pixels; V views of one kind, S x S pixels each.
Draws are (V, N, ...); in front of two axes stands y, then x; matrices of space are (V, N, 2, S, H or W).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stochcon.config import Views
from stochcon.method.draws import Draws, Kind, draw_views
from stochcon.method.large import BLUR_REACH, cut_views
from stochcon.method.threads import in_parallel

PART = 2**18
"""Image pixels turned into views at a time on a CPU, as many as the caches bear: fewer are slower by the start of more operations."""
LARGE = 2**14
"""Pixels of an image above which a CPU is faster without matrices."""


def make_views(images: Tensor, config: Views) -> tuple[Tensor, Tensor]:
    """Two global and n local views of every image: uint8 (N, C, H, W) -> (2, N, C, G, G), (n, N, C, L, L).

    Float32, normalised, on the device of the images, channels last in memory. All draws are from
    torch's default generator of that device.

    >>> images = torch.randint(256, (4, 3, 40, 40), dtype=torch.uint8)
    >>> global_views, local_views = make_views(images, Views(local_views=6))
    >>> global_views.shape, local_views.shape
    (torch.Size([2, 4, 3, 32, 32]), torch.Size([6, 4, 3, 16, 16]))

    Raises ValueError if the batch is not uint8 (N, C, H, W) with a mean for each of the channels.
    """
    _check(images, config)
    n = config.local_views
    large = Kind(config.global_size, config.global_scale, config.blur[:2], config.solarize[:2])
    small = Kind(config.local_size, config.local_scale, config.blur[2:] * n, config.solarize[2:] * n)
    global_views = _render(images, draw_views(images, large, config), large.size, config)
    return global_views, _render(images, draw_views(images, small, config), small.size, config)


def global_view(images: Tensor, config: Views) -> Tensor:
    """The first of the global views of `make_views` alone: uint8 (N, C, H, W) -> (N, C, G, G)."""
    _check(images, config)
    kind = Kind(config.global_size, config.global_scale, config.blur[:1], config.solarize[:1])
    return _render(images, draw_views(images, kind, config), kind.size, config)[0]


def eval_view(images: Tensor, config: Views) -> Tensor:
    """The whole image at the global size, normalised, nothing random: uint8 (N, C, H, W) -> (N, C, G, G).

    >>> eval_view(torch.zeros(4, 3, 40, 40, dtype=torch.uint8), Views()).shape
    torch.Size([4, 3, 32, 32])

    Raises ValueError as `make_views` does.
    """
    _check(images, config)
    size, channels = config.global_size, images.shape[1]
    pixels = images.contiguous(memory_format=torch.channels_last)
    if images.shape[2:] != (size, size):
        pixels = F.interpolate(pixels.float(), (size, size), mode="bilinear", antialias=True)
    rows = pixels.permute(0, 2, 3, 1).reshape(len(images), size, size * channels).float()
    mean, std = (torch.tensor(x, device=images.device).repeat(size) for x in (config.mean, config.std))
    made = torch.addcmul(-mean / std, rows, 1 / (255 * std))
    return made.view(len(images), size, size, channels).permute(0, 3, 1, 2)


def _check(images: Tensor, config: Views) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"images must be uint8 of shape (N, 1 or 3, H, W), not {images.dtype} {tuple(images.shape)}"
        )
    if images.shape[1] != len(config.mean):
        raise ValueError(f"images have {images.shape[1]} channels, but views.mean has {len(config.mean)}")


def _render(images: Tensor, draws: Draws, size: int, config: Views) -> Tensor:
    """Views (V, N, C, S, S) of uint8 images (N, C, H, W)."""
    views, n = draws.flip.shape
    channels, *canvas = images.shape[1:]
    out = torch.empty(views, n, size, size, channels, device=images.device)
    radius = min(int(BLUR_REACH * config.blur_sigma[1] * size / 224), size - 1)
    cpu, pixels = images.device.type == "cpu", math.prod(canvas)
    large = cpu and pixels > LARGE
    part = 1 if large else max(1, PART // pixels) if cpu else n

    def render_part(first: int) -> None:
        here = slice(first, first + part)
        some = Draws(*(draw[:, here] for draw in draws))
        if large:
            start, length, flip, sigma = (x[:, 0] for x in some[:4])
            view = cut_views(images[first], start, length, flip, sigma, size)[:, None]
        else:
            matrices = resampling_matrices(some.start, some.length, some.flip, canvas, size)
            if radius:
                blur_(matrices, some.sigma, radius)
            view = resample(images[here].float(), matrices)
        recolour(view, some.linear, some.level, config, out[:, here])
        solarize_(out[:, here], some.solarize, config)

    parts = range(0, n if views else 0, part)
    if large:
        in_parallel(render_part, parts)
    else:
        # Here threads of our own gain nothing, and compete with those of PyTorch's operations.
        for first in parts:
            render_part(first)
    return out.permute(0, 1, 4, 2, 3)


def resampling_matrices(
    start: Tensor, length: Tensor, flip: Tensor, canvas: Sequence[int], size: int
) -> Tensor:
    """Antialiased bilinear resampling of the boxes to S x S: (V, N, 2, S, the larger of H and W)."""
    start, length = start[..., None], length[..., None]
    step = length / size
    reach = step.clamp(min=1)
    centre = start + step * (torch.arange(size, device=start.device) + 0.5)
    centre[:, :, 1] = torch.where(flip[..., None], centre[:, :, 1].flip(-1), centre[:, :, 1])
    position = torch.arange(max(canvas), device=start.device) + 0.5
    inside = ((position > start) & (position < start + length)).float()
    # A triangle about the centre of each output pixel, 0 outside the box.
    weight = ((position / reach)[..., None, :] - (centre / reach)[..., None]).abs_()
    weight = torch.sub(inside[..., None, :], weight, out=weight).clamp_(min=0)
    return weight.div_(weight.sum(-1, keepdim=True))


def blur_(matrices: Tensor, sigma: Tensor, radius: int) -> None:
    """Gaussian blur along S of resampling matrices (V, N, 2, S, H or W), which blurs what they make.

    Widths (V, N) of 0 are left alone. Borders are reflected. The kernel ends at the radius, in pixels.
    """
    size, flat = matrices.shape[3], matrices.flatten(0, 1)
    which = sigma.flatten().nonzero()[:, 0]
    offset = torch.arange(-radius, radius + 1, device=sigma.device)
    kernel = (-0.5 * (offset / sigma.flatten()[which, None]).square()).softmax(-1)[..., None, None, None]
    reflected = size - 1 - (size - 1 - torch.arange(-radius, size + radius, device=sigma.device).abs()).abs()
    padded = flat.index_select(0, which).index_select(2, reflected)
    blurred = padded[:, :, :size] * kernel[:, 0]
    for tap in range(1, 2 * radius + 1):
        blurred.addcmul_(padded[:, :, tap : tap + size], kernel[:, tap])
    flat.index_copy_(0, which, blurred)


def resample(pixels: Tensor, matrices: Tensor) -> Tensor:
    """Pixels (N, C, H, W) by matrices (V, N, 2, S, the larger of H and W) to (V, N, S, S, C)."""
    views, n, _, size, _ = matrices.shape
    height, width = pixels.shape[2:]
    view, flat = pixels.new_empty(views, n, size, size * pixels.shape[1]), pixels.flatten(1, 2)
    for v in range(views):
        # Along x, which leaves (N, S, C, H); then along y, transposed: so the channels end up innermost.
        across = matrices[v, :, 1, :, :width] @ flat.mT
        torch.bmm(matrices[v, :, 0, :, :height], across.view(n, -1, height).mT, out=view[v])
    return view.view(views, n, size, size, -1)


def recolour(view: Tensor, linear: Tensor, level: Tensor, config: Views, out: Tensor) -> None:
    """Views (V, N, S, S, C) of 0 to 255, mapped by `linear` and `level`, clamped and normalised, into out."""
    views, n, size, _, channels = view.shape
    mean, std = (torch.tensor(x, device=view.device) for x in (config.mean, config.std))
    # Whole rows in each step, since an inner dimension of 3 is slow.
    mean_colour = view.flatten(3).mean(2).view(views, n, size, channels).mean(2)
    offset = (level * mean_colour).sum(-1, keepdim=True) / 255
    # For the same reason, four pixels at a time go through a block-diagonal matrix.
    together = math.gcd(size * size, 4)
    block = view.new_zeros(views * n, together, channels, together, channels)
    block.diagonal(dim1=1, dim2=3).copy_((linear / (255 * std[:, None])).flatten(0, 1).mT[..., None])
    shift = ((offset - mean) / std).flatten(0, 1).repeat(1, together)[:, None]
    pixels = view.view(views * n, -1, together * channels)
    colour = torch.baddbmm(shift, pixels, block.view(views * n, together * channels, -1))
    low, high = (-mean / std).repeat(size), ((1 - mean) / std).repeat(size)
    torch.clamp(colour.view(views, n, size, -1), low, high, out=out.flatten(3))


def solarize_(view: Tensor, chosen: Tensor, config: Views) -> None:
    """Inverts what is above one half, in the chosen (V, N) of the normalised views (V, N, S, S, C)."""
    mean, std = (torch.tensor(x, device=view.device).repeat(view.shape[3]) for x in (config.mean, config.std))
    for v in chosen.any(1).nonzero()[:, 0].tolist():
        rows = view[v].flatten(2)
        # What is above one half is above its own inverse.
        inverse = torch.where(chosen[v, :, None], (1 - 2 * mean) / std, math.inf)[:, None] - rows
        torch.minimum(rows, inverse, out=rows)
