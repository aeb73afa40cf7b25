"""Operators whose weights stay as they are because they are not understood: each is told."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from ..runtime.artifact import ChannelGroup, Member
from ..runtime.network._graph import Graph, attribute, read_names, subgraphs
from ..runtime.network._layout import Layout
from ..runtime.network._rules import PRODUCERS, RULES

__all__ = ["refused_groups"]


def refused_groups(layout: Layout) -> Iterator[ChannelGroup]:
    """A frozen group for each operator that holds weights and could not be opened.

    Without one nobody would be told of what it holds: it writes no units, and so no group has it.
    """
    opened = {dense.node.name for dense in layout.dense}
    for node in layout.graph.nodes:
        why = layout.refused.get(node.name)
        unknown = node.op_type in PRODUCERS or node.op_type not in RULES or node.domain
        if why and unknown and node.name not in opened and _holds_weights(layout.graph, node):
            member = Member(node.name, node.op_type, "producer", None)
            yield ChannelGroup(node.name, 1, "linear", why, (member,), 0, 0)


def _holds_weights(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a node, or what stands in its sub-graphs, reads a constant matrix of floats."""
    read = (graph.constants.get(name) for name in read_names(node))
    if any(value is not None and value.dtype.kind == "f" and value.ndim > 1 for value in read):
        return True
    return any(
        tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1
        for inner in subgraphs(node)
        for tensor in _inner_tensors(inner)
    )


def _inner_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        value = attribute(node, "value") if node.op_type == "Constant" else None
        if isinstance(value, onnx.TensorProto):
            yield value
        for inner in subgraphs(node):
            yield from _inner_tensors(inner)
