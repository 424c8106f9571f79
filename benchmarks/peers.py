"""The opponents as their own documentation shows them, with the parameters of our views."""

from __future__ import annotations

from typing import Any

import kornia.augmentation as K
import torch
from lightly.loss import NTXentLoss
from lightly.transforms.dino_transform import DINOTransform
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_pil_image

from stochcon.config import Views
from stochcon.method.model import StochCon


class _Images(Dataset[Any]):
    """PIL images, as a folder gives them, but without the time that decoding takes."""

    def __init__(self, images: Tensor, transform: DINOTransform):
        self.images, self.transform = [to_pil_image(image) for image in images], transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.transform(self.images[index])


def lightly_loader(images: Tensor, config: Views, batch: int, workers: int) -> DataLoader[Any]:
    """Load one epoch of batches of views, each a list with a tensor (N, C, S, S) for each view."""
    low, high = config.blur_sigma
    transform = DINOTransform(
        global_crop_size=config.global_size,
        global_crop_scale=config.global_scale,
        local_crop_size=config.local_size,
        local_crop_scale=config.local_scale,
        n_local_views=config.local_views,
        sigmas=(low * config.global_size / 224, high * config.global_size / 224),
    )
    return DataLoader(_Images(images, transform), batch, shuffle=True, drop_last=True, num_workers=workers)


class KorniaViews(nn.Module):
    """DINO's augmentations from kornia's modules, on batches of floats from 0 to 1."""

    def __init__(self, config: Views):
        super().__init__()
        self.local_views = config.local_views
        large, small = (config.global_size, config.global_scale), (config.local_size, config.local_scale)
        self.first = self._view(config, *large, config.blur[0], config.solarize[0])
        self.second = self._view(config, *large, config.blur[1], config.solarize[1])
        self.local = self._view(config, *small, config.blur[2], config.solarize[2])

    @staticmethod
    def _view(config: Views, size: int, scale: tuple[float, float], blur: float, solarize: float) -> nn.Module:
        sigma = tuple(sigma * size / 224 for sigma in config.blur_sigma)
        kernel = min(2 * max(1, round(4 * sigma[1])) + 1, size // 2 * 2 - 1)
        jitter = (config.brightness, config.contrast, config.saturation, config.hue)
        steps = [
            K.RandomResizedCrop((size, size), scale, config.ratio),
            K.RandomHorizontalFlip(config.flip),
            K.ColorJitter(*jitter, p=config.jitter),
            K.RandomGrayscale(p=config.grey),
            K.RandomGaussianBlur((kernel, kernel), sigma, p=blur),
            K.RandomSolarize(0.5, 0.0, p=solarize),
            K.Normalize(config.mean, config.std),
        ]
        return nn.Sequential(*steps)

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        floats = images.float() / 255
        large = torch.stack([self.first(floats), self.second(floats)])
        small = [self.local(floats) for _ in range(self.local_views)]
        return large, torch.stack(small) if small else large[:0]


class LightlyLoss(nn.Module):
    """lightly's way: a pass for every view, and NTXentLoss for every pair with a global view."""

    def __init__(self, temperature: float):
        super().__init__()
        self.criterion = NTXentLoss(temperature)

    def forward(self, model: StochCon, views: list[Tensor]) -> Tensor:
        v = [model.head(model.backbone(view)) for view in views]
        pairs = [(a, w) for a in range(2) for w in range(a + 1, len(v))] if len(v) > 2 else [(0, 1)]
        return torch.stack([self.criterion(v[a], v[w]) for a, w in pairs]).mean()
