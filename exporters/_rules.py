"""How each operator passes units on. What is not listed here freezes its group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from ._graph import attribute
from ._layout import Dense, Join, Layout
from ._static import reduced_axes
from ._units import Ids

__all__ = ["GATES", "LINEAR", "RULES"]

_Rule = Callable[[Layout, onnx.NodeProto], None]

_UNARY = """
    Abs Cast Ceil Celu Clip Cos Elu Erf Exp Floor Gelu HardSigmoid HardSwish LeakyRelu Log Mish Neg
    Reciprocal Relu Round Selu Sigmoid Sign Sin Softplus Softsign Sqrt Swish Tanh ThresholdedRelu
    Identity Dropout Not
"""
_POOLS = "AveragePool MaxPool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool"
_ELEMENTWISE = """
    Add Sub Mul Div Min Max Pow Sum Mean PRelu Mod
    Where Greater GreaterOrEqual Less LessOrEqual Equal And Or Xor
"""
_REDUCTIONS = "ReduceMean ReduceSum ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceSumSquare"
_GATES = "Mul Div Where Greater GreaterOrEqual Less LessOrEqual Equal And Or Xor"
_LINEAR = """
    Add Sub Sum Mean Neg Identity Dropout Cast AveragePool GlobalAveragePool ReduceMean ReduceSum
    BatchNormalization Pad Reshape Flatten Squeeze Unsqueeze Transpose Concat Slice Split Gather
    Expand Resize Conv
