"""Self-attention by heads, and the two-layer network beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .activations import apply, gelu_erf
from .builder import MOST_CHANNELS, Graph, Layout, Pick, Value, block
from .dense import linear, matmul
from .joins import added, project
from .norms import layer_norm
from .shaping import HOW, reshape, slice_axis, split, squeeze, transpose


def _is_sequence(x: Value) -> bool:
    return len(x.shape) == 2 and 2 <= x.shape[0] <= 36 and x.channels <= MOST_CHANNELS


@dataclass(frozen=True)
class Heads:
    """The sizes of one attention, and how its exporter writes shapes and biases."""

    x: Value
    count: int
    size: int
    how: str
    offset: str

    @staticmethod
    def read(x: Value, pick: Pick) -> Heads:
        count, size = pick.of((2, 4), (2, 3), (3, 2), (4, 2), (1, 6), (4, 4))
        return Heads(x, count, size, pick.of("zero", "minus", "tail", *HOW), _offset(pick))

    @property
    def time(self) -> int:
        return self.x.shape[0]

    @property
    def inner(self) -> int:
        return self.count * self.size

    def linear(self, g: Graph, x: Value, out: int, pick: Pick) -> str:
        return matmul(g, x, out, pick, side=self.offset).name

    def cut(self, g: Graph, name: str, dims: tuple[int, ...], pick: Pick) -> str:
        """Reshape; a computed batch size is asked of the input of the whole block."""
        return reshape(g, name, dims, pick, source=self.x.name, how=self.how)

    def apart(self, g: Graph, name: str, pick: Pick, count: int = 0) -> str:
        """(N, T, H * D) to (N, H, T, D)."""
        cut = self.cut(g, name, (self.time, count or self.count, self.size), pick)
        return transpose(g, cut, 0, 2, 1, 3)

    def joined(self, g: Graph, mixed: str, pick: Pick) -> Value:
        """(N, H, T, D) to (N, T, H * D), then the projection and maybe the residual sum."""
        back = self.cut(g, transpose(g, mixed, 0, 2, 1, 3), (self.time, self.inner), pick)
        return self.finished(g, back, pick)

    def finished(self, g: Graph, name: str, pick: Pick) -> Value:
        y = Value(name, Layout.LAST, (self.time, self.inner), 0.0, 0.6)
        y = matmul(g, y, self.x.channels, pick, side=self.offset)
        return added(g, self.x, y) if pick.of(True, False) else y


def _offset(pick: Pick) -> str:
    return pick.of("left", "right", "none")


def _attend(g: Graph, heads: Heads, qkv: tuple[str, str, str], pick: Pick) -> str:
    """Weigh values by how queries match keys, which come as (..., D, T)."""
    q, k, v = qkv
    scale = math.sqrt(heads.size)
    how = pick.of("divide", "multiply", "both")
    if how == "both":  # what torch writes of scaled_dot_product_attention
        root = g.const(scale**-0.5)
        logits = g.op("MatMul", g.op("Mul", q, root), g.op("Mul", k, root))
    elif how == "divide":
        logits = g.op("Div", g.op("MatMul", q, k), g.const(scale))
    else:
        logits = g.op("Mul", g.op("MatMul", q, k), g.const(1 / scale))
    if pick.yes(4):  # nobody looks ahead
        shape = (heads.time, heads.time)
        logits = g.op("Add", logits, g.const(np.triu(np.full(shape, -1e4), 1)))
    return g.op("MatMul", g.op("Softmax", logits, axis=-1), v)


def _started(g: Graph, x: Value, pick: Pick) -> Value:
    return layer_norm(g, x, pick) if x.channels >= 4 and pick.yes() else x


@block("attention", Layout.LAST, fits=lambda g, x: _is_sequence(x))
def self_attention(g: Graph, x: Value, pick: Pick) -> Value:
    heads, start = Heads.read(x, pick), _started(g, x, pick)
    parts = [heads.linear(g, start, heads.inner, pick) for _ in range(3)]
    q, v = (heads.apart(g, part, pick) for part in parts[::2])
    if pick.of(True, False):
        dims = (heads.time, heads.count, heads.size)
        k = transpose(g, heads.cut(g, parts[1], dims, pick), 0, 2, 3, 1)
    else:
        k = transpose(g, heads.apart(g, parts[1], pick), 0, 1, 3, 2)
    return heads.joined(g, _attend(g, heads, (q, k, v), pick), pick)


@block("attention", Layout.LAST, fits=lambda g, x: _is_sequence(x), often=2)
def grouped_query_attention(g: Graph, x: Value, pick: Pick) -> Value:
    """Several query heads share a head of keys and of values."""
    few, times, size = pick.of((1, 2, 4), (2, 2, 3), (1, 4, 2), (2, 3, 2))
    how = pick.of("zero", "minus", "tail", *HOW)
    heads = Heads(x, few * times, size, how, _offset(pick))
    q = heads.apart(g, heads.linear(g, x, heads.inner, pick), pick)
    k, v = (_expanded(g, heads, few, pick) for _ in range(2))
    k = transpose(g, k, 0, 1, 3, 2)
    return heads.joined(g, _attend(g, heads, (q, k, v), pick), pick)


def _expanded(g: Graph, heads: Heads, few: int, pick: Pick) -> str:
    """Keys or values of a few heads, repeated for all."""
    y = heads.apart(g, heads.linear(g, heads.x, few * heads.size, pick), pick, few)
    times = g.ints(1, 1, heads.count // few, 1, 1)
    wide = g.op("Expand", g.op("Unsqueeze", y, g.ints(2)), times)
    return heads.cut(g, wide, (heads.count, heads.time, heads.size), pick)


@block("attention", Layout.LAST, fits=lambda g, x: _is_sequence(x))
def joint_attention(g: Graph, x: Value, pick: Pick) -> Value:
    """One linear layer writes queries, keys and values, side by side."""
    heads = Heads.read(x, pick)
    joint = heads.linear(g, _started(g, x, pick), 3 * heads.inner, pick)
    if pick.of(True, False):
        parts = split(g, joint, [heads.inner] * 3, pick.of(-1, 2), pick)
        q, k, v = (heads.apart(g, part, pick) for part in parts)
    else:
        q, k, v = _cut_in_five_axes(g, heads, joint, pick)
    k = transpose(g, k, 0, 1, 3, 2)
    return heads.joined(g, _attend(g, heads, (q, k, v), pick), pick)


def _cut_in_five_axes(g: Graph, heads: Heads, name: str, pick: Pick) -> Sequence[str]:
    """(N, T, 3, H, D) to (3, N, H, T, D), of which each is taken."""
    cut = heads.cut(g, name, (heads.time, 3, heads.count, heads.size), pick)
    five = transpose(g, cut, 2, 0, 3, 1, 4)
    if pick.of(True, True, False):
        return [g.op("Gather", five, g.const(i, dtype=np.int64), axis=0) for i in range(3)]
    return [squeeze(g, part, 0) for part in split(g, five, [1, 1, 1], 0, pick)]


@block("attention", Layout.LAST, fits=lambda g, x: _is_sequence(x))
def multihead_attention(g: Graph, x: Value, pick: Pick) -> Value:
    """torch.nn.MultiheadAttention: time first, and heads counted with the batch."""
    heads = Heads.read(x, pick)
    first = x.become(transpose(g, x.name, 1, 0, 2))
    merged = g.ints(heads.time, -1, heads.size)
    q, k, v = (
        transpose(g, g.op("Reshape", heads.linear(g, first, heads.inner, pick), merged), 1, 0, 2)
        for _ in range(3)
    )
    mixed = _attend(g, heads, (q, transpose(g, k, 0, 2, 1), v), pick)
    back = g.op("Reshape", transpose(g, mixed, 1, 0, 2), g.ints(heads.time, -1, heads.inner))
    y = Value(back, Layout.LAST, (heads.time, heads.inner), 0.0, 0.6)
    y = matmul(g, y, x.channels, pick, side=heads.offset)
    y = y.become(transpose(g, y.name, 1, 0, 2))
    return added(g, x, y) if pick.yes() else y


def _sequences(g: Graph, x: Value) -> list[Value]:
    last = [v for v in g.values if v.layout is Layout.LAST and len(v.shape) == 2]
    return [v for v in last if v.name != x.name]


@block("attention", Layout.LAST, fits=lambda g, x: _is_sequence(x) and bool(_sequences(g, x)))
def cross_attention(g: Graph, x: Value, pick: Pick) -> Value:
    """One head that looks at another sequence."""
    other, size = pick.of(*_sequences(g, x)), pick.of(4, 6)
    q = linear(g, x, size, pick).name
    k, v = linear(g, other, size, pick).name, linear(g, other, x.channels, pick)
    logits = g.op("MatMul", q, transpose(g, k, 0, 2, 1))
    weights = g.op("Softmax", g.op("Div", logits, g.const(math.sqrt(size))), axis=-1)
    y = x.become(g.op("MatMul", weights, v.name), 0.0, 0.6)
    return added(g, x, y) if pick.of(True, False) else y


@block("gate", Layout.FIRST, fits=lambda g, x: 4 <= math.prod(x.space) <= 36)
def attention_over_space(g: Graph, x: Value, pick: Pick) -> Value:
    """Non-local block: positions attend to positions, channels first throughout."""
    count, size, how = math.prod(x.space), pick.of(4, 3), pick.of(*HOW)
    q, k, v = (project(g, x, n, pick) for n in (size, size, x.channels))
    rows = [
        reshape(g, y.name, (y.channels, count), pick, source=x.name, how=how) for y in (q, k, v)
    ]
    logits = g.op("MatMul", transpose(g, rows[0], 0, 2, 1), rows[1])
    weights = g.op("Softmax", g.op("Div", logits, g.const(math.sqrt(size))), axis=-1)
    mixed = g.op("MatMul", rows[2], transpose(g, weights, 0, 2, 1))
    y = x.become(reshape(g, mixed, x.shape, pick, source=x.name, how=how), 0.0, 0.4)
    return added(g, x, y) if pick.of(True, False) else y


@block("sequence", Layout.LAST, Layout.FLAT, fits=lambda g, x: x.channels <= MOST_CHANNELS)
def two_layers(g: Graph, x: Value, pick: Pick) -> Value:
    """The feed-forward half of a transformer layer."""
    hidden = linear(g, _started(g, x, pick), pick.of(16, 8, 24), pick)
    bent = gelu_erf(g, hidden, pick) if g.opset < 20 or pick.yes() else apply(g, hidden, "gelu")
    y = linear(g, bent, x.channels, pick)
    return added(g, x, y) if pick.of(True, False) else y


@block("sequence", Layout.LAST, fits=lambda g, x: _is_sequence(x) and x.channels % 2 == 0, often=2)
def rotary(g: Graph, x: Value, pick: Pick) -> Value:
    """Rotary position embedding: x * cos + rotate_half(x) * sin."""
    half, time = x.channels // 2, x.shape[0]
    angle = np.outer(np.arange(time), 0.5 ** np.arange(half))
    cos, sin = (g.const(np.tile(f(angle), 2)) for f in (np.cos, np.sin))
    low = slice_axis(g, x.name, 2, (0, half, 1))
    high = slice_axis(g, x.name, 2, (half, np.iinfo(np.int64).max, 1))
    turned = g.op("Concat", g.op("Neg", high), low, axis=-1)
    return x.become(g.op("Add", g.op("Mul", x.name, cos), g.op("Mul", turned, sin)))
