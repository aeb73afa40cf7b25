"""Dependency analysis: which unit does each channel of each tensor carry?

Three lines that hold the idea. ``conv1`` writes channels 1 2 3, ``relu`` passes 1 2 3, ``conv2``
writes 4 5 6, the residual ``Add`` of both ties 1=4, 2=5, 3=6, and ``flatten`` of a 2 × 2 map hands
1 1 1 1 2 2 2 2 3 3 3 3 to the classifier: so pruning unit 1 removes its first four columns.

An operator without a rule freezes what it reads, and says so; it never leads to a wrong edit.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx

from ._graph import Graph
from ._units import Ids, Units

__all__ = ["Dense", "Join", "Layout", "analyse", "describe"]


@dataclass(frozen=True)
class Dense:
    """A dense or depthwise operator: the units it reads, channel by channel, and writes."""

    node: onnx.NodeProto
    depthwise: bool
    reads: Ids
    writes: Ids


@dataclass(frozen=True)
class Join:
    """A node that combines activations channel by channel."""

    node: onnx.NodeProto
    ids: Ids


@dataclass
class Layout:
    """What the analysis knows so far, and in the end its result."""

    graph: Graph
    units: Units = field(default_factory=Units)
    ids: dict[str, Ids] = field(default_factory=dict)
    dense: list[Dense] = field(default_factory=list)
    passed: list[Join] = field(default_factory=list)
    joins: list[Join] = field(default_factory=list)

    def sizes(self, name: str) -> tuple[int, ...]:
        """Shape of an activation without the batch; only for tensors of `known` nodes."""
        return tuple(int(size) for size in self.graph.shapes[name][1:] if size is not None)

    def known(self, node: onnx.NodeProto) -> bool:
        """Whether every activation that the node reads and writes is batch × fixed sizes."""
        names = [*self.graph.activations(node), *(name for name in node.output if name)]
        return all((self.graph.shapes.get(name) or (0,))[0] is None for name in names)

    def full(self, name: str) -> Ids:
        """Units of an activation, one for each element of a sample."""
        return np.broadcast_to(self.ids[name], self.sizes(name))

    def put(self, name: str, ids: Ids) -> None:
        """Set the units of a tensor, without axes along which nothing changes."""
        for axis in range(ids.ndim):
            first = ids.take([0], axis)
            if ids.shape[axis] > 1 and (ids == first).all():
                ids = first
        self.ids[name] = ids

    def follow(self, node: onnx.NodeProto, ids: Ids) -> None:
        """Set the units of a node's output that follows from its input channel by channel."""
        self.put(node.output[0], ids)
        self.passed.append(Join(node, ids))

    def channels(self, name: str) -> Ids | None:
        """Units along the first axis after the batch, or `None` if they change along another."""
        ids = self.ids[name]
        if ids.ndim == 0 or any(size > 1 for size in ids.shape[1:]):
            return None
        return np.broadcast_to(ids.reshape(-1), self.sizes(name)[:1])

    def freeze(self, node: onnx.NodeProto, why: str) -> None:
        """Freeze all that a node reads; what it writes cannot be pruned."""
        for name in self.graph.activations(node):
            self.units.freeze(self.ids[name], f"{describe(node)} {why}")
        for name in node.output:
            if name:
                rank = len(self.graph.shapes.get(name, (None,)))
                self.ids[name] = np.zeros((1,) * max(rank - 1, 0), np.int64)


def describe(node: onnx.NodeProto) -> str:
    """Name a node for the user."""
    return f"{node.op_type} {node.name or node.output[0]!r}"


def analyse(graph: Graph) -> Layout:
    """Follow the units through a graph whose shapes are known."""
    layout = Layout(graph)
    layout.ids[graph.input] = np.zeros((1,) * (len(graph.input_shape) - 1), np.int64)
    for node in graph.nodes:
        _apply_rule(layout, node)
    layout.units.freeze(layout.ids[graph.output], "network output")
    return layout


def _apply_rule(layout: Layout, node: onnx.NodeProto) -> None:
    from ._rules import RULES

    rule = RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    has_subgraph = any(item.type == onnx.AttributeProto.GRAPH for item in node.attribute)
    if rule is None or has_subgraph:
        layout.freeze(node, "is not understood channel by channel")
    elif not layout.known(node):
        layout.freeze(node, "has no fixed shape per sample")
    else:
        rule(layout, node)
