"""LSTM, GRU and RNN with the transposes that torch puts around them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .builder import MOST_CHANNELS, Graph, Layout, Pick, Value, block
from .shaping import batch_size, slice_axis, squeeze, transpose

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
SPREAD = {"LSTM": 0.1, "GRU": 0.25, "RNN": 0.5}


@dataclass(frozen=True)
class Cell:
    """What a recurrent layer is."""

    kind: str
    hidden: int
    direction: str
    offset: bool
    start: str  # how the initial state is written: "none", "zeros", "learned"
    peepholes: bool = False

    @property
    def directions(self) -> int:
        return 2 if self.direction == "bidirectional" else 1


def _time_first(g: Graph, x: Value) -> Value:
    """(T, N, C), from (N, T, C) or (N, C, T)."""
    perm = (1, 0, 2) if x.layout is Layout.LAST else (2, 0, 1)
    time, channels = x.space[0], x.channels
    return Value(transpose(g, x.name, *perm), Layout.LAST, (time, channels), x.mean, x.var)


def _layer(g: Graph, x: Value, cell: Cell) -> tuple[str, str]:
    """One layer: the names of Y, (T, D, N, H), and of Y_h, (D, N, H)."""
    rows, d = GATES[cell.kind] * cell.hidden, cell.directions
    weight = g.normal(1 / math.sqrt(x.channels * x.power), d, rows, x.channels)
    inner = g.normal(0.5 / math.sqrt(cell.hidden), d, rows, cell.hidden)
    inputs = [x.name, g.const(weight), g.const(inner)]
    inputs += [g.const(g.normal(0.2, d, 2 * rows)) if cell.offset else ""]
    if cell.start != "none":
        states = 2 if cell.kind == "LSTM" else 1
        inputs += ["", *[_state(g, x, cell) for _ in range(states)]]
    if cell.peepholes:
        inputs += [""] * (7 - len(inputs))
        inputs += [g.const(g.normal(0.3, d, 3 * cell.hidden))]
    while not inputs[-1]:
        inputs.pop()
    attributes: dict[str, Any] = {"hidden_size": cell.hidden}
    if cell.kind == "GRU":
        attributes["linear_before_reset"] = 1
    if cell.direction != "forward" or not g.style.terse:
        attributes["direction"] = cell.direction
    states = 2 if cell.kind == "LSTM" else 1
    y, last = g.many(cell.kind, inputs, 1 + states, **attributes)[:2]
    return y, last


def _state(g: Graph, x: Value, cell: Cell) -> str:
    """The initial state, (D, N, H), for a batch whose size the graph finds out."""
    shape = g.op("Shape", x.name)
    count = g.op("Gather", shape, g.ints(1), axis=0)
    sizes = g.op("Concat", g.ints(cell.directions), count, g.ints(cell.hidden), axis=0)
    if cell.start == "zeros":
        return g.op("ConstantOfShape", sizes)
    return g.op("Expand", g.const(g.normal(0.5, cell.directions, 1, cell.hidden)), sizes)


def _sequence(g: Graph, y: str, cell: Cell) -> str:
    """(T, D, N, H) to (T, N, D * H)."""
    if cell.directions == 1:
        return squeeze(g, y, 1)
    return g.op("Reshape", transpose(g, y, 0, 2, 1, 3), g.ints(0, 0, -1))


def _last_state(g: Graph, last: str, cell: Cell, pick: Pick) -> str:
    """(D, N, H) to (N, D * H)."""
    if cell.directions == 1:
        index = g.const(pick.of(0, -1), dtype=np.int64)
        return squeeze(g, last, 0) if pick.yes() else g.op("Gather", last, index, axis=0)
    how = pick.of("gather", "transpose", "slice")
    if how == "transpose":
        wide = transpose(g, last, 1, 0, 2)
        return g.op("Reshape", wide, g.ints(-1, 2 * cell.hidden))
    if how == "gather":
        ends = [g.op("Gather", last, g.const(i, dtype=np.int64), axis=0) for i in (0, 1)]
    else:
        ends = [squeeze(g, slice_axis(g, last, 0, (i, i + 1, 1)), 0) for i in (0, 1)]
    return g.op("Concat", *ends, axis=1)


def _cell(kind: str, pick: Pick) -> Cell:
    return Cell(
        kind,
        pick.of(4, 6, 3, 8),
        pick.of("forward", "bidirectional", "forward", "bidirectional", "reverse"),
        pick.of(True, True, False),
        pick.of("none", "zeros", "learned"),
        kind == "LSTM" and pick.yes(3),
    )


def _recurrent(g: Graph, x: Value, kind: str, pick: Pick) -> Value:
    cell, stacked = _cell(kind, pick), pick.yes()
    time, out = x.space[0], cell.hidden * cell.directions
    y, last = _layer(g, _time_first(g, x), cell)
    if stacked:
        below = Value(_sequence(g, y, cell), Layout.LAST, (time, out), 0.0, SPREAD[kind])
        y, last = _layer(g, below, cell)
    if pick.yes(3):
        return Value(_last_state(g, last, cell, pick), Layout.FLAT, (out,), 0.0, SPREAD[kind])
    rows = _sequence(g, y, cell)
    if x.layout is Layout.FIRST:
        return Value(transpose(g, rows, 1, 2, 0), x.layout, (out, time), 0.0, SPREAD[kind])
    return Value(transpose(g, rows, 1, 0, 2), x.layout, (time, out), 0.0, SPREAD[kind])


def _readable(g: Graph, x: Value) -> bool:
    return len(x.space) == 1 and 2 <= x.space[0] <= 16 and x.channels <= MOST_CHANNELS


@block("recurrent", Layout.LAST, Layout.FIRST, fits=_readable)
def lstm(g: Graph, x: Value, pick: Pick) -> Value:
    return _recurrent(g, x, "LSTM", pick)


@block("recurrent", Layout.LAST, Layout.FIRST, fits=_readable)
def gru(g: Graph, x: Value, pick: Pick) -> Value:
    return _recurrent(g, x, "GRU", pick)


@block("recurrent", Layout.LAST, Layout.FIRST, fits=_readable)
def rnn(g: Graph, x: Value, pick: Pick) -> Value:
    return _recurrent(g, x, "RNN", pick)


@block("sequence", Layout.LAST, fits=lambda g, x: len(x.shape) == 2 and x.shape[0] < 12)
def class_token(g: Graph, x: Value, pick: Pick) -> Value:
    """A learned position is put before the others, once for each sample."""
    token = g.const(g.normal(1.0, 1, 1, x.channels))
    size = batch_size(g, x.name, pick.of("computed", "sliced", "gathered"))
    sizes = g.op("Concat", size, g.ints(1, x.channels), axis=0)
    wide = g.op("Expand", token, sizes)
    return x.resized(g.op("Concat", wide, x.name, axis=1), space=[x.shape[0] + 1])
