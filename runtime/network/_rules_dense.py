"""Rules of the operators that have weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from ._graph import attribute
from ._layout import Dense, Layout, describe
from ._units import Ids

__all__ = ["conv", "conv_transpose", "gemm", "matmul", "recurrent"]

GATES_OF = {"LSTM": 4, "GRU": 3, "RNN": 1}
_PEEPHOLES = 7  # the place of an LSTM's P among its inputs


def conv(layout: Layout, node: onnx.NodeProto) -> None:
    """Conv: weight (out, in / groups, …)."""
    weight = _weight(layout, node)
    if weight is None:
        return
    groups = int(attribute(node, "group", 1))
    if groups > 1:
        _grouped(layout, node, groups, weight.shape[0] // groups)
    else:
        _dense(layout, node, 0)


def conv_transpose(layout: Layout, node: onnx.NodeProto) -> None:
    """ConvTranspose: weight (in, out / groups, …)."""
    weight = _weight(layout, node)
    if weight is None:
        return
    groups = int(attribute(node, "group", 1))
    if groups > 1:
        _grouped(layout, node, groups, weight.shape[1])
    else:
        _dense(layout, node, 1)


def gemm(layout: Layout, node: onnx.NodeProto) -> None:
    """Gemm: weight (out, in) with transB, else (in, out)."""
    weight = _weight(layout, node)
    if weight is None:
        return
    plain = attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0
    if not plain or attribute(node, "transA", 0):
        layout.freeze(node, "is no plain linear layer")
        return
    _dense(layout, node, 0 if attribute(node, "transB", 0) else 1)


def matmul(layout: Layout, node: onnx.NodeProto) -> None:
    """MatMul by a constant matrix (in, out), or of two activations."""
    if not any(name in layout.graph.constants for name in node.input):
        _product(layout, node)
        return
    weight = _weight(layout, node)
    if weight is None:
        return
    if weight.ndim != 2 or layout.rank(node.input[0]) < 2:
        layout.freeze(node, "multiplies by a constant that is no matrix")
        return
    _dense(layout, node, 1)
    bias = _following_bias(layout, node, weight.shape[1])
    if bias is not None:
        add, place = bias
        written = replace(layout.dense[-1], output=add.output[0], bias=(add.name, place))
        layout.dense[-1] = written


def _following_bias(
    layout: Layout, node: onnx.NodeProto, outputs: int
) -> tuple[onnx.NodeProto, int] | None:
    """The Add of a vector that alone reads a MatMul, and the place of the vector."""
    readers = layout.readers.get(node.output[0], [])
    if len(readers) != 1 or readers[0].op_type != "Add" or node.output[0] in layout.graph.outputs:
        return None
    place = 1 - list(readers[0].input).index(node.output[0])
    value = layout.graph.constant(readers[0].input[place])
    fits = value is not None and value.shape == (outputs,)
    return (readers[0], place) if fits else None


def _weight(layout: Layout, node: onnx.NodeProto) -> Any:
    """The constant weight that only this node reads; `None` after freezing otherwise."""
    graph = layout.graph
    weight, bias = graph.constant(node.input[1]), node.input[2] if len(node.input) > 2 else ""
    if node.input[0] in graph.constants:
        layout.freeze(node, "multiplies a constant by it")
    elif weight is None:
        layout.freeze(node, "has weights that are computed")
    elif bias and (bias not in graph.constants or graph.constants[bias].ndim != 1):
        layout.freeze(node, "has a bias that is not one constant per channel")
    elif weight.dtype != np.float32:
        layout.freeze(node, f"has {weight.dtype} weights")
    else:
        return weight
    return None


def _read(layout: Layout, node: onnx.NodeProto, axis: int) -> Ids:
    """Units along the channels that a dense operator reads; frozen if they change elsewhere."""
    name = node.input[0]
    reads = layout.along(name, axis)
    if reads is None:
        layout.units.freeze(layout.ids[name], f"{describe(node)} reads it along several axes")
        return np.zeros(layout.sizes(name)[axis], np.int64)
    return reads


def _dense(layout: Layout, node: onnx.NodeProto, out_axis: int) -> None:
    """Fresh units along one axis of the weight, those that are read along the other."""
    channel_axis = -1 if node.op_type == "MatMul" else 1
    reads, in_axis = _read(layout, node, channel_axis), 1 - out_axis
    fresh = layout.units.fresh(layout.graph.constants[node.input[1]].shape[out_axis])
    shape = [1] * layout.rank(node.output[0])
    shape[channel_axis] = len(fresh)
    layout.put(node, node.output[0], fresh.reshape(shape))
    layout.cut(node, 1, {out_axis: fresh, in_axis: reads})
    bias = _cut_bias(layout, node, fresh)
    layout.dense.append(
        Dense(node, "dense", reads, fresh, in_axis, out_axis, node.output[0], (node.name, 1), bias)
    )


def _cut_bias(layout: Layout, node: onnx.NodeProto, writes: Ids) -> tuple[str, int] | None:
    if len(node.input) < 3 or not node.input[2]:
        return None
    layout.cut(node, 2, {0: writes})
    return node.name, 2


def _grouped(layout: Layout, node: onnx.NodeProto, groups: int, outputs: int) -> None:
    """A grouped convolution: what stands in one of its groups goes with it, in and out.

    Every group has to keep its size, so nothing less than a whole one can be removed.
    """
    reads = _read(layout, node, 1)
    blocks = layout.tied(node, reads.reshape(groups, -1), [1]).reshape(groups)
    reads = np.repeat(blocks, len(reads) // groups)
    writes = np.repeat(blocks, outputs)
    shape = [1] * layout.rank(node.output[0])
    shape[1] = len(writes)
    layout.follow(node, writes.reshape(shape))
    rows = writes if node.op_type == "Conv" else reads
    layout.cut(node, 1, {0: rows})
    bias = _cut_bias(layout, node, writes)
    layout.dense.append(
        Dense(node, "grouped", reads, writes, None, 0, node.output[0], (node.name, 1), bias)
    )


def _product(layout: Layout, node: onnx.NodeProto) -> None:
    """A product of two activations, (…, m, k) by (…, k, n), as attention has two of."""
    first, second = (_at_least_matrix(layout, name) for name in node.input[:2])
    if first is None or second is None:
        layout.freeze(node, "multiplies vectors")
        return
    contracted = first.shape[-1] > 1 or second.shape[-2] > 1
    if contracted:
        layout.summing.add(node.name)
        first = layout.tied(node, first, [first.ndim - 1])
        second = layout.tied(node, second, [second.ndim - 2])
    rank = layout.rank(node.output[0])
    left, right = (_ranked(ids, rank) for ids in (first, second))
    sizes = [(1,) * (rank - layout.rank(n)) + layout.sizes(n) for n in node.input[:2]]
    layout.follow(node, _combined(layout, node, [left, right], sizes, contracted=contracted))


def _at_least_matrix(layout: Layout, name: str) -> Ids | None:
    ids = layout.ids[name]
    return ids if ids.ndim > 1 else None


def _ranked(ids: Ids, rank: int) -> Ids:
    return ids.reshape((1,) * (rank - ids.ndim) + ids.shape)


def _combined(
    layout: Layout,
    node: onnx.NodeProto,
    parts: list[Ids],
    sizes: list[tuple[int, ...]],
    *,
    contracted: bool,
) -> Ids:
    """Units of a product: those of either factor, tied where both have some."""
    left, right = np.broadcast_arrays(*parts)
    layout.units.unite(left, right)
    reason = f"{describe(node)} multiplies it with what cannot be pruned"
    # Along the batch axes both factors are walked through together, so both must shrink.
    shared = [
        any(part.shape[axis] > 1 for part in parts) and all(size[axis] > 1 for size in sizes)
        for axis in range(left.ndim - 2)
    ]
    if contracted or any(shared):
        layout.units.freeze(np.where((left == 0) ^ (right == 0), left + right, 0), reason)
    return np.where(left == 0, right, left)


def recurrent(layout: Layout, node: onnx.NodeProto) -> None:
    """LSTM, GRU and RNN: hidden units, the same ones in both directions.

    W is (directions, gates · hidden, in), R (directions, gates · hidden, hidden), B (directions,
    2 · gates · hidden). Y is (time, directions, batch, hidden), Y_h and Y_c lack the time. An
    LSTM's peepholes, (directions, 3 · hidden), let each unit look at its own cell and no other.
    """
    why = _not_plain(layout, node)
    if why is not None:
        layout.freeze(node, why)
        return
    reads = _read(layout, node, -1)
    _directions, _, hidden = layout.graph.constants[node.input[2]].shape
    gates = GATES_OF[node.op_type]
    fresh = layout.units.fresh(hidden)
    rows = np.tile(fresh, gates)
    layout.cut(node, 1, {1: rows, 2: reads})
    layout.cut(node, 2, {1: rows, 2: fresh})
    if len(node.input) > 3 and node.input[3]:
        layout.cut(node, 3, {1: np.tile(rows, 2)})
    if len(node.input) > _PEEPHOLES and node.input[_PEEPHOLES]:
        layout.cut(node, _PEEPHOLES, {1: np.tile(fresh, 3)})
    lengths = node.input[4] if len(node.input) > 4 else ""
    if lengths in layout.ids:
        layout.units.freeze(layout.ids[lengths], f"{describe(node)} takes it for lengths")
    for place in (5, 6):
        _initial_state(layout, node, place, fresh)
    for name in node.output:
        if name:
            layout.put(node, name, fresh.reshape([1] * (layout.rank(name) - 1) + [-1]))
    bias = (node.name, 3) if len(node.input) > 3 and node.input[3] else None
    layout.dense.append(
        Dense(
            node,
            "recurrent",
            reads,
            fresh,
            2,
            1,
            node.output[0] or node.output[1],
            (node.name, 1),
            bias,
        )
    )


def _not_plain(layout: Layout, node: onnx.NodeProto) -> str | None:
    """Why a recurrent operator cannot be pruned, if it cannot."""
    constants, names = layout.graph.constants, [*node.input, *[""] * 8]
    if node.input[0] in constants:
        return "reads a constant"
    weights = [*names[1:3], *(name for name in (names[3], names[_PEEPHOLES]) if name)]
    if any(name not in constants for name in weights):
        return "has weights that are computed"
    if any(constants[name].dtype != np.float32 for name in weights):
        return "has weights that are not float32"
    if attribute(node, "layout", 0):
        return "has the batch first"
    return None


def _initial_state(layout: Layout, node: onnx.NodeProto, place: int, fresh: Ids) -> None:
    """An initial state has the hidden units on its last axis; one that is given freezes them."""
    if len(node.input) <= place or not node.input[place]:
        return
    name = node.input[place]
    if name in layout.graph.constants:
        layout.cut(node, place, {2: fresh})
        return
    along = layout.along(name, -1)
    reason = f"{describe(node)} starts from a state that cannot be pruned"
    if along is None:
        layout.units.freeze(layout.ids[name], f"{describe(node)} reads it along several axes")
        along = np.zeros_like(fresh)
    layout.units.join([fresh, along], reason)
