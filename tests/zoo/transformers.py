"""Transformers over pictures and a language model's block; three ways to write attention."""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import RMSNorm

__all__ = ["DeiT", "Llama", "Swin", "ViT"]


class Patches(nn.Module):
    """Cut a picture into patches of 16 x 16, put a class token before them, add positions."""

    def __init__(self, width: int, size: int, patch: int = 16):
        super().__init__()
        self.conv = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(0.5 * torch.randn(1, (size // patch) ** 2 + 1, width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).flatten(2).transpose(1, 2)
        return torch.cat([self.token.expand(x.size(0), -1, -1), x], 1) + self.positions


class MLP(nn.Sequential):
    """Widen, GELU, narrow."""

    def __init__(self, width: int, wide: int):
        super().__init__(
            *(nn.Linear(width, wide), nn.GELU(), nn.Dropout(0.0), nn.Linear(wide, width))
        )


class ViTLayer(nn.Module):
    """Pre-norm, with torch's own attention: its three projections are one plain parameter."""

    def __init__(self, width: int, heads: int, wide: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = MLP(width, wide)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Dosovitskiy et al. 2021, table 1, base, patches of 16."""

    def __init__(self, width: int = 768, heads: int = 12, depth: int = 12, classes: int = 1000):
        super().__init__()
        self.patches = Patches(width, 224)
        self.layers = nn.Sequential(*(ViTLayer(width, heads, 4 * width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, 1e-6)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.layers(self.patches(x)))[:, 0])


class FusedAttention(nn.Module):
    """One Linear writes queries, keys and values; then torch's fused attention."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.out(x.transpose(1, 2).reshape(batch, tokens, width))


class DeiTLayer(nn.Module):
    """Pre-norm, as timm writes it."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.attention, self.mlp = FusedAttention(width, heads), MLP(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class DeiT(nn.Module):
    """Touvron et al. 2021, table 1, tiny, without the distillation token."""

    def __init__(self, width: int = 192, heads: int = 3, depth: int = 12, classes: int = 1000):
        super().__init__()
        self.patches = Patches(width, 224)
        self.layers = nn.ModuleList(DeiTLayer(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, 1e-6)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).select(1, 0))


class WindowAttention(nn.Module):
    """Attention inside windows, with a learnt bias for each distance between two places."""

    def __init__(self, width: int, heads: int, window: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.randn((2 * window - 1) ** 2, heads))
        self.register_buffer("distance", _distances(window), persistent=False)
        self.distance: Tensor

    def forward(self, x: Tensor, blocked: Tensor | None) -> Tensor:
        windows, places, width = x.shape
        qkv = self.qkv(x).view(windows, places, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        scores = q * (width // self.heads) ** -0.5 @ k.transpose(-2, -1)
        bias = self.bias[self.distance.flatten()].view(places, places, self.heads)
        scores = scores + bias.permute(2, 0, 1).unsqueeze(0)
        if blocked is not None:
            count = blocked.shape[0]
            scores = scores.view(-1, count, self.heads, places, places) + blocked[:, None]
            scores = scores.view(-1, self.heads, places, places)
        x = scores.softmax(-1) @ v
        return self.out(x.transpose(1, 2).reshape(windows, places, width))


def _distances(window: int) -> Tensor:
    """Where in the table of biases the distance between every two places of a window stands."""
    place = torch.arange(window, device="cpu")
    place = torch.stack(torch.meshgrid(place, place, indexing="ij")).flatten(1)
    apart = place[:, :, None] - place[:, None, :] + window - 1
    return apart[0] * (2 * window - 1) + apart[1]


def _windows(x: Tensor, window: int) -> Tensor:
    """From (batch, side, side, width) to (batch times windows, places, width)."""
    side, width = x.shape[1], x.shape[3]
    x = x.view(-1, side // window, window, side // window, window, width)
    return x.transpose(2, 3).reshape(-1, window * window, width)


def _blocked(side: int, window: int, shift: int) -> Tensor:
    """-100 between places that are neighbours only because the picture was rolled."""
    zone = torch.zeros(side, device="cpu")
    zone[-window:] += 1
    zone[-shift:] += 1
    zones = _windows((3 * zone[:, None] + zone)[None, :, :, None], window).squeeze(-1)
    return -100.0 * (zones[:, None, :] != zones[:, :, None])


class SwinBlock(nn.Module):
    """Attention in windows, shifted by half a window in every other block; then an MLP."""

    def __init__(self, width: int, heads: int, side: int, window: int, shift: int):
        super().__init__()
        # A window as large as the picture has nothing to be shifted against.
        self.side, self.window = side, min(window, side)
        self.shift = shift if window < side else 0
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = WindowAttention(width, heads, self.window)
        self.mlp = MLP(width, 4 * width)
        blocked = _blocked(side, self.window, self.shift) if self.shift else None
        self.register_buffer("blocked", blocked, persistent=False)
        self.blocked: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        side, window, width = self.side, self.window, x.shape[-1]
        y = self.norm1(x).view(-1, side, side, width)
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        y = self.attention(_windows(y, window), self.blocked)
        y = y.view(-1, side // window, side // window, window, window, width)
        y = y.transpose(2, 3).reshape(-1, side, side, width)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y.view(-1, side * side, width)
        return x + self.mlp(self.norm2(x))


class Merge(nn.Module):
    """Four neighbours become one place with twice the width."""

    def __init__(self, width: int, side: int):
        super().__init__()
        self.side = side
        self.norm, self.reduce = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, self.side, self.side, x.shape[-1])
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduce(self.norm(torch.cat(corners, -1).flatten(1, 2)))


class Swin(nn.Module):
    """Liu et al. 2021, section 3; the defaults are Swin-T's."""

    def __init__(
        self,
        side: int = 224,
        width: int = 96,
        depths: tuple[int, ...] = (2, 2, 6, 2),
        *,
        head_width: int = 32,
        window: int = 7,
        classes: int = 1000,
    ):
        super().__init__()
        self.patches, side = nn.Conv2d(3, width, 4, 4), side // 4
        self.first = nn.LayerNorm(width)
        self.layers = nn.Sequential()
        for stage, depth in enumerate(depths):
            if stage:
                self.layers.append(Merge(width, side))
                width, side = 2 * width, side // 2
            for index in range(depth):
                shift = window // 2 if index % 2 else 0
                self.layers.append(SwinBlock(width, width // head_width, side, window, shift))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.patches(x).flatten(2).transpose(1, 2))
        return self.head(self.norm(self.layers(x)).mean(1))


class GroupedAttention(nn.Module):
    """Several query heads share one head of keys and values; positions turn them (rotary)."""

    def __init__(self, width: int, heads: int, shared: int, tokens: int):
        super().__init__()
        self.size, self.repeat = width // heads, heads // shared
        self.q = nn.Linear(width, width, False)
        self.k, self.v = (nn.Linear(width, shared * self.size, False) for _ in "kv")
        self.out = nn.Linear(width, width, False)
        speed = 10000.0 ** (-torch.arange(0, self.size, 2, device="cpu") / self.size)
        angle = torch.outer(torch.arange(tokens, device="cpu"), speed).repeat(1, 2)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        self.cos: Tensor
        self.sin: Tensor

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = (
            linear(x).view(batch, tokens, -1, self.size).transpose(1, 2)
            for linear in (self.q, self.k, self.v)
        )
        q, k = self._turned(q), self._turned(k)
        k, v = (part.repeat_interleave(self.repeat, 1) for part in (k, v))
        x = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(x.transpose(1, 2).reshape(batch, tokens, width))

    def _turned(self, x: Tensor) -> Tensor:
        half = self.size // 2
        swapped = torch.cat([-x[..., half:], x[..., :half]], -1)
        return x * self.cos + swapped * self.sin


class LlamaBlock(nn.Module):
    """RMSNorm, grouped attention, RMSNorm, an MLP whose one half opens the other (SwiGLU)."""

    def __init__(self, width: int, heads: int, shared: int, wide: int, tokens: int):
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(width, 1e-5), RMSNorm(width, 1e-5)
        self.attention = GroupedAttention(width, heads, shared, tokens)
        self.gate, self.up = nn.Linear(width, wide, False), nn.Linear(width, wide, False)
        self.down = nn.Linear(wide, width, False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Llama(nn.Sequential):
    """Blocks over embedded tokens, and the last norm; the defaults are one layer of Llama 3 8B."""

    def __init__(
        self,
        width: int = 4096,
        heads: int = 32,
        shared: int = 8,
        wide: int = 14336,
        *,
        depth: int = 1,
        tokens: int = 16,
    ):
        blocks = (LlamaBlock(width, heads, shared, wide, tokens) for _ in range(depth))
        super().__init__(*blocks, RMSNorm(width, 1e-5))
