"""DINO's augmentations on whole batches: uint8 images in, global and local views out.

Everything but the clamp and solarize is linear, and what is linear in space commutes with what is
linear in colour. So a view is two matrix products in space (crop, resize, flip and blur, all in one
matrix per axis) and one in colour (jitter, grey and normalisation, all in one affine map), each image
of each view with its own matrices.

Shapes: N images of C channels, H x W pixels; V views of a batch, each S x S pixels.
Boxes and draws are (V, N); matrices of space (V, N, S, H or W); of colour (V, N, 4, 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stochcon.config import Views

GREY = (0.299, 0.587, 0.114)
"""What red, green and blue add to the grey of a pixel (ITU-R 601-2), as in torchvision."""
BLUR_REACH = 5
"""Widths after which a blur is cut off."""
TRIES = 10
"""Candidates for a crop before the fallback, as in torchvision."""


def make_views(images: Tensor, config: Views) -> tuple[Tensor, Tensor]:
    """Two global and n local views of every image: uint8 (N, C, H, W) -> (2, N, C, G, G), (n, N, C, L, L).

    Float32, normalised, on the device of the images, in channels-last order in memory. All draws are
    from torch's default generator of that device.

    >>> images = torch.randint(256, (4, 3, 40, 40), dtype=torch.uint8)
    >>> global_views, local_views = make_views(images, Views(local_views=6))
    >>> global_views.shape, local_views.shape
    (torch.Size([2, 4, 3, 32, 32]), torch.Size([6, 4, 3, 16, 16]))

    Raises ValueError if the batch is not uint8 (N, C, H, W) with a mean for each of the channels.
    """
    pixels = _pixels(images, config)
    n = config.local_views
    first, second, local = zip(config.blur, config.solarize, strict=True)
    return (
        _random_views(pixels, config, config.global_size, config.global_scale, [first, second]),
        _random_views(pixels, config, config.local_size, config.local_scale, [local] * n),
    )


def eval_view(images: Tensor, config: Views) -> Tensor:
    """The whole image at the global size, normalised, nothing random: uint8 (N, C, H, W) -> (N, C, G, G).

    >>> eval_view(torch.zeros(4, 3, 40, 40, dtype=torch.uint8), Views()).shape
    torch.Size([4, 3, 32, 32])

    Raises ValueError as `make_views` does.
    """
    pixels = _pixels(images, config)
    n, channels, height, width = pixels.shape
    zero, size = pixels.new_zeros(1, n), config.global_size
    rows = resampling_matrix(zero, zero + height, height, size)
    columns = resampling_matrix(zero, zero + width, width, size)
    same = torch.eye(channels, device=pixels.device).expand(1, n, channels, channels)
    return recolour(resample(pixels, rows, columns), same, zero, config).permute(0, 1, 4, 2, 3)[0]


def _pixels(images: Tensor, config: Views) -> Tensor:
    """The batch as float32, 0 to 255."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"images must be uint8 of shape (N, 1 or 3, H, W), not {images.dtype} {tuple(images.shape)}"
        )
    if images.shape[1] != len(config.mean):
        raise ValueError(f"images have {images.shape[1]} channels, but views.mean has {len(config.mean)}")
    return images.float()


def _random_views(
    pixels: Tensor,
    config: Views,
    size: int,
    scale: tuple[float, float],
    chances: Sequence[tuple[float, float]],
) -> Tensor:
    """One view for each pair of chances (of blur, of solarize): (V, N, C, S, S)."""
    (n, channels, height, width), device = pixels.shape, pixels.device
    shape = (len(chances), n)
    if not chances:
        return pixels.new_empty(0, n, channels, size, size)
    top, left, box_height, box_width = crop_boxes(shape, height, width, scale, config.ratio, device)
    rows = resampling_matrix(top, box_height, height, size)
    columns = resampling_matrix(left, box_width, width, size, flip=draw(shape, device) < config.flip)
    radius = min(int(BLUR_REACH * config.blur_sigma[1] * size / 224), size - 1)
    if radius and any(blur for blur, _ in chances):
        sigma = draw(shape, device, *(s * size / 224 for s in config.blur_sigma))
        often = torch.tensor([[blur] for blur, _ in chances], device=device)
        kernel = blur_kernel(torch.where(draw(shape, device) < often, sigma, 0.0), radius)
        rows, columns = blur_rows(rows, kernel), blur_rows(columns, kernel)
    view = resample(pixels, rows, columns)
    linear, offset = colour_map(mean_colour(view), config)
    view = recolour(view, linear, offset, config)
    for v, (_, solarize) in enumerate(chances):
        if solarize:
            solarize_(view[v], draw((n,), device) < solarize, config)
    return view.permute(0, 1, 4, 2, 3)


