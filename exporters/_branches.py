"""The branch of an If that is always taken stands in its place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import onnx
from onnx import numpy_helper

from ..runtime.network._graph import Graph, attribute, rename_tensors

__all__ = ["inline_ifs"]


def inline_ifs(graph: Graph) -> bool:
    """After: no If whose condition is constant is left, but its branch may hold more of them."""
    nodes: list[onnx.NodeProto] = []
    taken = Counter(node.name for node in graph.nodes)
    changed = False
    for node in graph.nodes:
        condition = graph.constant(node.input[0]) if node.op_type == "If" else None
        if condition is None or condition.size != 1:
            nodes.append(node)
            continue
        branch = attribute(node, "then_branch" if condition.item() else "else_branch")
        nodes += _inlined(graph, node, branch)
        _name_apart(nodes[-len(branch.node) :], taken)
        changed = True
    graph.nodes = nodes
    return changed


def _name_apart(nodes: Iterable[onnx.NodeProto], taken: Counter[str]) -> None:
    """Give nodes names that are not taken: branches may use each other's."""
    for node in nodes:
        wanted = node.name
        while node.name and taken[node.name]:
            taken[wanted] += 1
            node.name = f"{wanted}_{taken[wanted]}"
        taken[node.name] += 1


def _inlined(graph: Graph, node: onnx.NodeProto, branch: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes of a branch; what they make gets names that are free, or those of the outputs."""
    new_names = {
        item.name: output for item, output in zip(branch.output, node.output, strict=True) if output
    }
    for tensor in branch.initializer:
        new_names[tensor.name] = graph.unique(tensor.name)
        graph.constants[new_names[tensor.name]] = numpy_helper.to_array(tensor)
    for name in (name for inner in branch.node for name in inner.output):
        if name and name not in new_names:
            new_names[name] = graph.unique(name)
    return [_renamed(inner, new_names) for inner in branch.node]


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """A copy that reads and writes other names, in its sub-graphs too."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    rename_tensors(copy, names)
    return copy
