"""Activations, as single operators and as exporters spell them out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .builder import Array, Graph, Layout, Pick, Value, block, moments


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _gelu(x: Array) -> Array:
    return x * _sigmoid(1.702 * x)


@dataclass(frozen=True)
class Activation:
    """One node, and the function it computes."""

    kind: str
    function: Callable[[Array], Array]
    attributes: dict[str, Any]
    since: int = 17
    sparse: bool = False  # zero over a half-line: few units may all be dead at once


PLAIN = {
    "relu": Activation("Relu", lambda x: np.maximum(x, 0), {}, sparse=True),
    "leaky_relu": Activation("LeakyRelu", lambda x: np.maximum(x, 0.1 * x), {"alpha": 0.1}),
    "sigmoid": Activation("Sigmoid", _sigmoid, {}),
    "tanh": Activation("Tanh", np.tanh, {}),
    "hard_sigmoid": Activation(
        "HardSigmoid", lambda x: np.clip(x / 6 + 0.5, 0, 1), {"alpha": 1 / 6, "beta": 0.5}
    ),
    "hard_swish": Activation("HardSwish", lambda x: x * np.clip(x / 6 + 0.5, 0, 1), {}),
    "elu": Activation("Elu", lambda x: np.where(x > 0, x, np.expm1(x)), {"alpha": 1.0}),
    "selu": Activation("Selu", lambda x: 1.05 * np.where(x > 0, x, 1.67 * np.expm1(x)), {}),
    "celu": Activation("Celu", lambda x: np.where(x > 0, x, np.expm1(x)), {"alpha": 1.0}),
    "softplus": Activation("Softplus", lambda x: np.log1p(np.exp(x)), {}),
    "softsign": Activation("Softsign", lambda x: x / (1 + abs(x)), {}),
    "abs": Activation("Abs", np.abs, {}),
    "mish": Activation("Mish", lambda x: x * np.tanh(np.log1p(np.exp(x))), {}, since=18),
    "gelu": Activation("Gelu", _gelu, {}, since=20),
    "gelu_tanh": Activation("Gelu", _gelu, {"approximate": "tanh"}, since=20),
}


def centred(x: Value) -> bool:
    """Whether the values lie where activations bend, and not where they saturate."""
    return -2 <= x.mean <= 3 and x.var <= 9


def lively(x: Value) -> bool:
    """Whether so much of the tensor is positive that an activation which cuts cannot kill it."""
    return x.size >= 16 and x.channels >= 4 and x.mean > -0.5 * math.sqrt(x.var)


def recentre(g: Graph, x: Value) -> Value:
    """Shift and scale by constants, if the values would saturate a gate."""
    if centred(x):
        return x
    shifted = g.op("Sub", x.name, g.const(x.mean))
    return x.become(g.op("Div", shifted, g.const(math.sqrt(x.var))), 0.0, 1.0)


def apply(g: Graph, x: Value, name: str) -> Value:
    """Add an activation of one node."""
    chosen = PLAIN[name]
    result = g.op(chosen.kind, x.name, **chosen.attributes)
    return x.become(result, *moments(chosen.function, x))


def activate(g: Graph, x: Value, pick: Pick) -> Value:
    """Add an activation that trained networks have."""
    safe = "relu" if lively(x) else "leaky_relu"
    name = pick.of(safe, safe, "silu", "hard_swish", "tanh", "clip", "prelu")
    name = name if centred(x) or name == "relu" else "leaky_relu"
    if name == "clip" and lively(x):
        return clip(g, x, pick)
    if name == "prelu":
        return prelu(g, x, pick)
    return silu(g, x, pick) if name in ("silu", "clip") else apply(g, x, name)


def _plain(name: str) -> None:
    def build(g: Graph, x: Value, pick: Pick) -> Value:
        return apply(g, x, name)

    build.__name__ = name
    harmless, since = name in ("leaky_relu", "abs"), PLAIN[name].since
    fits = lively if PLAIN[name].sparse else centred
    often = 2 if PLAIN[name].sparse or since > 17 else 1
    block("activation", fits=lambda g, x: harmless or fits(x), since=since, often=often)(build)


for _name in PLAIN:
    _plain(_name)


@block("activation", fits=lambda g, x: lively(x), often=2)
def clip(g: Graph, x: Value, pick: Pick) -> Value:
    """ReLU6."""
    name = g.op("Clip", x.name, g.const(0.0), g.const(6.0))
    return x.become(name, *moments(lambda v: np.clip(v, 0, 6), x))


@block("activation")
def prelu(g: Graph, x: Value, pick: Pick) -> Value:
    shared = pick.yes(3)
    slope = g.uniform(0.1, 0.4, 1) if shared else g.uniform(0.1, 0.4, x.channels)
    name = g.op("PRelu", x.name, g.const(g.per_channel(x, slope)))
    return x.become(name, *moments(lambda v: np.maximum(v, 0.25 * v), x))


@block("activation", fits=lambda g, x: centred(x))
def silu(g: Graph, x: Value, pick: Pick) -> Value:
    gate = g.op("Sigmoid", x.name)
    name = g.op("Mul", *((x.name, gate) if pick.of(True, False) else (gate, x.name)))
    return x.become(name, *moments(lambda v: v * _sigmoid(v), x))


@block("activation", fits=lambda g, x: centred(x))
def gelu_erf(g: Graph, x: Value, pick: Pick) -> Value:
    scaled = g.op("Div", x.name, g.const(math.sqrt(2)))
    one = g.op("Add", g.op("Erf", scaled), g.const(1.0))
    if pick.yes():
        name = g.op("Mul", g.op("Mul", x.name, g.const(0.5)), one)
    else:
        name = g.op("Mul", g.op("Mul", x.name, one), g.const(0.5))
    return x.become(name, *moments(_gelu, x))


@block("activation", fits=lambda g, x: centred(x))
def hard_swish_written(g: Graph, x: Value, pick: Pick) -> Value:
    """x * relu6(x + 3) / 6."""
    cut = g.op("Clip", g.op("Add", x.name, g.const(3.0)), g.const(0.0), g.const(6.0))
    name = g.op("Div", g.op("Mul", x.name, cut), g.const(6.0))
    return x.become(name, *moments(PLAIN["hard_swish"].function, x))


@block("softmax", fits=lambda g, x: x.channels >= 2)
def softmax(g: Graph, x: Value, pick: Pick) -> Value:
    """Softmax over the channels."""
    axis = x.axis if pick.of(True, False) or x.layout is Layout.FIRST else -1
    return _softmax(x, g.op("Softmax", x.name, axis=axis), x.channels)


@block("softmax", fits=lambda g, x: x.channels >= 2)
def log_softmax(g: Graph, x: Value, pick: Pick) -> Value:
    name = g.op("LogSoftmax", x.name, axis=x.axis)
    return x.become(name, -math.log(x.channels) - 0.5 * x.var, x.var)


def _softmax(x: Value, name: str, count: int) -> Value:
    return x.become(name, 1 / count, min(math.expm1(min(x.var, 4.0)), count - 1) / count**2)
