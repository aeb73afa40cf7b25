"""Convolutional keyword spotters, over raw sound, over time, and over time and frequency."""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import ConvNorm

__all__ = ["DSCNN", "M5", "BCResNet", "Res", "TCResNet8"]


class M5(nn.Module):
    """Dai et al. 2017, table 1: four convolutions over the raw waveform."""

    def __init__(
        self,
        width: int = 128,
        factors: tuple[int, ...] = (1, 1, 2, 4),
        *,
        stride: int = 4,
        classes: int = 10,
    ):
        super().__init__()
        widths = [1, *(width * factor for factor in factors)]
        self.features = nn.Sequential()
        for index, (a, b) in enumerate(pairwise(widths)):
            conv = nn.Conv1d(a, b, 3) if index else nn.Conv1d(a, b, 80, stride)
            self.features.extend([conv, nn.BatchNorm1d(b), nn.ReLU(), nn.MaxPool1d(4)])
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = F.avg_pool1d(x, x.shape[-1]).permute(0, 2, 1)
        return F.log_softmax(self.fc(x), 2).flatten(1)


class DSCNN(nn.Module):
    """Zhang et al. 2017, small, over 49 frames of 10 coefficients; biases before BatchNorm."""

    def __init__(self, width: int = 64, blocks: int = 4, classes: int = 12):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, (10, 4), 2), *_norm(width), nn.Dropout(0.2))
        self.blocks = nn.Sequential()
        for _ in range(blocks):
            depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
            self.blocks.extend([depthwise, *_norm(width)])
            self.blocks.extend([nn.Conv2d(width, width, 1), *_norm(width)])
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        # What TensorFlow calls "same" is uneven: one row more below than above.
        x = self.blocks(self.stem(F.pad(x, (1, 1, 4, 5))))
        return self.fc(F.avg_pool2d(x, (25, 5)).flatten(1))


def _norm(width: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(width), nn.ReLU()


class TCBlock(nn.Module):
    """Two convolutions over nine frames beside a shortcut."""

    def __init__(self, a: int, b: int):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv1d(a, b, 9, 2, 4, bias=False), nn.BatchNorm1d(b)
        self.conv2, self.norm2 = nn.Conv1d(b, b, 9, 1, 4, bias=False), nn.BatchNorm1d(b)
        shortcut = nn.Conv1d(a, b, 1, 2, bias=False)
        self.shortcut = nn.Sequential(shortcut, nn.BatchNorm1d(b), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(self.conv1(x)).relu()
        return (self.norm2(self.conv2(y)) + self.shortcut(x)).relu()


class TCResNet8(nn.Module):
    """Choi et al. 2019, figure 2: the coefficients are channels, and time the only axis."""

    def __init__(self, coefficients: int = 40, classes: int = 12):
        super().__init__()
        self.stem = nn.Conv1d(coefficients, 16, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(TCBlock(16, 24), TCBlock(24, 32), TCBlock(32, 48))
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(48, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool1d(self.blocks(self.stem(x)), 1)
        return self.fc(self.dropout(x).squeeze(-1))


class Res(nn.Module):
    """Tang and Lin 2018, section 3: res8 pools first, res15 widens its view by dilation.

    BatchNorm has no weights of its own, and comes after the addition.
    """

    def __init__(self, layers: int, pool: tuple[int, int] | None, classes: int = 12):
        super().__init__()
        width = 45
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.pool = nn.AvgPool2d(pool) if pool else nn.Identity()
        spreads = [1 if pool else 1 << index // 3 for index in range(layers)]
        self.convs = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=spread, dilation=spread, bias=False)
            for spread in spreads
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, affine=False) for _ in spreads)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = shortcut = self.pool(self.stem(x).relu())
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = conv(x).relu()
            if index % 2:
                x = shortcut = x + shortcut
            x = norm(x)
        return self.fc(x.flatten(2).mean(2))


class SubSpectralNorm(nn.Module):
    """BatchNorm apart for each band of frequencies (Chang et al. 2021)."""

    def __init__(self, channels: int, bands: int = 5):
        super().__init__()
        self.norm, self.bands = nn.BatchNorm2d(channels * bands), bands

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, bins, frames = x.shape
        x = x.view(batch, channels * self.bands, bins // self.bands, frames)
        return self.norm(x).view(batch, channels, bins, frames)


class BroadcastBlock(nn.Module):
    """What a mean over frequency says in time is added back to every frequency."""

    def __init__(self, a: int, b: int, stride: int, spread: int):
        super().__init__()
        self.same = a == b
        over_bins = nn.Conv2d(b, b, (3, 1), (stride, 1), (1, 0), groups=b, bias=False)
        self.spatial = nn.Sequential(over_bins, SubSpectralNorm(b))
        if not self.same:
            self.spatial.insert(0, ConvNorm(a, b, 1))
        self.temporal = nn.Sequential(
            nn.Conv2d(b, b, (1, 3), 1, (0, spread), (1, spread), groups=b, bias=False),
            *(nn.BatchNorm2d(b), nn.SiLU(), nn.Conv2d(b, b, 1, bias=False), nn.Dropout2d(0.1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.spatial(x)
        y = y + self.temporal(y.mean(2, keepdim=True))
        return (x + y if self.same else y).relu()


class BCResNet(nn.Module):
    """Kim et al. 2021, table 1; `scale` is the number in the model's name."""

    def __init__(self, scale: float = 1, classes: int = 12):
        super().__init__()
        a = int(16 * scale)
        stem = nn.Conv2d(1, a, 5, (2, 1), 2, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(a), nn.ReLU())
        self.blocks = nn.Sequential()
        for stage, (share, blocks) in enumerate(((8, 2), (12, 2), (16, 4), (20, 4))):
            b = int(share * scale)
            for index in range(blocks):
                stride = 2 if stage in (1, 2) and not index else 1
                self.blocks.append(BroadcastBlock(a, b, stride, 1 << stage))
                a = b
        wide = int(32 * scale)
        last = nn.Conv2d(a, a, 5, padding=(0, 2), groups=a, bias=False)
        self.last = nn.Sequential(last, ConvNorm(a, wide, 1), nn.AdaptiveAvgPool2d(1))
        self.fc = nn.Conv2d(wide, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(self.fc(self.last(self.blocks(self.stem(x)))), 1)
