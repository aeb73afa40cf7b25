"""Speech encoders that mix convolution and attention: wav2vec 2.0 and the Conformer."""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

__all__ = ["Conformer", "Wav2Vec2", "Wav2Vec2Shape"]


@dataclass(frozen=True)
class Wav2Vec2Shape:
    """The widths of wav2vec 2.0; the defaults are the base model's."""

    features: int = 512
    width: int = 768
    heads: int = 12
    wide: int = 3072
    depth: int = 12
    position_kernel: int = 128
    position_groups: int = 16
    classes: int | None = None


class FeatureLayer(nn.Module):
    """Convolution over sound; the first one's channels are normalised each over time."""

    def __init__(self, a: int, b: int, kernel: int, stride: int):
        super().__init__()
        self.conv = nn.Conv1d(a, b, kernel, stride, bias=False)
        self.norm = nn.GroupNorm(b, b) if a == 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.norm(self.conv(x)))


class Attention(nn.Module):
    """Three projections, and the softmax written out."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in "qkv")
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self._split(self.q(x)), self._split(self.k(x)), self._split(self.v(x))
        scores = torch.softmax(q @ k.transpose(2, 3) / self.size**0.5, -1)
        return self.out((scores @ v).transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), -1, self.heads, self.size).transpose(1, 2)


class EncoderLayer(nn.Module):
    """Post-norm, as in the first transformer."""

    def __init__(self, width: int, heads: int, wide: int):
        super().__init__()
        self.attention = Attention(width, heads)
        self.wide, self.narrow = nn.Linear(width, wide), nn.Linear(wide, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.narrow(F.gelu(self.wide(x))))


class Wav2Vec2(nn.Module):
    """Baevski et al. 2020, section 2: samples, features, positions by convolution, transformer."""

    KERNELS = (10, 3, 3, 3, 3, 2, 2)
    STRIDES = (5, 2, 2, 2, 2, 2, 2)

    def __init__(self, shape: Wav2Vec2Shape):
        super().__init__()
        widths = [1, *[shape.features] * 6]
        self.features = nn.Sequential(
            *map(FeatureLayer, widths, [shape.features] * 7, self.KERNELS, self.STRIDES)
        )
        width, kernel = shape.width, shape.position_kernel
        self.feature_norm = nn.LayerNorm(shape.features)
        self.project = nn.Linear(shape.features, width)
        conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=shape.position_groups)
        self.positions = weight_norm(conv, dim=2)
        self.norm = nn.LayerNorm(width)
        layers = (EncoderLayer(width, shape.heads, shape.wide) for _ in range(shape.depth))
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(width, shape.classes) if shape.classes else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x.unsqueeze(1)).transpose(1, 2)
        x = self.project(self.feature_norm(x))
        # The kernel is even, so the padding writes one frame too many.
        positions = F.gelu(self.positions(x.transpose(1, 2))[:, :, :-1])
        x = self.layers(self.norm(x + positions.transpose(1, 2)))
        return x if self.fc is None else self.fc(x.mean(1))


class HalfStep(nn.Sequential):
    """A feed-forward module, of which the Conformer adds one half before and after."""

    def __init__(self, width: int):
        super().__init__(
            *(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.SiLU(), nn.Dropout(0.1)),
            *(nn.Linear(4 * width, width), nn.Dropout(0.1)),
        )


class ConvModule(nn.Module):
    """Pointwise with a gate (GLU), depthwise over time, BatchNorm, SiLU, pointwise."""

    def __init__(self, width: int, kernel: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.wide = nn.Conv1d(width, 2 * width, 1)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.batch_norm = nn.BatchNorm1d(width)
        self.narrow = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.glu(self.wide(self.norm(x).transpose(1, 2)), 1)
        return self.narrow(F.silu(self.batch_norm(self.depthwise(x)))).transpose(1, 2)


class ConformerLayer(nn.Module):
    """Half a feed-forward step, attention, convolution, half a step, LayerNorm."""

    def __init__(self, width: int, heads: int, kernel: int):
        super().__init__()
        self.before, self.after = HalfStep(width), HalfStep(width)
        self.attention_norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.conv = ConvModule(width, kernel)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.before(x)
        y = self.attention_norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.conv(x)
        return self.norm(x + 0.5 * self.after(x))


class Conformer(nn.Module):
    """Gulati et al. 2020, figure 1, with plain attention; two strided convolutions come first."""

    def __init__(
        self,
        width: int = 144,
        heads: int = 4,
        depth: int = 16,
        kernel: int = 31,
        *,
        bins: int = 80,
        classes: int = 12,
    ):
        super().__init__()
        self.subsample = nn.Sequential(
            *(nn.Conv2d(1, width, 3, 2), nn.ReLU(), nn.Conv2d(width, width, 3, 2), nn.ReLU())
        )
        left = ((bins - 1) // 2 - 1) // 2
        self.project = nn.Linear(width * left, width)
        layers = (ConformerLayer(width, heads, kernel) for _ in range(depth))
        self.layers = nn.ModuleList(layers)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.subsample(x.unsqueeze(1))
        x = self.project(x.transpose(1, 2).flatten(2))
        for layer in self.layers:
            x = layer(x)
        return self.fc(x.mean(1))
