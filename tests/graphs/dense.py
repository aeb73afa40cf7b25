"""Linear layers on features and on sequences, written as Gemm and as MatMul."""

from __future__ import annotations

from typing import Any

from .builder import VOCABULARY, Graph, Layout, Pick, Shared, Value, block
from .shaping import reshape
from .weights import bias, dense, guise, width


def _result(x: Value, name: str, out: int, var: float = 1.0) -> Value:
    return x.resized(name, channels=out).become(name, 0.0, var)


def gemm(g: Graph, x: Value, out: int, pick: Pick) -> Value:
    """Gemm in its various spellings, on a 2-D tensor."""
    flipped = pick.of(True, True, False)
    shape = (out, x.channels) if flipped else (x.channels, out)
    alpha, beta = pick.of(1.0, 1.0, 0.5, 2.0), pick.of(1.0, 1.0, 0.5)
    array = dense(g, x, shape, (1 if flipped else 0,)) / alpha
    weight = guise(g, array, pick)
    offset = pick.of("vector", "row", "none")
    row = bias(g, out)
    inputs = {"vector": [g.const(row)], "row": [g.const(row[None])], "none": []}[offset]
    attributes: dict[str, Any] = {"transB": int(flipped)}
    if not (g.style.terse and alpha == beta == 1):
        attributes |= {"alpha": alpha, "beta": beta, "transB": int(flipped)}
    result = _result(x, g.op("Gemm", x.name, weight, *inputs, **attributes), out)
    if offset != "none":
        g.shared.append(Shared("Gemm", weight, inputs[0], x, result, attributes))
    return result


def matmul(g: Graph, x: Value, out: int, pick: Pick, side: str = "") -> Value:
    """MatMul over the last axis, with or without a bias on either side of the Add."""
    array = dense(g, x, (x.channels, out), (0,))
    if pick.yes(6):  # torch keeps (out, in) and transposes in the graph
        weight = g.op("Transpose", g.const(array.T), perm=[1, 0])
    else:
        weight = guise(g, array, pick)
    name = g.op("MatMul", x.name, weight)
    result = _result(x, name, out)
    g.shared.append(Shared("MatMul", weight, "", x, result))
    side = side or pick.of("right", "left", "none")
    if side == "none":
        return result
    terms = (name, g.const(bias(g, out)))
    return result.become(g.op("Add", *(terms if side == "right" else terms[::-1])))


def linear(g: Graph, x: Value, out: int, pick: Pick) -> Value:
    """A linear layer over the last axis."""
    if x.layout is Layout.FLAT and pick.below(3) < 2:
        return gemm(g, x, out, pick)
    return matmul(g, x, out, pick)


@block("dense", Layout.FLAT)
def gemm_layer(g: Graph, x: Value, pick: Pick) -> Value:
    return gemm(g, x, width(pick), pick)


@block("dense", Layout.FLAT, Layout.LAST)
def matmul_layer(g: Graph, x: Value, pick: Pick) -> Value:
    return matmul(g, x, width(pick), pick)


@block("dense", Layout.FIRST, fits=lambda g, x: len(x.space) == 1)
def matmul_from_the_left(g: Graph, x: Value, pick: Pick) -> Value:
    """A matrix of (out, in) before (batch, in, time), with a bias for each row or without."""
    out = width(pick)
    array = dense(g, x, (out, x.channels), (1,))
    result = _result(x, g.op("MatMul", g.const(array[None] if pick.yes(4) else array), x.name), out)
    if not pick.yes():
        return result
    return result.become(g.op("Add", result.name, g.const(bias(g, out)[:, None])))


@block("dense", Layout.LAST, fits=lambda g, x: len(x.space) == 1)
def matmul_over_positions(g: Graph, x: Value, pick: Pick) -> Value:
    """Positions are mixed by a matrix on the left, as a layer over tokens does."""
    (time,) = x.space
    array = dense(g, x, (time, time), (1,))
    return x.become(g.op("MatMul", g.const(array), x.name), 0.0, 1.0)


