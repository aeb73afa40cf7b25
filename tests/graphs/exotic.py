"""Standard operators that a channel analysis will hardly understand, and must leave alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from .builder import MOST_CHANNELS, MOST_SPACE, Graph, Layout, Pick, Value, block
from .joins import added
from .shaping import reduce, slice_axis, transpose


@block("exotic", fits=lambda g, x: 2 <= x.channels <= MOST_CHANNELS)
def cumulated(g: Graph, x: Value, pick: Pick) -> Value:
    axis = g.const(pick.of(x.axis, x.axis - len(x.shape) - 1), dtype=np.int64)
    extra = {"reverse": 1} if pick.yes(3) else {}
    mean = (x.channels + 1) / 2
    y = g.op("CumSum", x.name, axis, **extra)
    return x.become(y, mean * x.mean, mean * (x.var + x.mean**2 * x.channels / 6))


@block("exotic", fits=lambda g, x: x.channels >= 2)
def minus_largest(g: Graph, x: Value, pick: Pick) -> Value:
    """How far each channel is below the largest of its position."""
    largest = reduce(g, "ReduceMax", x.name, [x.axis])
    shift = math.sqrt(2 * math.log(x.channels) * x.var)
    if pick.of(True, False):
        return x.become(g.op("Sub", x.name, largest), -shift, 1.3 * x.var)
    return x.become(g.op("Add", x.name, largest), 2 * x.mean + shift, 1.5 * x.var)


@block("exotic", Layout.LAST, fits=lambda g, x: len(x.shape) == 2 and x.shape[0] <= 12, often=2)
def gram_matrix(g: Graph, x: Value, pick: Pick) -> Value:
    """Every position by every position: afterwards time stands where the channels stood."""
    turned = transpose(g, x.name, 0, 2, 1)
    product = g.op("MatMul", x.name, turned)
    name = g.op("Div", product, g.const(math.sqrt(x.channels)))
    mean = math.sqrt(x.channels) * (x.mean**2 + x.var / x.shape[0])
    return Value(name, Layout.LAST, (x.shape[0], x.shape[0]), mean, x.power**2)


@block("exotic", Layout.FIRST, fits=lambda g, x: _can_turn(x), often=2)
def channels_and_height_change_places(g: Graph, x: Value, pick: Pick) -> Value:
    name = transpose(g, x.name, 0, 2, 1, *range(3, len(x.shape) + 1))
    return x.resized(name, channels=x.shape[1], space=(x.shape[0], *x.shape[2:]))


def _can_turn(x: Value) -> bool:
    return len(x.space) >= 1 and x.channels <= MOST_SPACE and x.shape[1] >= 2


@block("exotic", fits=lambda g, x: 2 * x.channels <= MOST_CHANNELS)
def tiled(g: Graph, x: Value, pick: Pick) -> Value:
    repeats = [2 if axis == x.axis else 1 for axis in range(len(x.shape) + 1)]
    return x.resized(g.op("Tile", x.name, g.ints(*repeats)), channels=2 * x.channels)


@block("exotic", fits=lambda g, x: x.channels >= 3)
def rolled(g: Graph, x: Value, pick: Pick) -> Value:
    """Channels, or positions, move on by one; the last becomes the first."""
    axis, size = x.axis, x.channels
    if pick.yes() and x.space and x.space[0] >= 3:
        axis, size = x.space_axes[0], x.space[0]
    last = slice_axis(g, x.name, axis, (size - 1, size, 1))
    return x.become(g.op("Concat", last, slice_axis(g, x.name, axis, (0, -1, 1)), axis=axis))


@block("exotic", fits=lambda g, x: x.channels >= 3)
def flipped(g: Graph, x: Value, pick: Pick) -> Value:
    bounds = (-1, np.iinfo(np.int64).min, -1)
    return x.become(slice_axis(g, x.name, x.axis, bounds))


@block("exotic", fits=lambda g, x: x.channels >= 4, often=2)
def chosen_by_constant(g: Graph, x: Value, pick: Pick) -> Value:
    """Where with a constant condition: some channels are replaced."""
    chosen = np.arange(x.channels) % pick.of(4, 3) > 0
    condition = g.const(g.per_channel(x, chosen), dtype=np.bool_)
    return x.become(g.op("Where", condition, x.name, g.const(0.5)))


@block("exotic", Layout.LAST, fits=lambda g, x: len(x.shape) == 2, often=2)
def einsum_of_pairs(g: Graph, x: Value, pick: Pick) -> Value:
    """Positions weigh positions, without MatMul."""
    scores = g.op("Einsum", x.name, x.name, equation="bic,bjc->bij")
    scaled = g.op("Mul", scores, g.const(1 / (x.channels * math.sqrt(x.power))))
    weights = g.op("Softmax", scaled, axis=-1)
    y = x.become(g.op("Einsum", weights, x.name, equation="bij,bjc->bic"), x.mean, 0.4 * x.var)
    return added(g, x, y)


@block("exotic", fits=lambda g, x: x.channels <= MOST_CHANNELS)
def einsum_by_channel(g: Graph, x: Value, pick: Pick) -> Value:
    axes = "bxyz"[: len(x.shape)]
    letters = f"{axes}c" if x.axis == len(x.shape) else f"bc{axes[1:]}"
    gain = g.const(g.uniform(0.5, 1.5, x.channels))
    return x.become(g.op("Einsum", x.name, gain, equation=f"{letters},c->{letters}"))


@block("exotic", Layout.FIRST, fits=lambda g, x: max(x.space) > 1)
def expanded_pool(g: Graph, x: Value, pick: Pick) -> Value:
    """The mean over space is spread over it again, by a shape that the graph computes."""
    small = reduce(g, "ReduceMean", x.name, x.space_axes)
    y = x.become(g.op("Expand", small, g.op("Shape", x.name)), x.mean, 0.3 * x.var)
    name = g.op("Concat", x.name, y.name, axis=1)
    if 2 * x.channels > MOST_CHANNELS or pick.yes():
        return added(g, x, y)
    return x.resized(name, channels=2 * x.channels)


@block("exotic")
def branch_by_constant(g: Graph, x: Value, pick: Pick) -> Value:
    """An If whose condition is known; both branches read what stands outside."""
    gain = g.const(g.per_channel(x, g.uniform(0.5, 1.5, x.channels)))
    truth = pick.of(True, False)
    condition = g.const(np.array(truth), dtype=np.bool_)
    branches: dict[str, Any] = {
        "then_branch": _branch("Mul", [x.name, gain], g, x),
        "else_branch": _branch("Tanh", [x.name], g, x),
    }
    name = g.op("If", condition, **branches)
    return x.become(name) if truth else x.become(name, 0.0, min(x.var, 0.4))


def _branch(kind: str, inputs: list[str], g: Graph, x: Value) -> Any:
    g.count += 1
    name = f"branch_{g.count}"
    node = helper.make_node(kind, inputs, [name], name=f"{name}_node")
    result = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *x.shape])
    return helper.make_graph([node], name, [], [result])
