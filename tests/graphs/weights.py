"""Weights that keep the spread near one, and the guises that exporters give them."""

from __future__ import annotations

import math

import numpy as np

from .builder import MOST_CHANNELS, Array, Graph, Pick, Value

WIDTHS = (4, 8, 6, 12, 2, 3, 5, 16, 24, 7, 10, 20)


def width(pick: Pick, multiple: int = 1, at_most: int = MOST_CHANNELS) -> int:
    """Pick a number of channels that is a multiple of something."""
    options = [w for w in WIDTHS if w % multiple == 0 and w <= at_most]
    return pick.of(*options) if options else multiple


def dense(g: Graph, x: Value, shape: tuple[int, ...], inputs: tuple[int, ...]) -> Array:
    """Draw a weight whose product with `x` has about unit variance.

    Axes `inputs` are summed over. What all inputs have in common would only add a constant, and
    layer after layer drown what depends on the input: large filters are orthogonal to it.
    """
    weight = g.normal(1.0, *shape)
    fan_in = math.prod(shape[axis] for axis in inputs)
    power = x.power
    if fan_in >= 6 and x.mean**2 > 0.2 * x.var:
        weight -= weight.mean(axis=inputs, keepdims=True)
        power = x.var
    return (weight / math.sqrt(fan_in * power)).astype(np.float32)


def bias(g: Graph, count: int) -> Array:
    return g.normal(0.2, count)


def guise(g: Graph, array: Array, pick: Pick) -> str:
    """Write a weight as a constant, or as what some small computation on constants gives.

    Only convolutions read int8: ONNX Runtime turns a MatMul or Gemm that does into one that
    computes with int8 as well, so results would depend on its optimisation level.
    """
    special = ("int8", "int8", "identity", "scaled") if array.ndim > 2 else ("identity", "scaled")
    how = pick.of(*["plain"] * 6, *special)
    if how == "identity":  # what TorchScript makes of a weight that several modules share
        return g.op("Identity", g.const(array))
    if how == "int8":
        scale = np.abs(array).max() / 127
        codes = g.const(np.round(array / scale), dtype=np.int8)
        return g.op("DequantizeLinear", codes, g.const(scale), g.const(0, dtype=np.int8))
    if how == "scaled":  # a weight normalisation that nobody folded
        norm = g.uniform(0.7, 1.4, array.shape[0], *[1] * (array.ndim - 1))
        return g.op("Mul", g.const(array / norm), g.const(norm))
    return g.const(array)
