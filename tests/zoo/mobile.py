"""Networks for telephones: inverted residuals, channel shuffles, fire modules."""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from .layers import Activation, ConvNorm, Gate, divisible

__all__ = ["MobileNetV2", "MobileNetV3Large", "ShuffleNetV2", "SqueezeNet"]


class InvertedResidual(nn.Module):
    """Widen, filter depthwise, perhaps gate, narrow; beside a shortcut where sizes agree."""

    def __init__(
        self,
        a: int,
        wide: int,
        b: int,
        stride: int,
        *,
        k: int = 3,
        act: Activation = nn.ReLU6,
        gate: bool = False,
        eps: float = 1e-5,
    ):
        super().__init__()
        norm = partial(ConvNorm, eps=eps)
        parts: list[nn.Module] = [norm(a, wide, 1, act=act)] if wide != a else []
        parts.append(norm(wide, wide, k, stride, groups=wide, act=act))
        if gate:
            parts.append(Gate(wide, divisible(wide / 4), nn.Hardsigmoid))
        self.body = nn.Sequential(*parts, norm(wide, b, 1, act=None))
        self.same = a == b and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.same else self.body(x)


class MobileNetV2(nn.Module):
    """Sandler et al. 2018, table 2: expansion, channels, repeats, stride."""

    STAGES = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(self, classes: int = 1000):
        super().__init__()
        self.features, a = nn.Sequential(ConvNorm(3, 32, 3, 2, act=nn.ReLU6)), 32
        for expansion, b, repeats, stride in self.STAGES:
            for index in range(repeats):
                self.features.append(InvertedResidual(a, expansion * a, b, 1 if index else stride))
                a = b
        self.features.append(ConvNorm(a, 1280, 1, act=nn.ReLU6))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class MobileNetV3Large(nn.Module):
    """Howard et al. 2019, table 1: kernel, expanded, out, gate, hard-swish, stride."""

    ROWS = (
        (3, 16, 16, False, False, 1),
        (3, 64, 24, False, False, 2),
        (3, 72, 24, False, False, 1),
        (5, 72, 40, True, False, 2),
        (5, 120, 40, True, False, 1),
        (5, 120, 40, True, False, 1),
        (3, 240, 80, False, True, 2),
        (3, 200, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 480, 112, True, True, 1),
        (3, 672, 112, True, True, 1),
        (5, 672, 160, True, True, 2),
        (5, 960, 160, True, True, 1),
        (5, 960, 160, True, True, 1),
    )

    def __init__(self, classes: int = 1000):
        super().__init__()
        self.features, a = nn.Sequential(ConvNorm(3, 16, 3, 2, act=nn.Hardswish, eps=1e-3)), 16
        for k, wide, b, gate, hard, stride in self.ROWS:
            act = nn.Hardswish if hard else nn.ReLU
            block = InvertedResidual(a, wide, b, stride, k=k, act=act, gate=gate, eps=1e-3)
            self.features.append(block)
            a = b
        self.features.append(ConvNorm(a, 960, 1, act=nn.Hardswish, eps=1e-3))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(960, 1280), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(1280, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(x)).flatten(1))


class ShuffleUnit(nn.Module):
    """Half of the channels pass by (both are filtered where the stride is 2); then they mix."""

    def __init__(self, a: int, b: int, stride: int):
        super().__init__()
        half, self.stride = b // 2, stride
        into = a if stride == 2 else half
        self.right = nn.Sequential(
            ConvNorm(into, half, 1),
            ConvNorm(half, half, 3, stride, groups=half, act=None),
            ConvNorm(half, half, 1),
        )
        self.left = nn.Sequential(
            ConvNorm(a, a, 3, stride, groups=a, act=None), ConvNorm(a, half, 1)
        )
        if stride == 1:
            self.left = nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1) if self.stride == 1 else (x, x)
        return shuffle(torch.cat([self.left(left), self.right(right)], 1))


def shuffle(x: Tensor, groups: int = 2) -> Tensor:
    """Deal the channels of each group out in turn."""
    batch, channels, height, width = x.shape
    x = x.view(batch, groups, channels // groups, height, width).transpose(1, 2)
    return x.reshape(batch, channels, height, width)


class ShuffleNetV2(nn.Module):
    """Ma et al. 2018, table 5, width 1."""

    def __init__(self, classes: int = 1000):
        super().__init__()
        self.stem = ConvNorm(3, 24, 3, 2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.stages, a = nn.Sequential(), 24
        for repeats, b in ((4, 116), (8, 232), (4, 464)):
            for index in range(repeats):
                self.stages.append(ShuffleUnit(a, b, 1 if index else 2))
                a = b
        self.last = ConvNorm(a, 1024, 1)
        self.fc = nn.Linear(1024, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.last(self.stages(self.pool(self.stem(x)))).mean([2, 3]))


class Fire(nn.Module):
    """Squeeze to few channels, expand by 1 x 1 and by 3 x 3 side by side."""

    def __init__(self, a: int, squeezed: int, half: int):
        super().__init__()
        self.squeeze = nn.Conv2d(a, squeezed, 1)
        self.expand1 = nn.Conv2d(squeezed, half, 1)
        self.expand3 = nn.Conv2d(squeezed, half, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1(x).relu(), self.expand3(x).relu()], 1)


class SqueezeNet(nn.Module):
    """Iandola et al. 2016, version 1.1 of the authors' repository; no BatchNorm anywhere."""

    def __init__(self, classes: int = 1000):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            *(Fire(64, 16, 64), Fire(128, 16, 64)),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            *(Fire(128, 32, 128), Fire(256, 32, 128)),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            *(Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Conv2d(512, classes, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x)).flatten(1)
