"""What besides its weights a node has to change when its tensors shrink."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ._cut_edit import Edit
from ._cut_remains import Remains
from ._graph import Graph, attribute

__all__ = ["REWRITES", "cut_constants", "supported"]

_Rewrite = Callable[[Edit, Remains, onnx.NodeProto], None]

_AS_THEY_ARE = """
    Abs Cast Ceil Celu Clip Cos Elu Erf Exp Floor Gelu HardSigmoid HardSwish LeakyRelu Log Mish Neg
    Reciprocal Relu Round Selu Sigmoid Sign Sin Softplus Softsign Sqrt Swish Tanh ThresholdedRelu
    Identity Dropout Not IsNaN IsInf
    AveragePool MaxPool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool
    Add Sub Mul Div Min Max Pow Sum Mean PRelu Mod
    Where Greater GreaterOrEqual Less LessOrEqual Equal And Or Xor
    ReduceMean ReduceSum ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceSumSquare ReduceProd
    ReduceLogSum ReduceLogSumExp
    Attention Softmax LogSoftmax Hardmax LpNormalization LayerNormalization RMSNormalization
    BatchNormalization InstanceNormalization MeanVarianceNormalization
    Flatten Unsqueeze Transpose Pad Tile CumSum DepthToSpace SpaceToDepth Gemm MatMul