@block("dense", Layout.LAST)
def gemm_on_rows(g: Graph, x: Value, pick: Pick) -> Value:
    """All positions become rows, as TensorFlow's exporter writes a Dense layer."""
    out = width(pick)
    rows = Value(g.op("Reshape", x.name, g.ints(-1, x.channels)), Layout.FLAT, (x.channels,))
    rows = gemm(g, rows.become(rows.name, x.mean, x.var), out, pick)
    back = reshape_rows(g, rows.name, (*x.space, out), pick)
    return _result(x, back, out)


def reshape_rows(g: Graph, name: str, dims: tuple[int, ...], pick: Pick) -> str:
    return g.op("Reshape", name, g.ints(-1, *dims), allowzero=pick.of(None, 1))


@block("dense", Layout.FLAT, Layout.LAST, fits=lambda g, x: x.channels >= 2)
def einsum_linear(g: Graph, x: Value, pick: Pick) -> Value:
    out, axes = width(pick), "bxyz"[: len(x.shape)]
    flipped = pick.yes()
    shape = (out, x.channels) if flipped else (x.channels, out)
    weight = g.const(dense(g, x, shape, (1 if flipped else 0,)))
    equation = f"{axes}c,{'dc' if flipped else 'cd'}->{axes}d"
    return _result(x, g.op("Einsum", x.name, weight, equation=equation), out)


def _reusable(g: Graph, x: Value) -> list[Shared]:
    kinds = {Layout.FIRST: ("Conv",), Layout.FLAT: ("Gemm", "MatMul"), Layout.LAST: ("MatMul",)}
    return [
        s
        for s in g.shared
        if s.kind in kinds[x.layout]
        and s.source.channels == x.channels
        and (s.kind != "Conv" or s.source.space == x.space)
    ]


@block("dense", fits=lambda g, x: bool(_reusable(g, x)))
def shared_weight(g: Graph, x: Value, pick: Pick) -> Value:
    """Read the weight of an earlier operator again; the bias too, or no bias."""
    old = pick.of(*_reusable(g, x))
    offset = [old.bias] if old.bias and pick.of(True, True, False) else []
    name = g.op(old.kind, x.name, old.weight, *offset, **old.attributes)
    space = old.result.space if old.kind == "Conv" else x.space
    result = x.resized(name, channels=old.result.channels, space=space)
    return result.become(name, 0.0, x.power / old.source.power)


def _tables(g: Graph, x: Value) -> list[Shared]:
    return [s for s in g.shared if s.kind == "Gather" and s.source.channels == x.channels]


@block("dense", Layout.FLAT, Layout.LAST, fits=lambda g, x: bool(_tables(g, x)), often=4)
def tied_to_embedding(g: Graph, x: Value, pick: Pick) -> Value:
    """Scores of words: the table of the embedding is read again, transposed."""
    table = pick.of(*_tables(g, x)).weight
    scores = g.op("MatMul", x.name, g.op("Transpose", table, perm=[1, 0]))
    name = g.op("Div", scores, g.const((x.channels * x.power) ** 0.5))
    return _result(x, name, VOCABULARY)


@block("dense", Layout.FLAT, fits=lambda g, x: x.channels % 4 == 0)
def gemm_on_groups(g: Graph, x: Value, pick: Pick) -> Value:
    """The features are cut into tokens, each goes through one linear layer, all are joined."""
    tokens = pick.of(2, 4)
    cut = Value(
        reshape(g, x.name, (tokens, x.channels // tokens), pick),
        Layout.LAST,
        (tokens, x.channels // tokens),
        x.mean,
        x.var,
    )
    y = matmul(g, cut, width(pick, at_most=8), pick)
    size = tokens * y.channels
    return _result(x, reshape(g, y.name, (size,), pick), size)
