"""ResNets and what came of them: grouped (ResNeXt), wide, and RegNets with and without gates."""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from .layers import ConvNorm, Gate

__all__ = ["RegNet", "RegNetShape", "ResNet", "regnet_x", "regnet_y", "resnet18", "resnet50"]
__all__ += ["resnext50", "wide_resnet50"]


class Basic(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    def __init__(self, a: int, width: int, stride: int, **_: int):
        super().__init__()
        self.conv1 = ConvNorm(a, width, 3, stride)
        self.conv2 = ConvNorm(width, width, act=None)
        same = a == width and stride == 1
        self.shortcut = nn.Identity() if same else ConvNorm(a, width, 1, stride, act=None)
        self.out = width

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x)) + self.shortcut(x)).relu()


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 with the stride, 1 x 1 to four times the width (ResNet version 1.5)."""

    def __init__(self, a: int, width: int, stride: int, *, groups: int = 1, base: int = 64):
        super().__init__()
        inner, self.out = width * base // 64 * groups, 4 * width
        self.conv1 = ConvNorm(a, inner, 1)
        self.conv2 = ConvNorm(inner, inner, 3, stride, groups=groups)
        self.conv3 = ConvNorm(inner, self.out, 1, act=None)
        same = a == self.out and stride == 1
        self.shortcut = nn.Identity() if same else ConvNorm(a, self.out, 1, stride, act=None)

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv3(self.conv2(self.conv1(x))) + self.shortcut(x)).relu()


class ResNet(nn.Module):
    """He et al. 2016, table 1; `groups` and `base` width a group make ResNeXt and WideResNet."""

    def __init__(
        self,
        block: type[Basic] | type[Bottleneck],
        depths: Sequence[int],
        *,
        groups: int = 1,
        base: int = 64,
        classes: int = 1000,
    ):
        super().__init__()
        self.stem = ConvNorm(3, 64, 7, 2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.stages, a = nn.Sequential(), 64
        for stage, depth in enumerate(depths):
            for index in range(depth):
                stride = 2 if stage and not index else 1
                part = block(a, 64 << stage, stride, groups=groups, base=base)
                self.stages.append(part)
                a = part.out
        self.fc = nn.Linear(a, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.pool(self.stem(x)))
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def resnet18() -> nn.Module:
    return ResNet(Basic, (2, 2, 2, 2))


def resnet50() -> nn.Module:
    return ResNet(Bottleneck, (3, 4, 6, 3))


def resnext50() -> nn.Module:
    return ResNet(Bottleneck, (3, 4, 6, 3), groups=32, base=4)


def wide_resnet50() -> nn.Module:
    return ResNet(Bottleneck, (3, 4, 6, 3), base=128)


@dataclass(frozen=True)
class RegNetShape:
    """Depth and width of each stage, channels a group, and the gate's share of a block's input."""

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    group_width: int
    squeeze: float | None = None


class RegBlock(nn.Module):
    """A bottleneck that is no narrower inside, its 3 x 3 in groups, perhaps gated."""

    def __init__(self, a: int, b: int, stride: int, shape: RegNetShape):
        super().__init__()
        self.conv1 = ConvNorm(a, b, 1)
        self.conv2 = ConvNorm(b, b, 3, stride, groups=b // shape.group_width)
        # The gate's width follows the block's input, not what it gates.
        self.gate = Gate(b, round(shape.squeeze * a)) if shape.squeeze else nn.Identity()
        self.conv3 = ConvNorm(b, b, 1, act=None)
        same = a == b and stride == 1
        self.shortcut = nn.Identity() if same else ConvNorm(a, b, 1, stride, act=None)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3(self.gate(self.conv2(self.conv1(x))))
        return (y + self.shortcut(x)).relu()


class RegNet(nn.Module):
    """Radosavovic et al. 2020."""

    def __init__(self, shape: RegNetShape, classes: int = 1000):
        super().__init__()
        self.stem = ConvNorm(3, 32, 3, 2)
        self.stages, a = nn.Sequential(), 32
        for depth, width in zip(shape.depths, shape.widths, strict=True):
            for index in range(depth):
                self.stages.append(RegBlock(a, width, 1 if index else 2, shape))
                a = width
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(a, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.stages(self.stem(x))).flatten(1))


def regnet_x() -> nn.Module:
    """400 MF. The last stage has 400 channels, as in torchvision; the paper says 384."""
    return RegNet(RegNetShape((1, 2, 7, 12), (32, 64, 160, 400), 16))


def regnet_y() -> nn.Module:
    """400 MF."""
    return RegNet(RegNetShape((1, 3, 6, 6), (48, 104, 208, 440), 8, 0.25))