"""


def _set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    """Set an attribute of a node, or remove it (`None`)."""
    others = [item for item in node.attribute if item.name != name]
    if value is not None:
        others.append(helper.make_attribute(name, value))
    del node.attribute[:]
    node.attribute.extend(others)


def cut_constants(edit: Edit, remains: Remains, node: onnx.NodeProto) -> None:
    """Cut the constants of a node along the axes on which they line up with units."""
    for place, lined_up in remains.cuts(node):
        value = edit.value(node, place)
        if value is None:
            continue
        # A size of 1 serves all channels alike.
        parts = [part for part in lined_up if value.shape[part.axis] == len(part.kept)]
        for part in parts:
            value = value.compress(part.kept, part.axis)
        if parts:
            edit.put(node, place, value, tuple((p.axis, p.kept.tobytes()) for p in parts))


def _convolution(edit: Edit, remains: Remains, node: onnx.NodeProto) -> None:
    """Conv and ConvTranspose: a grouped one loses whole groups, each of which keeps its size."""
    groups = int(attribute(node, "group", 1))
    part = remains.part(node.input[0])
    if groups > 1 and part is not None:
        _set_attribute(node, "group", groups * part.size // len(part.kept))


def _group_norm(edit: Edit, remains: Remains, node: onnx.NodeProto) -> None:
    part = remains.part(node.input[0])
    if part is not None:
        groups = int(attribute(node, "num_groups"))
        _set_attribute(node, "num_groups", groups * part.size // len(part.kept))


def _recurrent(edit: Edit, remains: Remains, node: onnx.NodeProto) -> None:
    part = next((p for p in map(remains.part, node.output) if p is not None), None)
    if part is not None:
        _set_attribute(node, "hidden_size", part.size)


def _reshape(edit: Edit, remains: Remains, node: onnx.NodeProto) -> None:
    """Write sizes out; one that depends on the batch stays what it was, 0 or -1."""
    target = edit.value(node, 1)
    if target is None or remains.part(node.output[0]) is None:
        return
    shape = remains.shape(node.output[0])
    sizes = [int(old) if n is None else n for old, n in zip(target, shape, strict=True)]
    edit.put(node, 1, np.array(sizes, np.int64))


def _squeeze(edit: Edit, remains: Remains, node: onnx.NodeProto) -> None:
    """Name the axes, where it drops all of size one: a channel axis may have become such."""
    given = attribute(node, "axes") is not None or edit.value(node, 1) is not None
    if not given and remains.part(node.input[0]) is not None:
        sizes = edit.source.sizes_at_three[node.input[0]]
        axes = np.array([axis for axis, size in enumerate(sizes) if size == 1], np.int64)
        edit.put(node, 1, axes)


def _expand(edit: Edit, remains: Remains, node: onnx.NodeProto) -> None:
    target, part = edit.value(node, 1), remains.part(node.output[0])
    if target is None or part is None:
        return
    place = part.axis - len(remains.shape(node.output[0])) + len(target)
    if place >= 0 and target[place] != 1:
        target = target.copy()
        target[place] = part.size
        edit.put(node, 1, target)


def _resize(edit: Edit, remains: Remains, node: onnx.NodeProto) -> None:
    sizes, part = edit.value(node, 3), remains.part(node.output[0])
    if attribute(node, "axes") is not None:
        return  # sizes are those of the named axes, which carry no units
    if sizes is not None and part is not None and sizes.size:
        sizes = sizes.copy()
        sizes[part.axis] = part.size
        edit.put(node, 3, sizes)


def _split(edit: Edit, remains: Remains, node: onnx.NodeProto) -> None:
    """Write out the sizes of the parts; one that is empty is none."""
    part = remains.part(node.input[0])
    axis = int(attribute(node, "axis", 0)) % len(edit.source.shapes[node.input[0]])
    if part is None or part.axis != axis:
        return
    outputs = [name for name in node.output if not remains.vanished(name)]
    sizes = np.array([remains.shape(name)[axis] for name in outputs], np.int64)
    del node.output[:]
    node.output.extend(outputs)
    _set_attribute(node, "num_outputs", None)
    edit.put(node, 1, sizes)


def _concat(edit: Edit, remains: Remains, node: onnx.NodeProto) -> None:
    """Drop the parts of which nothing is left; a single one that is left needs no joining."""
    parts = [name for name in node.input if not remains.vanished(name)]
    if len(parts) == len(node.input):
        return
    del node.input[:]
    node.input.extend(parts)
    if len(parts) == 1:
        node.op_type = "Identity"
        del node.attribute[:]


def _gather(edit: Edit, remains: Remains, node: onnx.NodeProto) -> None:
    """Let the indices point at where what they pick stands now."""
    indices, part = edit.value(node, 1), remains.part(node.input[0])
    if indices is None or part is None:
        return
    axis = int(attribute(node, "axis", 0)) % len(edit.source.shapes[node.input[0]])
    if part.axis != axis:
        return
    indices = np.where(indices < 0, indices + len(part.kept), indices)
    left = remains.part(node.output[0])
    if left is not None:
        indices = indices.compress(left.kept, left.axis - axis)
    edit.put(node, 1, part.places[indices])


def _slice(edit: Edit, remains: Remains, node: onnx.NodeProto) -> None:
    """Move the bounds; where the step is not 1, a Gather takes the place of the Slice."""
    part = remains.part(node.input[0])
    cut = None if part is None else slice_along(edit.source, node, part.axis)
    if part is None or cut is None:
        return
    taken = np.arange(len(part.kept))[cut.span]
    taken = part.places[taken[part.kept[taken]]]
    if cut.span.step != 1:
        del node.input[1:]
        _set_attribute(node, "axis", part.axis)
        node.op_type = "Gather"
        edit.put(node, 1, taken)
        return
    for place, bound in ((1, taken[0]), (2, taken[-1] + 1)):
        bounds = np.array(edit.value(node, place))
        bounds[cut.number] = bound
        edit.put(node, place, bounds)


@dataclass(frozen=True)
class _Cut:
    """What a Slice takes along one axis: the how manieth of its cuts that is, and of how many."""

    number: int
    count: int
    span: slice


def slice_along(graph: Graph, node: onnx.NodeProto, axis: int) -> _Cut | None:
    """What a Slice takes along `axis`; `None` if all."""
    values = [graph.constants.get(name) for name in node.input[1:]]
    starts, ends, axes, steps = [*values, None, None][:4]
    if starts is None or ends is None:
        return None
    rank = len(graph.shapes[node.input[0]])
    cut = [int(a) % rank for a in (range(len(starts)) if axes is None else axes)]
    if axis not in cut:
        return None
    number = cut.index(axis)
    step = 1 if steps is None else int(steps[number])
    return _Cut(number, len(cut), _span(int(starts[number]), int(ends[number]), step))


def _span(start: int, end: int, step: int) -> slice:
    """A Python slice for an ONNX one, whose far ends are written as huge numbers."""
    far = 2**31 - 1
    if step < 0:
        return slice(start if start < far else None, None if end < -far else end, step)
    return slice(max(start, -far), None if end >= far else end, step)


def supported(remains: Remains, node: onnx.NodeProto) -> bool:
    """Whether the tensors of a node may shrink."""
    part = remains.part(node.input[0]) if node.op_type == "Slice" else None
    cut = None if part is None else slice_along(remains.graph, node, part.axis)
    # A Gather can take the place of a Slice that makes one cut, not of one that makes several.
    several = cut is not None and cut.count > 1 and cut.span.step != 1
    return node.op_type in REWRITES and not several


def _nothing(edit: Edit, remains: Remains, node: onnx.NodeProto) -> None:
    """Its sizes follow from those of its inputs."""


REWRITES: dict[str, _Rewrite] = {
    **dict.fromkeys(_AS_THEY_ARE.split(), _nothing),
    **dict.fromkeys(("Conv", "ConvTranspose"), _convolution),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    "Concat": _concat,
    "Expand": _expand,
    "Gather": _gather,
    "GroupNormalization": _group_norm,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
}
