"""DINO's augmentations (section 4) on whole batches: uint8 images in, normalised global and local views out.

All but the clamp and solarize is linear, and what is linear in space commutes with what is linear in colour. So a
view is one matrix product per axis (crop, resize, flip and blur in one matrix) and one affine map of its colours
(jitter, grey and normalisation). Each image of each view has draws, and hence matrices, of its own.

Shapes: N images of C channels and H x W pixels; V views of S x S pixels. In front of two axes stands y, then x.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stochcon.config import Views

GREY = (0.299, 0.587, 0.114)
"""How much red, green and blue add to the grey of a pixel (ITU-R 601)."""
TRIES = 10
"""Candidates for a crop before the fallback, as in torchvision."""
BLUR_REACH = 5
"""Gaussian widths after which a blur is cut off."""
PART = 2**18
"""Image pixels that a CPU turns into views at a time: what its caches hold."""


def make_views(images: Tensor, config: Views) -> tuple[Tensor, Tensor]:
    """Make global views (2, N, C, G, G) and local views (n, N, C, L, L) of images, uint8 (N, C, H, W).

    They are float32, channels last in memory, drawn by torch's default generator of the images' device. Raises
    ValueError for any other images, or if the configuration's mean is not that of their channels.

    Example:
        >>> images = torch.randint(256, (4, 3, 40, 40), dtype=torch.uint8)
        >>> global_views, local_views = make_views(images, Views(local_views=6))
        >>> global_views.shape, local_views.shape
        (torch.Size([2, 4, 3, 32, 32]), torch.Size([6, 4, 3, 16, 16]))
    """
    _check(images, config)
    n = config.local_views
    blur, solarize = config.blur, config.solarize
    global_ = _make(images, config.global_size, config.global_scale, blur[:2], solarize[:2], config)
    return global_, _make(images, config.local_size, config.local_scale, blur[2:] * n, solarize[2:] * n, config)


def global_view(images: Tensor, config: Views) -> Tensor:
    """Make the first of the global views of `make_views` alone: uint8 (N, C, H, W) to (N, C, G, G)."""
    _check(images, config)
    size, scale = config.global_size, config.global_scale
    return _make(images, size, scale, config.blur[:1], config.solarize[:1], config)[0]


def eval_view(images: Tensor, config: Views) -> Tensor:
    """Bring whole images, as `make_views` takes them, to the global size, float32 (N, C, G, G), with nothing random.

    Example:
        >>> eval_view(torch.zeros(4, 3, 40, 40, dtype=torch.uint8), Views()).shape
        torch.Size([4, 3, 32, 32])
    """
    _check(images, config)
    size, x = config.global_size, images.float()
    if images.shape[2:] != (size, size):
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(x, device=images.device)[:, None, None] for x in (config.mean, config.std))
    made = torch.addcmul(-mean / std, x, 1 / (255 * std))
    return made.contiguous(memory_format=torch.channels_last)


def _check(images: Tensor, config: Views) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images must be uint8 of shape (N, 1 or 3, H, W), not {images.dtype} {tuple(images.shape)}")
    if images.shape[1] != len(config.mean):
        raise ValueError(f"images have {images.shape[1]} channels, but views.mean has {len(config.mean)}")


def _make(
    images: Tensor,
    size: int,
    scale: tuple[float, float],
    blur: tuple[float, ...],
    solarize: tuple[float, ...],
    config: Views,
) -> Tensor:
    """Make views of one size, (V, N, C, S, S), with a chance of blur and of solarize for each of the V."""
    device, shape, canvas = images.device, (len(blur), len(images)), images.shape[2:]
    start, length = crop_boxes(shape, canvas, scale, config.ratio, device)
    flip = _uniform(shape, device) < config.flip
    sigma = _uniform(shape, device, *(sigma * size / 224 for sigma in config.blur_sigma))
    sigma = torch.where(_uniform(shape, device) < torch.tensor(blur, device=device)[:, None], sigma, 0.0)
    linear, level = colour_maps(shape, images.shape[1], config, device)
    solarized = _uniform(shape, device) < torch.tensor(solarize, device=device)[:, None]

    radius = min(int(BLUR_REACH * config.blur_sigma[1] * size / 224), size - 1)
    out = torch.empty(*shape, size, size, images.shape[1], device=device)
    part = max(1, PART // canvas.numel()) if device.type == "cpu" else len(images)
    for first in range(0, len(images) if len(blur) else 0, part):
        some = slice(first, first + part)
        matrices = resampling_matrices(start[:, some], length[:, some], flip[:, some], canvas, size)
        if radius:
            blur_(matrices, sigma[:, some], radius)
        view = resample(images[some].float(), matrices)
        recolour(view, linear[:, some], level[:, some], config, out[:, some])
        solarize_(out[:, some], solarized[:, some], config)
    return out.permute(0, 1, 4, 2, 3)


def _uniform(shape: Sequence[int], device: torch.device, low: float = 0.0, high: float = 1.0) -> Tensor:
    return torch.empty(shape, device=device).uniform_(low, high)


def crop_boxes(
    shape: tuple[int, int],
    canvas: Sequence[int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Draw boxes in whole pixels as RandomResizedCrop does: (V, N) to (top, left) and (height, width), (V, N, 2)."""
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