"""

GATES = frozenset(_GATES.split())
"""Operators that join activations to make a nonlinearity or a gate, not to add branches."""

LINEAR = frozenset(_LINEAR.split())
"""Operators that are linear in their activations; Mul and Div are, if the rest is constant."""


def _unary(layout: Layout, node: onnx.NodeProto) -> None:
    extra = [layout.graph.constant(name) for name in node.input[1:] if name]
    if any(value is None or value.size > 1 for value in extra) or any(node.output[1:]):
        layout.freeze(node, "has parameters that are not one for all channels")
        return
    layout.follow(node, layout.ids[node.input[0]])


def _pool(layout: Layout, node: onnx.NodeProto) -> None:
    if layout.channels(node.input[0]) is None or any(node.output[1:]):
        layout.freeze(node, "does not work channel by channel here")
        return
    layout.follow(node, layout.ids[node.input[0]])


def _elementwise(layout: Layout, node: onnx.NodeProto) -> None:
    names = layout.graph.activations(node)
    rank = len(layout.graph.shapes[node.output[0]])
    constants = [layout.graph.constants[n] for n in node.input if n in layout.graph.constants]
    aligned = all(len(layout.graph.shapes[name]) == rank for name in names)
    batched = any(value.ndim >= rank and value.shape[-rank] != 1 for value in constants)
    if not aligned or batched:
        layout.freeze(node, "lines its inputs up in a way that is not understood")
        return
    if any(_crosses(layout, node, name) for name in names):
        layout.freeze(node, "repeats one channel over many")
        return
    survivors = _drop_broadcast(layout, node, names)
    _join(layout, node, survivors)


def _crosses(layout: Layout, node: onnx.NodeProto, name: str) -> bool:
    """Whether a constant spreads the one channel of an activation over several."""
    sizes, out = layout.sizes(name), layout.sizes(node.output[0])
    others = [n for n in layout.graph.activations(node) if n != name]
    if others or not layout.ids[name].any():
        return False
    return len(sizes) > 0 and sizes[0] == 1 and out[0] > 1


def _drop_broadcast(layout: Layout, node: onnx.NodeProto, names: list[str]) -> list[str]:
    """Freeze and leave out operands that have one value for all channels of another operand."""
    survivors = []
    for name in names:
        sizes = layout.sizes(name)
        varying = [
            axis
            for other in names
            for axis, size in enumerate(layout.ids[other].shape)
            if size > 1 and sizes[axis] == 1
        ]
        if varying:
            reason = f"{node.op_type} {node.name!r} spreads it over all channels"
            layout.units.freeze(layout.ids[name], reason)
        else:
            survivors.append(name)
    return survivors


def _join(layout: Layout, node: onnx.NodeProto, names: list[str]) -> None:
    if not names:
        layout.freeze(node, "combines different axes")
        return
    reason = f"joined by {node.op_type} {node.name!r} with channels that cannot be pruned"
    ids = layout.units.join([layout.ids[name] for name in names], reason)
    layout.follow(node, ids)
    if len(names) > 1:
        layout.joins.append(Join(node, ids))


def _batchnorm(layout: Layout, node: onnx.NodeProto) -> None:
    constant = all(name in layout.graph.constants for name in node.input[1:])
    if not constant or layout.channels(node.input[0]) is None or any(node.output[1:]):
        layout.freeze(node, "does not work channel by channel here")
        return
    layout.follow(node, layout.ids[node.input[0]])


def _pad(layout: Layout, node: onnx.NodeProto) -> None:
    amounts = layout.graph.constant(node.input[1]) if len(node.input) > 1 else None
    axes = layout.graph.constant(node.input[3]) if len(node.input) > 3 else None
    rank = len(layout.graph.shapes[node.input[0]])
    if amounts is None or (len(node.input) > 3 and node.input[3] and axes is None):
        layout.freeze(node, "pads by amounts that are not constant")
        return
    padded = np.zeros(rank, bool)
    padded[np.arange(rank) if axes is None else np.asarray(axes)] = np.reshape(
        amounts, (2, -1)
    ).any(0)
    varying = np.array([False, *(size > 1 for size in layout.ids[node.input[0]].shape)])
    # A single unit on the channel axis looks like no unit at all: its axis is the first.
    if padded[:2].any() or (padded & varying).any():
        layout.freeze(node, "pads the channels")
        return
    layout.follow(node, layout.ids[node.input[0]])


def _resize(layout: Layout, node: onnx.NodeProto) -> None:
    before, after = layout.sizes(node.input[0]), layout.sizes(node.output[0])
    ids = layout.ids[node.input[0]]
    fixed = all(name in layout.graph.constants for name in node.input[1:] if name)
    kept = all(size == 1 or before[k] == after[k] for k, size in enumerate(ids.shape))
    if not fixed or not kept or before[0] != after[0]:
        layout.freeze(node, "resizes the channels or reads them for its size")
        return
    layout.follow(node, ids)


def _reshape(layout: Layout, node: onnx.NodeProto) -> None:
    if any(name not in layout.graph.constants for name in node.input[1:] if name):
        layout.freeze(node, "computes its shape at run time")
        return
    sizes = layout.sizes(node.output[0])
    layout.follow(node, layout.full(node.input[0]).reshape(sizes))


def _transpose(layout: Layout, node: onnx.NodeProto) -> None:
    rank = len(layout.graph.shapes[node.input[0]])
    order = attribute(node, "perm", list(range(rank))[::-1])
    if order[0] != 0:
        layout.freeze(node, "moves the batch")
        return
    layout.follow(node, layout.ids[node.input[0]].transpose([axis - 1 for axis in order[1:]]))


def _along(layout: Layout, name: str, axis: int) -> Ids:
    """Units of a tensor with one `axis` (of the sample) written out, the others as they are."""
    ids = layout.ids[name]
    shape = list(ids.shape)
    shape[axis] = layout.sizes(name)[axis]
    return np.broadcast_to(ids, shape)


def _axis(layout: Layout, node: onnx.NodeProto, default: int = 0) -> int:
    """The axis attribute counted without the batch; -1 is the batch itself."""
    rank = len(layout.graph.shapes[layout.graph.activations(node)[0]])
    return int(attribute(node, "axis", default)) % rank - 1


def _concat(layout: Layout, node: onnx.NodeProto) -> None:
    axis = _axis(layout, node)
    names = list(node.input)
    if axis < 0 or any(name in layout.graph.constants for name in names):
        layout.freeze(node, "joins batches or constants")
        return
    all_ids = [layout.ids[name] for name in names]
    elsewhere = any(size > 1 for ids in all_ids for k, size in enumerate(ids.shape) if k != axis)
    if elsewhere and all(ids.shape[axis] == 1 for ids in all_ids):
        _join(layout, node, names)
        return
    parts = [_along(layout, name, axis) for name in names]
    shape = np.broadcast_shapes(*[np.delete(part.shape, axis) for part in parts])
    spread = []
    for part in parts:
        full = list(shape)
        full.insert(axis, part.shape[axis])
        spread.append(np.broadcast_to(part, full))
    layout.follow(node, np.concatenate(spread, axis))


def _slice(layout: Layout, node: onnx.NodeProto) -> None:
    values = [layout.graph.constant(name) if name else None for name in node.input[1:]]
    named = [name for name in node.input[1:] if name]
    if any(name not in layout.graph.constants for name in named) or len(values) < 2:
        layout.freeze(node, "cuts at places that are not constant")
        return
    values += [None] * (4 - len(values))
    starts, ends, axes, steps = values
    rank = len(layout.graph.shapes[node.input[0]])
    index: list[Any] = [slice(None)] * rank
    for place in range(len(starts if starts is not None else [])):
        axis = int(axes[place]) % rank if axes is not None else place
        step = int(steps[place]) if steps is not None else 1
        index[axis] = _cut(int(starts[place]), int(ends[place]), step)  # type: ignore[index]
    if index[0] != slice(None):
        layout.freeze(node, "cuts the batch")
        return
    ids = layout.ids[node.input[0]]
    for axis, cut in enumerate(index[1:]):
        if ids.shape[axis] > 1:
            ids = ids[(slice(None),) * axis + (cut,)]
    layout.follow(node, ids)


def _cut(start: int, end: int, step: int) -> slice:
    """A Python slice for an ONNX one, whose far ends are written as huge numbers."""
    far = 2**31 - 1
    if step < 0:
        return slice(start if start < far else None, None if end < -far else end, step)
    whole = start == 0 and end >= far and step == 1
    return slice(None) if whole else slice(start, end, step)


def _split(layout: Layout, node: onnx.NodeProto) -> None:
    axis = _axis(layout, node)
    if axis < 0 or any(name not in layout.graph.constants for name in node.input[1:] if name):
        layout.freeze(node, "splits the batch, or at places that are not constant")
        return
    ids, start = _along(layout, node.input[0], axis), 0
    for name in node.output:
        end = start + layout.sizes(name)[axis]
        part = ids.take(range(start, end), axis)
        layout.put(name, part)
        layout.passed.append(Join(node, part))
        start = end


def _gather(layout: Layout, node: onnx.NodeProto) -> None:
    indices = layout.graph.constant(node.input[1])
    if indices is None or node.input[0] in layout.graph.constants or _axis(layout, node) < 0:
        layout.freeze(node, "picks places that are not constant, or from the batch")
        return
    axis = _axis(layout, node)
    layout.follow(node, _along(layout, node.input[0], axis).take(indices, axis))


def _expand(layout: Layout, node: onnx.NodeProto) -> None:
    before, after = layout.sizes(node.input[0]), layout.sizes(node.output[0])
    fixed = node.input[1] in layout.graph.constants
    if not fixed or len(before) != len(after) or before[:1] != after[:1]:
        layout.freeze(node, "repeats channels")
        return
    layout.follow(node, layout.ids[node.input[0]])


def _reduce(layout: Layout, node: onnx.NodeProto) -> None:
    axes = reduced_axes(layout.graph, node)
    ids = layout.ids[node.input[0]]
    # Axis 1 is where channels are; reducing over a single one would hide that there was one.
    mixed = axes is None or any(axis < 1 or ids.shape[axis - 1] > 1 for axis in axes)
    if mixed or axes is None or (1 in axes and ids.any()):
        layout.freeze(node, "mixes channels or samples")
        return
    if not attribute(node, "keepdims", 1):
        ids = ids.reshape([s for k, s in enumerate(ids.shape, 1) if k not in axes])
    layout.follow(node, ids)


def _conv(layout: Layout, node: onnx.NodeProto) -> None:
    weight = _weight(layout, node)
    group = int(attribute(node, "group", 1))
    if weight is None:
        return
    channels, outputs = layout.sizes(node.input[0])[0], weight.shape[0]
    if weight.ndim > 4:
        layout.freeze(node, "is a convolution over three or more axes")
    elif group == 1:
        _dense(layout, node, layout.channels(node.input[0]), outputs)
    elif group == channels == outputs and layout.channels(node.input[0]) is not None:
        _depthwise(layout, node)
    else:
        layout.freeze(node, "is a grouped convolution")


def _depthwise(layout: Layout, node: onnx.NodeProto) -> None:
    ids = layout.channels(node.input[0])
    assert ids is not None
    layout.follow(node, layout.ids[node.input[0]])
    layout.dense.append(Dense(node, True, ids, ids))


def _gemm(layout: Layout, node: onnx.NodeProto) -> None:
    weight = _weight(layout, node)
    if weight is None:
        return
    plain = attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0
    if not plain or attribute(node, "transA", 0):
        layout.freeze(node, "is no plain linear layer")
        return
    outputs = weight.shape[0 if attribute(node, "transB", 0) else 1]
    _dense(layout, node, layout.channels(node.input[0]), outputs)


def _weight(layout: Layout, node: onnx.NodeProto) -> Any:
    """The constant weight that only this node reads; `None` after freezing otherwise."""
    graph = layout.graph
    weight, bias = graph.constant(node.input[1]), node.input[2] if len(node.input) > 2 else ""
    if weight is None or node.input[0] in graph.constants:
        layout.freeze(node, "has weights that are computed")
    elif bias and (bias not in graph.constants or graph.constants[bias].ndim != 1):
        layout.freeze(node, "has a bias that is not one constant per channel")
    elif graph.uses()[node.input[1]] > 1:
        layout.freeze(node, f"has weights shared by others ({node.input[1]})")
    elif weight.dtype != np.float32:
        layout.freeze(node, f"has {weight.dtype} weights")
    else:
        return weight
    return None


def _dense(layout: Layout, node: onnx.NodeProto, reads: Ids | None, outputs: int) -> None:
    if reads is None:
        reason = f"{node.op_type} {node.name!r} reads it along several axes"
        layout.units.freeze(layout.ids[node.input[0]], reason)
        reads = np.zeros(layout.sizes(node.input[0])[0], np.int64)
    fresh = layout.units.fresh(outputs)
    layout.put(node.output[0], fresh.reshape(-1, *[1] * (len(layout.sizes(node.output[0])) - 1)))
    layout.dense.append(Dense(node, False, reads, fresh))


RULES: dict[str, _Rule] = {
    **dict.fromkeys(_UNARY.split(), _unary),
    **dict.fromkeys(_POOLS.split(), _pool),
    **dict.fromkeys(_ELEMENTWISE.split(), _elementwise),
    **dict.fromkeys(_REDUCTIONS.split(), _reduce),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    "BatchNormalization": _batchnorm,
    "Pad": _pad,
    "Resize": _resize,
    "Transpose": _transpose,
    "Concat": _concat,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "Expand": _expand,
    "Conv": _conv,
    "Gemm": _gemm,
}
