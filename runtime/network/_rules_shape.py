"""Rules of operators that rearrange elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from ._graph import attribute
from ._layout import Dense, Join, Layout, describe
from ._units import Ids

__all__ = [
    "concat",
    "depth_to_space",
    "expand",
    "gather",
    "reshape",
    "slice_",
    "space_to_depth",
    "split",
    "tile",
    "transpose",
]


def reshape(layout: Layout, node: onnx.NodeProto) -> None:
    """Reshape, Flatten, Squeeze and Unsqueeze."""
    if any(name not in layout.graph.constants for name in node.input[1:] if name):
        layout.freeze(node, "computes its shape at run time")
        return
    layout.follow(node, layout.full(node.input[0]).reshape(layout.sizes(node.output[0])))


def transpose(layout: Layout, node: onnx.NodeProto) -> None:
    """Axes in another order."""
    rank = layout.rank(node.input[0])
    order = attribute(node, "perm", list(range(rank))[::-1])
    layout.follow(node, layout.ids[node.input[0]].transpose(order))


def _spread(layout: Layout, name: str, axis: int) -> Ids:
    """Units of a tensor with one axis written out, the others as they are."""
    ids = layout.ids[name]
    shape = list(ids.shape)
    shape[axis] = layout.sizes(name)[axis]
    return np.broadcast_to(ids, shape)


def _axis(layout: Layout, node: onnx.NodeProto, name: str, default: int = 0) -> int:
    return int(attribute(node, "axis", default)) % layout.rank(name)


def concat(layout: Layout, node: onnx.NodeProto) -> None:
    """Tensors one after the other; constants among them keep all that they have."""
    rank = layout.rank(node.output[0])
    axis = int(attribute(node, "axis", 0)) % rank
    parts = []
    for name in node.input:
        if name in layout.graph.constants:
            shape = [1] * rank
            shape[axis] = layout.sizes(name)[axis]
            parts.append(np.zeros(shape, np.int64))
        else:
            parts.append(_spread(layout, name, axis))
    if any(layout.batched(name, axis) for name in layout.graph.activations(node)):
        layout.freeze(node, "joins along the batch")
        return
    across = np.broadcast_shapes(*[(*p.shape[:axis], 1, *p.shape[axis + 1 :]) for p in parts])
    if any(size > 1 for size in across):
        _concat_across(layout, node, parts, axis, across)
        return
    layout.follow(node, np.concatenate(parts, axis))


def _concat_across(
    layout: Layout, node: onnx.NodeProto, parts: list[Ids], axis: int, across: tuple[int, ...]
) -> None:
    """Parts whose units change along another axis than they are joined along: all must agree."""
    reason = f"joined by {node.op_type} {node.name!r} with channels that cannot be pruned"
    if any(name in layout.graph.constants for name in node.input):
        layout.freeze(node, "puts constants beside it")
        return
    if all(compress.shape[axis] == 1 for compress in (layout.ids[n] for n in node.input)):
        layout.follow(node, layout.units.join([layout.ids[n] for n in node.input], reason))
        return
    wide = []
    for part in parts:
        shape = list(across)
        shape[axis] = part.shape[axis]
        wide.append(np.broadcast_to(part, shape))
    layout.follow(node, np.concatenate(wide, axis))


def slice_(layout: Layout, node: onnx.NodeProto) -> None:
    """Cuts at constant places."""
    index = slice_index(layout, node)
    if index is None:
        layout.freeze(node, "cuts at places that are not constant")
        return
    ids = layout.ids[node.input[0]]
    for axis, cut in enumerate(index):
        if cut != slice(None) and layout.batched(node.input[0], axis):
            layout.freeze(node, "cuts the batch")
            return
        if ids.shape[axis] > 1:
            ids = ids[(slice(None),) * axis + (cut,)]
    layout.follow(node, ids)


def slice_index(layout: Layout, node: onnx.NodeProto) -> list[slice] | None:
    """What a Slice takes along each axis; `None` where that is not constant."""
    names = [name for name in node.input[1:] if name]
    if any(name not in layout.graph.constants for name in names) or len(names) < 2:
        return None
    values: list[Any] = [layout.graph.constant(name) if name else None for name in node.input[1:]]
    starts, ends, axes, steps = [*values, None, None][:4]
    rank = layout.rank(node.input[0])
    index = [slice(None)] * rank
    for place in range(len(starts)):
        axis = int(axes[place]) % rank if axes is not None else place
        step = int(steps[place]) if steps is not None else 1
        index[axis] = _cut(int(starts[place]), int(ends[place]), step)
    return index


def _cut(start: int, end: int, step: int) -> slice:
    """A Python slice for an ONNX one, whose far ends are written as huge numbers."""
    far = 2**31 - 1
    if step < 0:
        return slice(start if start < far else None, None if end < -far else end, step)
    return slice(max(start, -far), None if end >= far else end, step)


def split(layout: Layout, node: onnx.NodeProto) -> None:
    """Parts of constant sizes."""
    if any(name not in layout.graph.constants for name in node.input[1:] if name):
        layout.freeze(node, "splits at places that are not constant")
        return
    axis = _axis(layout, node, node.input[0])
    if layout.batched(node.input[0], axis):
        layout.freeze(node, "splits the batch")
        return
    ids, start = _spread(layout, node.input[0], axis), 0
    for name in node.output:
        if not name:
            layout.freeze(node, "leaves a part unnamed")
            return
        end = start + layout.sizes(name)[axis]
        part = ids.take(range(start, end), axis)
        if layout.put(node, name, part):
            layout.passed.append(Join(node, part))
        start = end


def gather(layout: Layout, node: onnx.NodeProto) -> None:
    """Constant places of an activation; or rows of a constant table, which is an embedding."""
    if node.input[0] in layout.graph.constants:
        _embedding(layout, node)
        return
    indices = layout.graph.constant(node.input[1])
    if indices is None:
        layout.freeze(node, "picks places that are not constant")
        return
    axis = _axis(layout, node, node.input[0])
    ids = layout.ids[node.input[0]]
    if layout.batched(node.input[0], axis):
        layout.freeze(node, "picks from the batch")
        return
    if ids.shape[axis] > 1:
        layout.follow(node, ids.take(indices, axis))
        return
    shape = (*ids.shape[:axis], *[1] * indices.ndim, *ids.shape[axis + 1 :])
    layout.follow(node, ids.reshape(shape))


def _embedding(layout: Layout, node: onnx.NodeProto) -> None:
    table = layout.graph.constants[node.input[0]]
    layout.freeze(node, "looks rows up by it")
    layout.refused[node.name] = f"{describe(node)} looks up in a table that is no list of rows"
    if table.ndim != 2 or attribute(node, "axis", 0) != 0 or table.dtype != np.float32:
        return
    fresh = layout.units.fresh(table.shape[1])
    layout.put(node, node.output[0], fresh.reshape([1] * (layout.rank(node.output[0]) - 1) + [-1]))
    layout.cut(node, 0, {1: fresh})
    nothing = np.zeros(0, np.int64)
    layout.dense.append(
        Dense(node, "embedding", nothing, fresh, None, 1, node.output[0], (node.name, 0))
    )


def expand(layout: Layout, node: onnx.NodeProto) -> None:
    """Repeats axes of size one."""
    if node.input[1] not in layout.graph.constants:
        layout.freeze(node, "computes its shape at run time")
        return
    rank, ids = layout.rank(node.output[0]), layout.ids[node.input[0]]
    before = (1,) * (rank - ids.ndim) + layout.sizes(node.input[0])
    after = layout.sizes(node.output[0])
    if all(n == 1 for n in ids.shape) and before != after:
        layout.freeze(node, "repeats one channel over many")
        return
    layout.follow(node, ids.reshape((1,) * (rank - ids.ndim) + ids.shape))


def tile(layout: Layout, node: onnx.NodeProto) -> None:
    """Repeats the whole of an axis, units and all; the batch keeps its size."""
    repeats = layout.graph.constant(node.input[1])
    name = node.input[0]
    if repeats is None or any(
        n > 1 and layout.dynamic(name, axis) for axis, n in enumerate(repeats.tolist())
    ):
        layout.freeze(node, "repeats the batch, or how often is not constant")
        return
    ids = layout.ids[name]
    if all(n == 1 for n in ids.shape):
        layout.freeze(node, "repeats one channel over many")
        return
    times = [n if ids.shape[axis] > 1 else 1 for axis, n in enumerate(repeats.tolist())]
    layout.follow(node, np.tile(ids, times))


def depth_to_space(layout: Layout, node: onnx.NodeProto) -> None:
    """Channels become positions: those of one output channel go together."""
    channels = layout.along(node.input[0], 1)
    if channels is None:
        layout.freeze(node, "reads it along several axes")
        return
    area = int(attribute(node, "blocksize")) ** 2
    column_row = attribute(node, "mode", "DCR") == "CRD"
    blocks = channels.reshape((-1, area) if column_row else (area, -1))
    tied = layout.tied(node, blocks, [1 if column_row else 0]).reshape(-1)
    layout.follow(node, tied.reshape(1, -1, 1, 1))


def space_to_depth(layout: Layout, node: onnx.NodeProto) -> None:
    """Positions become channels: one input channel becomes several."""
    channels = layout.along(node.input[0], 1)
    if channels is None:
        layout.freeze(node, "reads it along several axes")
        return
    area = int(attribute(node, "blocksize")) ** 2
    layout.follow(node, np.tile(channels, area).reshape(1, -1, 1, 1))