def draw(shape: Sequence[int], device: torch.device, low: float = 0.0, high: float = 1.0) -> Tensor:
    return torch.rand(shape, device=device) * (high - low) + low


def crop_boxes(
    shape: tuple[int, int],
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width of random boxes in whole pixels, drawn as RandomResizedCrop does."""
    area = draw((TRIES, *shape), device, *scale) * (height * width)
    aspect = draw((TRIES, *shape), device, math.log(ratio[0]), math.log(ratio[1])).exp()
    w, h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    valid = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = valid.int().argmax(0, keepdim=True)
    w, h, found = (x.gather(0, first)[0] for x in (w, h, valid))
    # The fallback: the largest central box of an allowed aspect.
    whole_h = min(height, round(width / ratio[0]))
    whole_w = min(width, round(height * ratio[1]))
    h, w = torch.where(found, h, whole_h), torch.where(found, w, whole_w)
    top = torch.where(found, (draw(shape, device) * (height - h + 1)).floor(), (height - whole_h) // 2)
    left = torch.where(found, (draw(shape, device) * (width - w + 1)).floor(), (width - whole_w) // 2)
    return top, left, h, w


def resampling_matrix(
    start: Tensor, length: Tensor, pixels: int, size: int, flip: Tensor | None = None
) -> Tensor:
    """Antialiased bilinear resampling of `length` pixels from `start` on to `size`: (V, N, size, pixels)."""
    start, length = start[..., None], length[..., None]
    step = length / size
    reach = step.clamp(min=1)
    index = torch.arange(size, device=start.device) + 0.5
    if flip is not None:
        index = torch.where(flip[..., None], size - index, index)
    position = torch.arange(pixels, device=start.device) + 0.5
    inside = ((position > start) & (position < start + length)).float()
    # A triangle about each output pixel's centre, 0 outside the box.
    centre = (start + step * index) / reach
    weight = torch.addcmul(-centre[..., None], 1 / reach[..., None], position).abs_()
    weight = torch.sub(inside[..., None, :], weight, out=weight).clamp_(min=0)
    return weight.div_(weight.sum(-1, keepdim=True))


def blur_kernel(sigma: Tensor, radius: int) -> Tensor:
    """Gaussian kernels of widths (V, N): (V, N, 2 * radius + 1). Width 0 is no blur."""
    offset = torch.arange(-radius, radius + 1, device=sigma.device)
    return (-0.5 * (offset / sigma.clamp(min=1e-3)[..., None]).square()).softmax(-1)


def blur_rows(matrix: Tensor, kernel: Tensor) -> Tensor:
    """Each (S, H) of a (V, N, S, H) blurred along S by its own kernel, borders reflected.

    Blurring a resampling matrix blurs what it makes.
    """
    radius = kernel.shape[-1] // 2
    padded = F.pad(matrix.flatten(0, 1), (0, 0, radius, radius), mode="reflect")
    blurred = F.conv2d(padded[None], kernel.flatten(0, 1)[:, None, :, None], groups=len(padded))
    return blurred.view(matrix.shape)


def resample(pixels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(N, C, H, W), (V, N, S, H), (V, N, S, W) -> (V, N, S, S, C): rows @ pixels @ columns.T for each view."""
    views, n, size, height = rows.shape
    channels = pixels.shape[1]
    view = pixels.new_empty(views, n, size, size * channels)
    # Along x for all views of an image at once, which leaves (N, V, S, C, H); then along y for each view,
    # transposed, so that the channels end up innermost.
    across = columns.transpose(0, 1).flatten(1, 2) @ pixels.flatten(1, 2).mT
    across = across.view(n, views, size * channels, height)
    for v in range(views):
        torch.bmm(rows[v], across[:, v].mT, out=view[v])
    return view.view(views, n, size, size, channels)


def mean_colour(view: Tensor) -> Tensor:
    """(V, N, S, S, C) -> (V, N, C). Whole rows first: an inner dimension of 3 is slow."""
    return view.flatten(3).mean(2).view(*view.shape[:2], *view.shape[3:]).mean(2)


def colour_map(mean: Tensor, config: Views) -> tuple[Tensor, Tensor]:
    """Jitter and grey of views of mean colour (V, N, C): x -> linear @ x + offset, (V, N, C, C) and (V, N).

    Brightness, contrast, saturation and hue come in a random order and nothing is clamped between
    them, so brightness commutes with all, and of saturation and contrast only the order with hue
    matters. Hue is turned about the grey axis, which is the shift of HSV's hue exactly for thirds of the circle
    and nearly so between. With one channel saturation, hue and grey do nothing.
    """
    (views, n, channels), device = mean.shape, mean.device
    same = torch.eye(channels, device=device).expand(views, n, channels, channels)
    linear, offset = same, mean.new_zeros(views, n)
    luma = torch.tensor(GREY if channels == 3 else (1.0,), device=device)
    if config.jitter:
        strengths = (config.brightness, config.contrast, config.saturation)
        brightness, contrast, saturation = (
            draw((views, n), device, max(0.0, 1 - strength), 1 + strength) for strength in strengths
        )
        level = luma.expand(views, n, 1, channels)
        if channels == 3:
            hue = hue_rotation(draw((views, n), device, -config.hue, config.hue))
            place = draw((3, views, n, 1, 1), device)  # of hue, saturation and contrast in the order
            grey = torch.where(place[0] < place[1], (luma @ hue)[..., None, :], luma)
            linear = torch.lerp(grey, hue, saturation[..., None, None])
            level = torch.where(place[0] < place[2], (luma @ linear)[..., None, :], luma)
        level = (level[..., 0, :] * mean).sum(-1)
        chosen = draw((views, n), device) < config.jitter
        linear = torch.where(chosen[..., None, None], (brightness * contrast)[..., None, None] * linear, same)
        offset = torch.where(chosen, brightness * (1 - contrast) * level, 0.0)
    if config.grey and channels == 3:
        chosen = draw((views, n, 1, 1), device) < config.grey
        linear = torch.where(chosen, (luma @ linear)[..., None, :], linear)
    return linear, offset


def hue_rotation(turn: Tensor) -> Tensor:
    """The turn of colour by a share of the circle about the grey axis: (V, N) -> (V, N, 3, 3)."""
    third = torch.arange(3, device=turn.device)
    weights = (1 + 2 * (2 * math.pi * (turn[..., None] - third / 3)).cos()) / 3
    return weights[..., (third[:, None] - third) % 3]  # of the colour and its two cyclic shifts


def recolour(view: Tensor, linear: Tensor, offset: Tensor, config: Views) -> Tensor:
    """(V, N, S, S, C) by linear (V, N, C, C) and offset (V, N), clamped to what 0 to 255 allows, normalised."""
    views, n, size, _, channels = view.shape
    mean, std = (torch.tensor(x, device=view.device) for x in (config.mean, config.std))
    # A product with a 3 x 3 matrix is slow, so pixels go by fours through a block-diagonal one.
    together = math.gcd(size * size, 4)
    linear = linear / (255 * std[:, None])
    block = torch.eye(together, device=view.device)[:, None, :, None] * linear.mT[:, :, None, :, None, :]
    width = together * channels
    colours = torch.bmm(view.view(views * n, -1, width), block.reshape(views * n, width, width))
    colours = colours.view(views * n, size, size * channels)
    shift = ((offset[..., None] / 255 - mean) / std).repeat(1, 1, size)
    low, high = (x.repeat(size) for x in (-mean / std, (1 - mean) / std))
    return colours.add_(shift.view(views * n, 1, -1)).clamp_(low, high).view(view.shape)


def solarize_(view: Tensor, chosen: Tensor, config: Views) -> None:
    """Inverts what is above one half of normalised views (N, S, S, C), where chosen (N)."""
    mean, std = (torch.tensor(x, device=view.device).repeat(view.shape[2]) for x in (config.mean, config.std))
    which = chosen.nonzero()[:, 0]
    part = view.flatten(2).index_select(0, which)
    part = torch.where(part >= (0.5 - mean) / std, (1 - 2 * mean) / std - part, part)
    view.flatten(2).index_copy_(0, which, part)
