"""Where branches meet: sums, gates, concatenations."""

from __future__ import annotations

import math

from .activations import activate, apply, recentre
from .builder import MOST_CHANNELS, Graph, Layout, Pick, Value, block
from .convs import conv, pointwise, same
from .dense import linear
from .shaping import reduce, reshape, unsqueeze
from .space import averaged, pooled


def project(g: Graph, x: Value, out: int, pick: Pick) -> Value:
    """Change the number of channels and nothing else."""
    if x.layout is Layout.FIRST:
        return conv(g, x, out, pointwise(len(x.space)), offset=pick.of(True, False))
    return linear(g, x, out, pick)


def look_around(g: Graph, x: Value, out: int, pick: Pick) -> Value:
    """A convolution of 3, or a linear layer where there is no space."""
    if x.layout is Layout.FIRST:
        return conv(g, x, out, same(x), offset=pick.of(True, False))
    return linear(g, x, out, pick)


def twins(g: Graph, x: Value) -> list[Value]:
    """Earlier values of the same shape, those that nothing reads yet first."""
    alike = [v for v in reversed(g.values) if v.shape == x.shape and v.layout is x.layout]
    read = {name for node in g.nodes for name in node.input}
    return sorted((v for v in alike if v.name != x.name), key=lambda v: v.name in read)


def neighbours(g: Graph, x: Value) -> list[Value]:
    """Earlier values of the same space, whatever their channels."""
    alike = [v for v in reversed(g.values) if v.layout is x.layout and v.name != x.name]
    return [v for v in alike if v.space == x.space and v.channels <= MOST_CHANNELS]


def added(g: Graph, a: Value, b: Value) -> Value:
    name = g.op("Add", a.name, b.name)
    return a.become(name, a.mean + b.mean, a.var + b.var)


@block("join", fits=lambda g, x: bool(twins(g, x)), often=2)
def add_earlier(g: Graph, x: Value, pick: Pick) -> Value:
    other = pick.of(*twins(g, x))
    return added(g, *((x, other) if pick.of(True, False) else (other, x)))


@block("join", fits=lambda g, x: x.channels <= MOST_CHANNELS)
def residual(g: Graph, x: Value, pick: Pick) -> Value:
    """x + f(x), with an activation before or after."""
    before = pick.yes()
    start = activate(g, x, pick) if before else x
    mid = activate(g, look_around(g, start, pick.of(8, x.channels, 4), pick), pick)
    y = look_around(g, mid, x.channels, pick)
    y = added(g, x, y) if pick.of(True, False) else added(g, y, x)
    return y if before else activate(g, y, pick)


@block("join", fits=lambda g, x: bool(neighbours(g, x)) and x.channels <= MOST_CHANNELS)
def add_projected(g: Graph, x: Value, pick: Pick) -> Value:
    other = project(g, pick.of(*neighbours(g, x)), x.channels, pick)
    return added(g, x, other)


@block("join", fits=lambda g, x: bool(twins(g, x)), often=3)
def several_at_once(g: Graph, x: Value, pick: Pick) -> Value:
    """Max, Min, Sum or Mean of two or three tensors."""
    others = twins(g, x)[: pick.of(1, 2)]
    kind = pick.of("Max", "Sum", "Mean", "Min")
    name = g.op(kind, x.name, *(v.name for v in others))
    count = len(others) + 1
    mean, var = sum(v.mean for v in (x, *others)), sum(v.var for v in (x, *others))
    if kind == "Sum":
        return x.become(name, mean, var)
    shift = {"Max": 0.6, "Min": -0.6, "Mean": 0.0}[kind] * math.sqrt(var / count)
    share = count**2 if kind == "Mean" else 1.5 * count
    return x.become(name, mean / count + shift, var / share)


@block("join", fits=lambda g, x: bool(_fitting(g, x)), often=2)
def concat_earlier(g: Graph, x: Value, pick: Pick) -> Value:
    other = pick.of(*_fitting(g, x))
    return concat(g, *((x, other) if pick.of(True, False) else (other, x)))


def _fitting(g: Graph, x: Value) -> list[Value]:
    return [v for v in neighbours(g, x) if v.channels + x.channels <= MOST_CHANNELS]


def concat(g: Graph, *parts: Value) -> Value:
    """Join channels."""
    first = parts[0]
    axis = -1 if first.layout is Layout.LAST else 1
    channels = sum(v.channels for v in parts)
    share = [v.channels / channels for v in parts]
    mean = sum(s * v.mean for s, v in zip(share, parts, strict=True))
    power = sum(s * v.power for s, v in zip(share, parts, strict=True))
    name = g.op("Concat", *(v.name for v in parts), axis=axis)
    y = first.resized(name, channels=channels)
    return y.become(name, mean, max(power - mean**2, 1e-4))


@block("join", fits=lambda g, x: 2 * x.channels <= MOST_CHANNELS)
def concat_twice(g: Graph, x: Value, pick: Pick) -> Value:
    return concat(g, *[x] * (3 if pick.yes() and 3 * x.channels <= MOST_CHANNELS else 2))


@block("join", fits=lambda g, x: x.channels <= MOST_CHANNELS - 4)
def dense_block(g: Graph, x: Value, pick: Pick) -> Value:
    """What a layer finds is put beside what it read."""
    grown = look_around(g, activate(g, x, pick), pick.of(4, 3, 2), pick)
    return concat(g, *((x, grown) if pick.of(True, False) else (grown, x)))


