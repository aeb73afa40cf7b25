"""Normalisations, as operators and written out.

Where statistics are taken over space, whatever is linear in the result has the same mean over
space for every input; so an activation follows at once, lest a global pool leave a constant.
"""

from __future__ import annotations

import math

import numpy as np

from .builder import Graph, Layout, Pick, Value, block
from .shaping import reduce, reshape, transpose

EPSILON = 1e-4


def batch_norm(g: Graph, x: Value) -> Value:
    """BatchNormalization with statistics that are near the true ones, but not equal."""
    n, std = x.channels, math.sqrt(x.var)
    scale, shift = g.uniform(0.5, 1.5, n), g.normal(0.3, n)
    mean = (x.mean + std * g.rng.normal(0, 0.3, n)).astype(np.float32)
    var = g.uniform(0.6, 1.8, n) * np.float32(x.var)
    inputs = [g.const(array) for array in (scale, shift, mean, var)]
    extra = {} if g.style.terse else {"epsilon": 1e-5, "momentum": 0.9, "training_mode": 0}
    return x.become(g.op("BatchNormalization", x.name, *inputs, **extra), 0.0, 1.2)


def _affine(g: Graph, x: Value, name: str) -> str:
    """A gain and a shift per channel, as Mul and Add."""
    gain = g.const(g.per_channel(x, g.uniform(0.5, 1.5, x.channels)))
    shift = g.const(g.per_channel(x, g.normal(0.3, x.channels)))
    return g.op("Add", g.op("Mul", name, gain), shift)


def _bent(g: Graph, x: Value, name: str, pick: Pick) -> Value:
    from .activations import PLAIN, apply, lively, silu  # they build on this module

    x = x.become(name, 0.0, 1.2)
    bend = pick.of("relu" if lively(x) else "leaky_relu", "silu", "elu", "hard_swish")
    return silu(g, x, pick) if bend not in PLAIN else apply(g, x, bend)


def _room(x: Value, groups: int = 1) -> bool:
    """Whether statistics over space, and over channels of a group, are well conditioned."""
    return x.size // x.channels >= 4 and x.channels % groups == 0


@block("norm", Layout.FIRST, Layout.FLAT)
def batch_normalization(g: Graph, x: Value, pick: Pick) -> Value:
    return batch_norm(g, x)


@block("norm", Layout.FIRST, fits=lambda g, x: _room(x), often=2)
def instance_normalization(g: Graph, x: Value, pick: Pick) -> Value:
    gain, shift = g.uniform(0.5, 1.5, x.channels), g.normal(0.3, x.channels)
    inputs = (x.name, g.const(gain), g.const(shift))
    return _bent(g, x, g.op("InstanceNormalization", *inputs, epsilon=EPSILON), pick)


def _group_count(x: Value, pick: Pick) -> int:
    return pick.of(*[n for n in (2, 1, 3, 4, x.channels) if x.channels % n == 0])


@block("norm", Layout.FIRST, fits=lambda g, x: _room(x))
def group_norm_written(g: Graph, x: Value, pick: Pick) -> Value:
    """What torch's GroupNorm becomes: InstanceNormalization with the groups as channels."""
    groups = _group_count(x, pick)
    cut = g.op("Reshape", x.name, g.ints(0, groups, -1))
    ones, zeros = g.const(np.ones(groups)), g.const(np.zeros(groups))
    y = g.op("InstanceNormalization", cut, ones, zeros, epsilon=EPSILON)
    if pick.of(True, False):
        y = g.op("Reshape", y, g.op("Shape", x.name))
    else:
        y = reshape(g, y, x.shape, pick)
    return _bent(g, x, _affine(g, x, y), pick)


@block("norm", Layout.FIRST, since=21, fits=lambda g, x: _room(x), often=4)
def group_normalization(g: Graph, x: Value, pick: Pick) -> Value:
    groups = _group_count(x, pick)
    gain, shift = g.uniform(0.5, 1.5, x.channels), g.normal(0.3, x.channels)
    inputs = (x.name, g.const(gain), g.const(shift))
    name = g.op("GroupNormalization", *inputs, num_groups=groups, epsilon=EPSILON)
    return _bent(g, x, name, pick)


def layer_norm(g: Graph, x: Value, pick: Pick) -> Value:
    """LayerNormalization over the last axis."""
    gain = g.const(g.uniform(0.5, 1.5, x.shape[-1]))
    shift = [g.const(g.normal(0.3, x.shape[-1]))] if pick.of(True, True, False) else []
    axis = pick.of(-1, len(x.shape))
    name = g.op("LayerNormalization", x.name, gain, *shift, axis=axis, epsilon=EPSILON)
    return x.become(name, 0.0, 1.2)


