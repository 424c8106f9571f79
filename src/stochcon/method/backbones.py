"""f: images to h, spatial pooling included. Networks are timm's; ours is only the stem for small images."""

from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from stochcon import config


def build(backbone: config.Backbone, channels: int) -> nn.Module:
    """Make a backbone from images (N, channels, H, W) to h (N, width(module)).

    Raises:
        ValueError: For a name that timm does not know, with the nearest that it does; or for what does not fit it.

    Example:
        >>> f = build(config.Backbone(name="resnet18"), channels=3)
        >>> f(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 512])
    """
    if backbone.name == "small":
        return SmallResNet(channels, backbone.width, backbone.pool)
    if not timm.is_model(backbone.name):
        near = timm.list_models(f"*{backbone.name}*")[:3] or ["resnet18", "resnet50", "resnet200"]
        raise ValueError(f"backbone.name: timm has no {backbone.name!r}; it has {', '.join(near)} ...")
    network = timm.create_model(backbone.name, pretrained=False, num_classes=0, in_chans=channels)
    if backbone.stem == "small":
        if not isinstance(network, ResNet) or not isinstance(network.conv1, nn.Conv2d):
            raise ValueError(f"backbone.stem: 'small' is for plain ResNets; {backbone.name} needs 'standard'")
        network.register_module("conv1", _three_by_three(channels, network.conv1.out_channels))
        network.register_module("maxpool", nn.Identity())
    if backbone.pool > 1:
        if not isinstance(network, ResNet):
            raise ValueError(
                f"backbone.pool: {backbone.pool} is for the small network and ResNets, not {backbone.name}"
            )
        network.register_module("global_pool", nn.Sequential(nn.AdaptiveAvgPool2d(backbone.pool), nn.Flatten()))
        network.num_features *= backbone.pool**2
    return network


def width(backbone: nn.Module) -> int:
    """Return the width of h, D_Backbone in figure 1."""
    features = backbone.num_features
    assert isinstance(features, int)
    return features


def folded(backbone: nn.Module) -> nn.Module:
    """Copy a ResNet for inference, with each batch norm folded into its convolution; other networks stay as they are.

    h is the same but for rounding, and a CPU makes it a tenth faster.
    """
    if not isinstance(backbone, SmallResNet | ResNet):
        return backbone
    copy: Any = fuse(backbone.eval())
    copy.num_features = width(backbone)
    return copy.to(memory_format=torch.channels_last)


class SmallResNet(nn.Module):
    """A ResNet with which a CPU can do real work: about 13 million multiply-adds at 32 x 32 for width 32.

    A stem of stride 2, one basic block each of w, 2w and 4w channels, a 1x1 convolution to 8w, at least 256, and means
    over pool x pool parts of the picture.
    """

    def __init__(self, channels: int, width: int, pool: int = 1):
        super().__init__()
        self.stem = nn.Sequential(_three_by_three(channels, width, 2), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(
            BasicBlock(width, width),
            BasicBlock(width, 2 * width, 2, downsample=_shortcut(width, 2 * width)),
            BasicBlock(2 * width, 4 * width, 2, downsample=_shortcut(2 * width, 4 * width)),
        )
        wide = max(256, 8 * width)
        self.widen = nn.Sequential(
            nn.Conv2d(4 * width, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU(inplace=True)
        )
        self.pool, self.num_features = pool, wide * pool**2

    def forward(self, x: Tensor) -> Tensor:
        """Return h of images (N, C, H, W)."""
        maps = self.widen(self.blocks(self.stem(x)))
        return maps.mean((2, 3)) if self.pool == 1 else F.adaptive_avg_pool2d(maps, self.pool).flatten(1)


def _three_by_three(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _shortcut(inputs: int, outputs: int) -> nn.Sequential:
    # A 1x1 of stride 2 in two steps: in one, with fewer than 16 channels in channels-last order, the gradient
    # of the weights writes outside its memory (oneDNN issue 6035).
    return nn.Sequential(nn.AvgPool2d(1, 2), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