def colour_maps(shape: tuple[int, int], channels: int, config: Views, device: torch.device) -> tuple[Tensor, Tensor]:
    """Draw jitter and grey as an affine map of colours.

    Colour x, in an image of mean colour m, becomes linear @ x + level @ m: (V, N, C, C) and (V, N, C). Brightness,
    contrast, saturation and hue come in a random order, and nothing is clamped between them. So brightness commutes
    with the others and contrast with saturation, and only whether the hue turns before or after these two matters.
    With one channel, saturation, hue and grey do nothing.
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
    """Turn colours about the grey axis by a share of the circle: (V, N) to (V, N, 3, 3).

    It is the linear stand-in for torchvision's shift of HSV's hue, and equals it for thirds of the circle. Between
    them the hue turns as far to within 2.3 degrees.
    """
    third = torch.arange(3, device=turn.device)
    weights = (1 + 2 * (2 * math.pi * (turn[..., None] - third / 3)).cos()) / 3
    return weights[..., (third[:, None] - third) % 3]  # of a colour and its two cyclic shifts


def resampling_matrices(start: Tensor, length: Tensor, flip: Tensor, canvas: Sequence[int], size: int) -> Tensor:
    """Make the antialiased bilinear resampling of the boxes to S x S: (V, N, 2, S, the larger of H and W)."""
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
    """Blur, in place, what resampling matrices (V, N, 2, S, H or W) make, by Gaussians of widths (V, N); 0 is none.

    Borders are reflected. The kernel ends at the radius, in pixels of the view.
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
    """Resample pixels (N, C, H, W) by matrices (V, N, 2, S, the larger of H and W) to (V, N, S, S, C)."""
    views, n, _, size, _ = matrices.shape
    height, width = pixels.shape[2:]
    view, flat = pixels.new_empty(views, n, size, size * pixels.shape[1]), pixels.flatten(1, 2)
    for v in range(views):
        # Along x, which leaves (N, S, C, H); then along y, transposed: so the channels end up innermost.
        across = matrices[v, :, 1, :, :width] @ flat.mT
        torch.bmm(matrices[v, :, 0, :, :height], across.view(n, -1, height).mT, out=view[v])
    return view.view(views, n, size, size, -1)


def recolour(view: Tensor, linear: Tensor, level: Tensor, config: Views, out: Tensor) -> None:
    """Map views (V, N, S, S, C) of 0 to 255 by `linear` and `level`, clamp and normalise them, into out."""
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
    """Invert, in place, what is above one half in the chosen (V, N) of normalised views (V, N, S, S, C)."""
    mean, std = (torch.tensor(x, device=view.device).repeat(view.shape[3]) for x in (config.mean, config.std))
    for v in chosen.any(1).nonzero()[:, 0].tolist():
        rows = view[v].flatten(2)
        # What is above one half is above its own inverse.
        inverse = torch.where(chosen[v, :, None], (1 - 2 * mean) / std, math.inf)[:, None] - rows
        torch.minimum(rows, inverse, out=rows)