@block("norm", Layout.FLAT, Layout.LAST, fits=lambda g, x: x.channels >= 4)
def layer_normalization(g: Graph, x: Value, pick: Pick) -> Value:
    return layer_norm(g, x, pick)


@block("exotic", Layout.FIRST, fits=lambda g, x: x.shape[-1] >= 4, often=2)
def layer_norm_over_width(g: Graph, x: Value, pick: Pick) -> Value:
    """Over the last axis of a picture, which is not the channels'."""
    return _bent(g, x, layer_norm(g, x, pick).name, pick)


@block("norm", Layout.FLAT, Layout.LAST, fits=lambda g, x: x.channels >= 4)
def layer_norm_written(g: Graph, x: Value, pick: Pick) -> Value:
    """What torch writes below opset 17."""
    centred = g.op("Sub", x.name, reduce(g, "ReduceMean", x.name, [-1]))
    power = reduce(g, "ReduceMean", g.op("Pow", centred, g.const(2.0)), [-1])
    std = g.op("Sqrt", g.op("Add", power, g.const(EPSILON)))
    return x.become(_affine(g, x, g.op("Div", centred, std)), 0.0, 1.2)


@block("norm", Layout.FLAT, Layout.LAST, fits=lambda g, x: x.channels >= 4)
def rms_norm(g: Graph, x: Value, pick: Pick) -> Value:
    """RMSNorm, which no operator below opset 23 knows."""
    square = g.op("Pow", x.name, g.const(2.0)) if pick.of(True, False) else None
    square = square or g.op("Mul", x.name, x.name)
    power = reduce(g, "ReduceMean", square, [-1])
    root = g.op("Sqrt", g.op("Add", power, g.const(EPSILON)))
    if pick.of(True, False):
        y = g.op("Mul", x.name, g.op("Reciprocal", root))
    else:
        y = g.op("Div", x.name, root)
    gain = g.const(g.uniform(0.5, 1.5, x.channels))
    terms = (gain, y) if pick.of(True, False) else (y, gain)
    mean = x.mean / math.sqrt(x.power)
    return x.become(g.op("Mul", *terms), mean, max(1 - mean**2, 0.05) * 1.1)


@block("norm", Layout.FIRST, fits=lambda g, x: x.channels >= 4)
def channel_layer_norm(g: Graph, x: Value, pick: Pick) -> Value:
    """LayerNorm over the channels of a picture: there, and back again."""
    n = len(x.shape)
    last = x.become(transpose(g, x.name, 0, *range(2, n + 1), 1))
    gain, shift = g.const(g.uniform(0.5, 1.5, x.channels)), g.const(g.normal(0.3, x.channels))
    y = g.op("LayerNormalization", last.name, gain, shift, axis=-1, epsilon=EPSILON)
    return x.become(transpose(g, y, 0, n, *range(1, n)), 0.0, 1.2)


@block("exotic", fits=lambda g, x: x.channels >= 4, often=3)
def l2_normalized(g: Graph, x: Value, pick: Pick) -> Value:
    """A vector of length one over the channels."""
    if pick.yes():
        name = g.op("LpNormalization", x.name, axis=x.axis, p=2)
    else:
        length = g.op("Clip", reduce(g, "ReduceL2", x.name, [x.axis]), g.const(1e-4))
        name = g.op("Div", x.name, g.op("Expand", length, g.op("Shape", x.name)))
    mean = x.mean / math.sqrt(x.power * x.channels)
    return x.become(name, mean, max(1 / x.channels - mean**2, 0.05 / x.channels))


@block("exotic", Layout.FIRST, fits=lambda g, x: _room(x) and len(x.space) == 2, often=4)
def mean_variance_normalization(g: Graph, x: Value, pick: Pick) -> Value:
    """Over space, or over space and channels; over the batch only by default, which we leave."""
    axes = pick.of([2, 3], [1, 2, 3])
    return _bent(g, x, g.op("MeanVarianceNormalization", x.name, axes=axes), pick)


@block("exotic", Layout.FIRST, fits=lambda g, x: len(x.space) == 2, often=3)
def local_response_normalization(g: Graph, x: Value, pick: Pick) -> Value:
    size = pick.of(3, 5)
    name = g.op("LRN", x.name, size=size, alpha=0.3, beta=0.75, bias=1.0)
    return x.become(name, 0.8 * x.mean, 0.7 * x.var)
