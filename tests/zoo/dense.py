"""Networks that concatenate: DenseNet, GoogLeNet, U-Net; and ConvNeXt, which adds in NHWC."""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import ConvNorm

__all__ = ["ConvNeXt", "DenseNet", "GoogLeNet", "UNet"]


class DenseLayer(nn.Module):
    """BatchNorm and ReLU before each convolution; what it computes is appended to its input."""

    def __init__(self, a: int, growth: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(a)
        self.conv1 = nn.Conv2d(a, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.norm1(x).relu())
        return torch.cat([x, self.conv2(self.norm2(y).relu())], 1)


class DenseNet(nn.Module):
    """Huang et al. 2017, table 1, growth 32, 121 layers."""

    def __init__(self, depths: tuple[int, ...] = (6, 12, 24, 16), classes: int = 1000):
        super().__init__()
        self.features, a = nn.Sequential(ConvNorm(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)), 64
        for stage, depth in enumerate(depths):
            if stage:
                self.features.extend(_transition(a))
                a //= 2
            for _ in range(depth):
                self.features.append(DenseLayer(a, 32))
                a += 32
        self.features.append(nn.BatchNorm2d(a))
        self.fc = nn.Linear(a, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).relu()
        return self.fc(F.adaptive_avg_pool2d(x, (1, 1)).flatten(1))


def _transition(a: int) -> nn.Sequential:
    conv = nn.Conv2d(a, a // 2, 1, bias=False)
    return nn.Sequential(nn.BatchNorm2d(a), nn.ReLU(), conv, nn.AvgPool2d(2))


class Inception(nn.Module):
    """Four branches side by side; `pairs` are the widths of the two that narrow first."""

    def __init__(self, a: int, one: int, *pairs: int):
        super().__init__()
        conv = partial(ConvNorm, eps=1e-3)
        narrow2, wide2, narrow3, wide3, pooled = pairs
        self.branches = nn.ModuleList(
            [
                conv(a, one, 1),
                nn.Sequential(conv(a, narrow2, 1), conv(narrow2, wide2)),
                nn.Sequential(conv(a, narrow3, 1), conv(narrow3, wide3)),
                nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), conv(a, pooled, 1)),
            ]
        )
        self.out = one + wide2 + wide3 + pooled

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class GoogLeNet(nn.Module):
    """Szegedy et al. 2015, table 1, as torchvision has it: BatchNorm, and 3 x 3 for the 5 x 5."""

    ROWS = (
        (64, 96, 128, 16, 32, 32),
        (128, 128, 192, 32, 96, 64),
        None,
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
        None,
        (256, 160, 320, 32, 128, 128),
        (384, 192, 384, 48, 128, 128),
    )

    def __init__(self, classes: int = 1000):
        super().__init__()
        conv = partial(ConvNorm, eps=1e-3)
        pool = partial(nn.MaxPool2d, 3, 2, ceil_mode=True)
        self.features = nn.Sequential(conv(3, 64, 7, 2), pool(), conv(64, 64, 1), conv(64, 192))
        self.features.append(pool())
        a = 192
        for row in self.ROWS:
            if row is None:
                self.features.append(nn.MaxPool2d(3 if a == 480 else 2, 2, ceil_mode=True))
                continue
            part = Inception(a, *row)
            self.features.append(part)
            a = part.out
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(a, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.dropout(torch.flatten(self.pool(self.features(x)), 1)))


class UNet(nn.Module):
    """Ronneberger et al. 2015, figure 1, with padding and BatchNorm as is usual since."""

    def __init__(self, channels: int = 3, classes: int = 1, width: int = 64, levels: int = 4):
        super().__init__()
        widths = [width << level for level in range(levels + 1)]
        self.first = _double(channels, width)
        self.down = nn.ModuleList(_double(a, 2 * a) for a in widths[:-1])
        self.lift = nn.ModuleList(nn.ConvTranspose2d(2 * a, a, 2, 2) for a in widths[-2::-1])
        self.up = nn.ModuleList(_double(2 * a, a) for a in widths[-2::-1])
        self.last = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = [self.first(x)]
        for down in self.down:
            skips.append(down(F.max_pool2d(skips[-1], 2)))
        x = skips.pop()
        for lift, up in zip(self.lift, self.up, strict=True):
            x = up(torch.cat([skips.pop(), lift(x)], 1))
        return self.last(x)


def _double(a: int, b: int) -> nn.Sequential:
    return nn.Sequential(ConvNorm(a, b), ConvNorm(b, b))


class ConvNeXtBlock(nn.Module):
    """Depthwise 7 x 7; then an MLP over the channels, which stand last, and a layer scale."""

    def __init__(self, a: int):
        super().__init__()
        self.filter = nn.Conv2d(a, a, 7, padding=3, groups=a)
        self.norm = nn.LayerNorm(a, 1e-6)
        self.wide, self.narrow = nn.Linear(a, 4 * a), nn.Linear(4 * a, a)
        self.layer_scale = nn.Parameter(torch.full((a, 1, 1), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.filter(x).permute(0, 2, 3, 1))
        y = self.narrow(F.gelu(self.wide(y))).permute(0, 3, 1, 2)
        return x + self.layer_scale * y


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over axis 1."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """Liu et al. 2022, table 9, tiny."""

    def __init__(
        self, depths: tuple[int, ...] = (3, 3, 9, 3), width: int = 96, classes: int = 1000
    ):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, width, 4, 4), ChannelNorm(width, 1e-6))
        for stage, depth in enumerate(depths):
            if stage:
                down = nn.Conv2d(width, 2 * width, 2, 2)
                self.features.extend([ChannelNorm(width, 1e-6), down])
                width *= 2
            self.features.extend(ConvNeXtBlock(width) for _ in range(depth))
        self.norm = ChannelNorm(width, 1e-6)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.features(x), 1)
        return self.fc(self.norm(x).flatten(1))
