"""All that is random in the views of a batch: crops, flips, blur, colour and solarize.

Draws are (V, N, ...) for V views of one kind of N images; in front of two axes stands y, then x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stochcon.config import Views

GREY = (0.299, 0.587, 0.114)
"""What red, green and blue add to the grey of a pixel (ITU-R 601; torchvision rounds red to 0.2989)."""
TRIES = 10
"""Candidates for a crop before the fallback, as in torchvision."""


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