@block("join", fits=lambda g, x: bool(_elsewhere(g, x)) and x.channels <= MOST_CHANNELS)
def add_broadcast(g: Graph, x: Value, pick: Pick) -> Value:
    """What another branch, of whatever shape, says about the channels."""
    return bring(g, x, pick.of(*_elsewhere(g, x)), pick)


def _elsewhere(g: Graph, x: Value) -> list[Value]:
    return [v for v in reversed(g.values) if (v.layout, v.space) != (x.layout, x.space)]


def bring(g: Graph, x: Value, other: Value, pick: Pick) -> Value:
    """Reduce another value to one vector and join it to `x` by Add or by a gate."""
    vector = as_vector(g, other, pick)
    y = linear(g, vector, x.channels, pick)
    gated = pick.yes(3)
    y = apply(g, y, "sigmoid") if gated else y
    name = spread(g, y.name, x, pick)
    if gated:
        return multiplied(g, x, y.become(name))
    return x.become(g.op("Add", x.name, name), x.mean, x.var + y.var)


def as_vector(g: Graph, x: Value, pick: Pick) -> Value:
    """The mean over space as a 2-D tensor."""
    if x.layout is Layout.FLAT:
        return x
    y = averaged(x, reduce(g, "ReduceMean", x.name, x.space_axes, keepdims=0))
    return Value(y.name, Layout.FLAT, (x.channels,), y.mean, y.var)


def spread(g: Graph, name: str, x: Value, pick: Pick) -> str:
    """Give a 2-D tensor axes of one so that it broadcasts over the space of `x`."""
    if x.layout is Layout.FLAT:
        return name
    if pick.of(True, False):
        return unsqueeze(g, name, *x.space_axes)
    ones = [1] * len(x.space)
    dims = [x.channels, *ones] if x.layout is Layout.FIRST else [*ones, x.channels]
    return reshape(g, name, tuple(dims), pick)


def multiplied(g: Graph, x: Value, gate: Value, flipped: bool = False) -> Value:
    terms = (gate.name, x.name) if flipped else (x.name, gate.name)
    mean, power = x.mean * gate.mean, x.power * gate.power
    return x.become(g.op("Mul", *terms), mean, max(power - mean**2, 1e-4))


def _gate(g: Graph, y: Value, pick: Pick) -> Value:
    return apply(g, recentre(g, y), pick.of("sigmoid", "hard_sigmoid"))


@block("gate", Layout.FIRST)
def squeeze_excite_conv(g: Graph, x: Value, pick: Pick) -> Value:
    point = pointwise(len(x.space))
    y = apply(g, conv(g, pooled(g, x, pick), pick.of(4, 2, 6), point), pick.of("relu", "elu"))
    gate = _gate(g, conv(g, y, x.channels, point), pick)
    return multiplied(g, x, gate, pick.yes())


@block("gate", Layout.FIRST, Layout.LAST)
def squeeze_excite_linear(g: Graph, x: Value, pick: Pick) -> Value:
    y = apply(g, linear(g, as_vector(g, x, pick), pick.of(4, 2, 6), pick), pick.of("relu", "elu"))
    gate = _gate(g, linear(g, y, x.channels, pick), pick)
    return multiplied(g, x, gate.become(spread(g, gate.name, x, pick)), pick.yes())


@block("gate", fits=lambda g, x: x.channels <= MOST_CHANNELS)
def gate_of_same_shape(g: Graph, x: Value, pick: Pick) -> Value:
    return multiplied(g, x, _gate(g, look_around(g, x, x.channels, pick), pick), pick.yes())


@block("gate", fits=lambda g, x: bool(twins(g, x)))
def gate_of_earlier(g: Graph, x: Value, pick: Pick) -> Value:
    """One earlier value decides how much of another passes."""
    return multiplied(g, x, _gate(g, pick.of(*twins(g, x)), pick), pick.yes())


@block("gate", Layout.FIRST, Layout.LAST)
def gate_of_positions(g: Graph, x: Value, pick: Pick) -> Value:
    """Spatial attention: one number per position, for all channels."""
    if pick.of(True, False):
        logits = project(g, x, 1, pick)
    else:
        mean = reduce(g, pick.of("ReduceMax", "ReduceMean"), x.name, [x.axis])
        logits = x.become(mean)
    return multiplied(g, x, apply(g, recentre(g, logits), "sigmoid"))


@block("gate", fits=lambda g, x: x.channels <= MOST_CHANNELS)
def gated_linear_pair(g: Graph, x: Value, pick: Pick) -> Value:
    """SwiGLU: two linear layers, one through an activation, multiplied."""
    hidden = pick.of(8, 4, 12)
    a, b = project(g, x, hidden, pick), project(g, x, hidden, pick)
    return project(g, multiplied(g, activate(g, a, pick), b), x.channels, pick)


@block("softmax", Layout.FIRST, fits=lambda g, x: x.shape[-1] >= 4)
def softmax_over_space(g: Graph, x: Value, pick: Pick) -> Value:
    """Softmax over an axis that is not the channels' says where to look.

    Alone it would be a trap: its mean over space is the same for every input.
    """
    count = x.shape[-1]
    weights = x.become(g.op("Softmax", x.name, axis=-1), 1 / count, 1 / count**2)
    return multiplied(g, x, weights)
