"""Rules of operators that mix elements along axes: what they mix becomes one unit."""

from __future__ import annotations

import numpy as np
import onnx

from ._graph import Graph, attribute
from ._layout import Layout, describe

__all__ = [
    "accumulate",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "mix_along",
    "mix_declared",
    "reduce_",
]


def reduced_axes(graph: Graph, node: onnx.NodeProto) -> list[int] | None:
    """Axes of a Reduce node, not negative; `None` if they are not known."""
    shape = graph.shapes.get(node.input[0])
    axes = attribute(node, "axes")
    if len(node.input) > 1 and node.input[1]:
        axes = graph.constant(node.input[1])
        if axes is None:
            return None
    if shape is None:
        return None
    if axes is None or len(axes) == 0:
        noop = attribute(node, "noop_with_empty_axes", 0)
        return [] if noop else list(range(len(shape)))
    return sorted(int(axis) % len(shape) for axis in np.reshape(axes, -1))


def reduce_(layout: Layout, node: onnx.NodeProto) -> None:
    """ReduceMean and its like."""
    axes = reduced_axes(layout.graph, node)
    if axes is None:
        layout.freeze(node, "reduces axes that are not constant")
        return
    ids = layout.tied(node, layout.ids[node.input[0]], axes)
    if not attribute(node, "keepdims", 1):
        ids = ids.reshape([n for axis, n in enumerate(ids.shape) if axis not in axes])
    layout.follow(node, ids)


def mix_along(layout: Layout, node: onnx.NodeProto) -> None:
    """Softmax and its like, along the attribute `axis`."""
    ids = layout.ids[node.input[0]]
    layout.follow(node, layout.tied(node, ids, [int(attribute(node, "axis", -1)) % ids.ndim]))


def accumulate(layout: Layout, node: onnx.NodeProto) -> None:
    """CumSum, along an axis that is an input."""
    axis = layout.graph.constant(node.input[1])
    if axis is None:
        layout.freeze(node, "sums along an axis that is not constant")
        return
    ids = layout.ids[node.input[0]]
    tied = layout.tied(node, ids, [int(axis.item()) % ids.ndim])
    layout.follow(node, tied)


def attention(layout: Layout, node: onnx.NodeProto) -> None:
    """Attention of (batch, heads, time, size) tensors: heads that share a key go together."""
    why = _not_plain_attention(layout, node)
    if why is not None:
        layout.freeze(node, why)
        return
    heads = layout.sizes(node.input[0])[1]
    parts = []
    for name in node.input[:3]:
        tied = layout.tied(node, layout.ids[name], [2, 3])
        spread = np.broadcast_to(tied, (tied.shape[0], layout.sizes(name)[1], 1, 1))
        parts.append(np.repeat(spread, heads // spread.shape[1], axis=1))
    reason = f"{describe(node)} multiplies it with what cannot be pruned"
    layout.follow(node, layout.units.join(parts, reason))


def _not_plain_attention(layout: Layout, node: onnx.NodeProto) -> str | None:
    """Why an Attention cannot be pruned by heads, if it cannot."""
    if any(layout.rank(name) != 4 for name in node.input[:3]):
        return "has its heads side by side on one axis"
    if any(node.output[1:]) or any(node.input[4:]):
        return "keeps keys and values, or hands out what it computes within"
    if any(layout.batched(name, 0) for name in node.input[:3]):
        return "lines it up with the batch"
    mask = node.input[3] if len(node.input) > 3 else ""
    if mask in layout.ids and layout.ids[mask].any():
        return "has a mask that is computed from it"
    if mask and layout.rank(mask) > 2 and layout.sizes(mask)[-3] > 1:
        return "has a mask for each head"
    return None


def mix_declared(layout: Layout, node: onnx.NodeProto) -> None:
    """MeanVarianceNormalization over its attribute `axes`."""
    ids = layout.ids[node.input[0]]
    axes = [int(axis) % ids.ndim for axis in attribute(node, "axes", [0, 2, 3])]
    layout.follow(node, layout.tied(node, ids, axes))


def layer_norm(layout: Layout, node: onnx.NodeProto) -> None:
    """LayerNormalization and RMSNormalization over the axes from `axis` on."""
    if any(name not in layout.graph.constants for name in node.input[1:] if name):
        layout.freeze(node, "has a scale that is computed")
        return
    if any(node.output[1:]):
        layout.freeze(node, "gives its statistics too")
        return
    ids = layout.ids[node.input[0]]
    first = int(attribute(node, "axis", -1)) % ids.ndim
    layout.follow(node, layout.tied(node, ids, range(first, ids.ndim)))


def instance_norm(layout: Layout, node: onnx.NodeProto) -> None:
    """InstanceNormalization: scale and bias per channel, statistics over the other axes."""
    if any(name not in layout.graph.constants for name in node.input[1:]):
        layout.freeze(node, "has a scale that is computed")
        return
    ids = layout.ids[node.input[0]]
    ids = layout.tied(node, ids, range(2, ids.ndim))
    if ids.shape[1] > 1:
        for place in (1, 2):
            layout.cut(node, place, {0: ids.reshape(-1)})
    layout.follow(node, ids)


def group_norm(layout: Layout, node: onnx.NodeProto) -> None:
    """GroupNormalization: the channels of a group go together."""
    channels = layout.along(node.input[0], 1)
    if channels is None or any(name not in layout.graph.constants for name in node.input[1:]):
        layout.freeze(node, "does not work channel by channel here")
        return
    groups = int(attribute(node, "num_groups"))
    blocks = layout.tied(node, channels.reshape(groups, -1), [1]).reshape(groups)
    channels = np.repeat(blocks, len(channels) // groups)
    for place in (1, 2):
        per_group = layout.sizes(node.input[place])[0] == groups  # up to operator set 20
        layout.cut(node, place, {0: blocks if per_group else channels})
    layout.follow(node, channels.reshape([1, -1, *[1] * (layout.rank(node.input[0]) - 2)]))
