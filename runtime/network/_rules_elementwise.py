"""Rules of operators that treat every element, or every channel, by itself."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from ._layout import Join, Layout, describe
from ._units import Ids

__all__ = ["batchnorm", "elementwise", "pad", "pool", "resize", "unary"]


def unary(layout: Layout, node: onnx.NodeProto) -> None:
    """One activation in, one out; all other inputs are scalars."""
    extra = [layout.graph.constant(name) for name in node.input[1:] if name]
    if any(value is None or value.size > 1 for value in extra) or any(node.output[1:]):
        layout.freeze(node, "has parameters that are not one for all channels")
        return
    layout.follow(node, layout.ids[node.input[0]])


def pool(layout: Layout, node: onnx.NodeProto) -> None:
    """Pooling over the axes after the channels."""
    if any(node.output[1:]):
        layout.freeze(node, "gives the places of its maxima too")
        return
    ids = layout.ids[node.input[0]]
    layout.follow(node, layout.tied(node, ids, range(2, ids.ndim)))


def batchnorm(layout: Layout, node: onnx.NodeProto) -> None:
    """BatchNormalization that no convolution could take in: four constants per channel."""
    ids = layout.ids[node.input[0]]
    constant = all(name in layout.graph.constants for name in node.input[1:])
    channels = layout.along(node.input[0], 1)
    if not constant or channels is None or any(node.output[1:]):
        layout.freeze(node, "does not work channel by channel here")
        return
    for place in range(1, 5):
        layout.cut(node, place, {0: channels})
    layout.follow(node, ids)


def elementwise(layout: Layout, node: onnx.NodeProto) -> None:
    """Operators that line their inputs up at the last axis and stretch axes of size one."""
    rank = layout.rank(node.output[0])
    names = [name for name in layout.graph.activations(node) if layout.ids[name].any()]
    others = [n for n in layout.graph.activations(node) if n not in names]
    out = layout.sizes(node.output[0])
    parts, sizes = [], []
    for name in dict.fromkeys(names):
        ids = _ranked(layout.ids[name], rank)
        size = (1,) * (rank - layout.rank(name)) + layout.sizes(name)
        if _stretched(layout, names, name, size, out):
            layout.units.freeze(ids, f"{describe(node)} spreads it over all channels")
            others.append(name)
        else:
            parts.append(ids)
            sizes.append(size)
    if not parts:
        layout.pass_nothing(node)
        return
    ids = layout.units.join(parts, f"{describe(node)} joins it with other channels")
    ids = _with_fixed(layout, node, ids, others)
    _cut_constants(layout, node, ids)
    layout.follow(node, ids)
    if len(layout.graph.activations(node)) > 1:
        layout.joins.append(Join(node, ids))


def _ranked(ids: Ids, rank: int) -> Ids:
    return ids.reshape((1,) * (rank - ids.ndim) + ids.shape)


def _stretched(
    layout: Layout, names: list[str], name: str, size: tuple[int, ...], out: tuple[int, ...]
) -> bool:
    """Whether a single channel of one operand is repeated for all channels of another."""
    ids = layout.ids[name]
    alone = all(n == 1 for n in ids.shape)
    return alone and any(a == 1 and b > 1 for a, b in zip(size, out, strict=True))


def _with_fixed(layout: Layout, node: onnx.NodeProto, ids: Ids, others: list[str]) -> Ids:
    """Freeze what stands beside activations that keep their size along the same axis."""
    reason = f"joined by {describe(node)} with channels that cannot be pruned"
    for name in others:
        size = (1,) * (ids.ndim - layout.rank(name)) + layout.sizes(name)
        if any(n > 1 and m > 1 for n, m in zip(ids.shape, size, strict=True)):
            layout.units.freeze(ids, reason)
            return np.zeros((1,) * ids.ndim, np.int64)
    return ids


def _cut_constants(layout: Layout, node: onnx.NodeProto, ids: Ids) -> None:
    for place, name in enumerate(node.input):
        value: NDArray[np.generic] | None = layout.graph.constant(name)
        if value is None or value.ndim == 0:
            continue
        offset = ids.ndim - value.ndim
        axes = {}
        for axis, size in enumerate(value.shape):
            if size > 1 and ids.shape[axis + offset] > 1:
                moved = np.moveaxis(ids, axis + offset, 0).reshape(ids.shape[axis + offset], -1)
                axes[axis] = moved[:, 0]
        if axes:
            layout.cut(node, place, axes)


def pad(layout: Layout, node: onnx.NodeProto) -> None:
    """Padding of axes along which no units change."""
    names = [*node.input, "", "", ""]
    amounts, axes = layout.graph.constant(names[1]), layout.graph.constant(names[3])
    if amounts is None or (names[3] and axes is None):
        layout.freeze(node, "pads by amounts that are not constant")
        return
    ids = layout.ids[node.input[0]]
    padded = np.zeros(ids.ndim, bool)
    padded[np.arange(ids.ndim) if axes is None else np.asarray(axes)] = np.reshape(
        amounts, (2, -1)
    ).any(0)
    if any(p and n > 1 for p, n in zip(padded, ids.shape, strict=True)):
        layout.freeze(node, "pads the channels")
        return
    layout.follow(node, ids)


def resize(layout: Layout, node: onnx.NodeProto) -> None:
    """Resizing of axes along which no units change."""
    before, after = layout.sizes(node.input[0]), layout.sizes(node.output[0])
    ids = layout.ids[node.input[0]]
    fixed = all(name in layout.graph.constants for name in node.input[1:] if name)
    kept = all(size == 1 or before[k] == after[k] for k, size in enumerate(ids.shape))
    if not fixed or not kept:
        layout.freeze(node, "resizes the channels or reads them for its size")
        return
    layout.follow(node, ids)
