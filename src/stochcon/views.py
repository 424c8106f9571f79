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
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stochcon.config import Views
from stochcon.large import BLUR_REACH, cut_views

GREY = (0.299, 0.587, 0.114)
"""What red, green and blue add to the grey of a pixel (ITU-R 601; torchvision rounds red to 0.2989)."""
TRIES = 10
"""Candidates for a crop before the fallback, as in torchvision."""
PART = 2**16
"""Image pixels turned into views at a time on a CPU, so that temporaries stay in the cache."""
LARGE = 2**14
"""Pixels of an image above which a CPU is faster without matrices."""


class Kind(NamedTuple):
    """The views of one size. One chance of blur and of solarize for each view."""

    size: int
    scale: tuple[float, float]
    blur: tuple[float, ...]
    solarize: tuple[float, ...]


class Draws(NamedTuple):
    """All that is random in the views of a batch."""

    start: Tensor
    """Top and left of the crop in pixels, (V, N, 2)."""
    length: Tensor
    """Height and width of the crop in pixels, (V, N, 2)."""
    flip: Tensor
    """(V, N)"""
    sigma: Tensor
    """Width of the blur in pixels of the view, 0 for none, (V, N)."""
    linear: Tensor
    """Colour x, in an image of mean colour m, becomes linear @ x + level @ m: (V, N, C, C) ..."""
    level: Tensor
    """... and (V, N, C)."""
    solarize: Tensor
    """(V, N)"""


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
    size, pixels = config.global_size, images.contiguous(memory_format=torch.channels_last)
    if images.shape[2:] != (size, size):
        pixels = F.interpolate(pixels.float(), (size, size), mode="bilinear", antialias=True)
    rows = pixels.permute(0, 2, 3, 1).reshape(len(images), size, -1).float()
    mean, std = (torch.tensor(x, device=images.device).repeat(size) for x in (config.mean, config.std))
    made = torch.addcmul(-mean / std, rows, 1 / (255 * std))
    return made.view(len(images), size, size, -1).permute(0, 3, 1, 2)


def _check(images: Tensor, config: Views) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"images must be uint8 of shape (N, 1 or 3, H, W), not {images.dtype} {tuple(images.shape)}"
        )
    if images.shape[1] != len(config.mean):
        raise ValueError(f"images have {images.shape[1]} channels, but views.mean has {len(config.mean)}")


def draw_views(images: Tensor, kind: Kind, config: Views) -> Draws:
    """The draws for the views of one kind."""
    device, shape = images.device, (len(kind.blur), len(images))
    start, length = crop_boxes(shape, images.shape[2:], kind.scale, config.ratio, device)
    flip = _uniform(shape, device) < config.flip
    blur, solarize = torch.tensor([kind.blur, kind.solarize], device=device)[..., None]
    sigma = _uniform(shape, device, *(sigma * kind.size / 224 for sigma in config.blur_sigma))
    sigma = torch.where(_uniform(shape, device) < blur, sigma, 0.0)
    linear, level = colour_maps(shape, images.shape[1], config, device)
    return Draws(start, length, flip, sigma, linear, level, _uniform(shape, device) < solarize)


def _uniform(shape: Sequence[int], device: torch.device, low: float = 0.0, high: float = 1.0) -> Tensor:
    return torch.empty(shape, device=device).uniform_(low, high)


def crop_boxes(
    shape: tuple[int, int],
    canvas: Sequence[int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Random boxes in whole pixels on a canvas of (H, W), drawn as RandomResizedCrop does.

    (V, N) -> (top, left) and (height, width), each (V, N, 2).
    """
    height, width = canvas
    area = _uniform((TRIES, *shape), device, *scale) * (height * width)
    aspect = _uniform((TRIES, *shape), device, math.log(ratio[0]), math.log(ratio[1])).exp()
    whole = torch.tensor(canvas, device=device)
    candidates = torch.stack([area / aspect, area * aspect], -1).sqrt_().round_()
    fits = ((candidates > 0) & (candidates <= whole)).all(-1, keepdim=True)
    first = fits.int().argmax(0, keepdim=True)
    length, found = candidates.take_along_dim(first, 0)[0], fits.any(0)
    start = (_uniform((*shape, 2), device) * (whole - length + 1)).floor_()
    # Where no candidate fits: the largest central box of an allowed aspect.
    fallback = (min(height, round(width / ratio[0])), min(width, round(height * ratio[1])))
    central = torch.tensor(fallback, device=device)
    return torch.where(found, start, (whole - central) // 2), torch.where(found, length, central)


def colour_maps(
    shape: tuple[int, int], channels: int, config: Views, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Random jitter and grey: `linear` and `level` of `Draws`.

    Brightness, contrast, saturation and hue come in a random order, and nothing is clamped between
    them. So brightness commutes with the others, contrast with saturation, and only whether the hue
    turns before or after these two matters. With one channel, saturation, hue and grey do nothing.
    """
    matrix = (*shape, 1, 1)
    same = torch.eye(channels, device=device)
    linear, level = same.expand(*shape, channels, channels), torch.zeros(*shape, channels, device=device)
    luma = torch.tensor([GREY if channels == 3 else (1.0,)], device=device)
    if config.jitter:
        limits = (config.brightness, config.contrast, config.saturation)
        ranges = ((max(0.0, 1 - limit), 1 + limit) for limit in limits)
        brightness, contrast, saturation = (_uniform(matrix, device, *range_) for range_ in ranges)
        mean_grey = luma
        if channels == 3:
            hue = hue_rotation(_uniform(shape, device, -config.hue, config.hue))
            place, place_saturation, place_contrast = _uniform((3, *matrix), device)
            linear = torch.lerp(torch.where(place < place_saturation, luma @ hue, luma), hue, saturation)
            mean_grey = torch.where(place < place_contrast, luma @ linear, luma)
        chosen = _uniform(matrix, device) < config.jitter
        linear = torch.where(chosen, brightness * contrast * linear, same)
        level = torch.where(chosen, brightness * (1 - contrast) * mean_grey, 0.0)[..., 0, :]
    if config.grey and channels == 3:
        linear = torch.where(_uniform(matrix, device) < config.grey, luma @ linear, linear)
    return linear, level


def hue_rotation(turn: Tensor) -> Tensor:
    """Colours turned about the grey axis by a share of the circle: (V, N) -> (V, N, 3, 3).

    The linear stand-in for torchvision's shift of HSV's hue, and the same for thirds of the circle.
    Between, the hue turns as far to within 2.3 degrees, but the channels keep their mean and their
    distance from it, where HSV keeps the largest and the smallest.
    """
    third = torch.arange(3, device=turn.device)
    weights = (1 + 2 * (2 * math.pi * (turn[..., None] - third / 3)).cos()) / 3
    return weights[..., (third[:, None] - third) % 3]  # of a colour and its two cyclic shifts


def _render(images: Tensor, draws: Draws, size: int, config: Views) -> Tensor:
    """Views (V, N, C, S, S) of uint8 images (N, C, H, W)."""
    views, n = draws.flip.shape
    channels, *canvas = images.shape[1:]
    out = torch.empty(views, n, size, size, channels, device=images.device)
    radius = min(int(BLUR_REACH * config.blur_sigma[1] * size / 224), size - 1)
    cpu, pixels = images.device.type == "cpu", math.prod(canvas)
    large = cpu and pixels > LARGE
    part = 1 if large else max(1, PART // pixels) if cpu else n
    for first in range(0, n if views else 0, part):
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
