"""GroupNormalization of operator sets 18 to 20, which ONNX took back, as operators that remain."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..runtime.network._graph import attribute, inner_names, subgraphs
from ._protos import all_nodes

__all__ = ["without_old_group_norms"]

_REPLACED_IN = 21
"""The operator set in which scale and bias are one for each channel; before, for each group."""


def without_old_group_norms(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Before: functions are inlined. After: no GroupNormalization of the old form is left.

    With a scale for each group it is InstanceNormalization of the tensor (batch, groups, rest of
    the group). ONNX 1.23's own converter leaves such scales as they are where operator set 21
    wants one for each channel, so it is of no help.
    """
    if opset >= _REPLACED_IN or not any(map(_is_group_norm, all_nodes(model))):
        return model
    copy = deepcopy(model)
    taken = {item.name for item in (*copy.graph.input, *copy.graph.initializer)}
    for node in copy.graph.node:
        taken |= {*node.output, *inner_names(node)}
    _expand_all(copy.graph, taken)
    return copy


def _is_group_norm(node: onnx.NodeProto) -> bool:
    return bool(node.op_type == "GroupNormalization" and node.domain in ("", "ai.onnx"))


def _expand_all(graph: onnx.GraphProto, taken: set[str]) -> None:
    """Expand those of a graph and of the graphs within it."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for inner in subgraphs(node):
            _expand_all(inner, taken)
        nodes += _expanded(node, taken) if _is_group_norm(node) else [deepcopy(node)]
    del graph.node[:]
    graph.node.extend(nodes)


def _expanded(node: onnx.NodeProto, taken: set[str]) -> list[onnx.NodeProto]:
    """The five nodes that stand in for one; `taken` are names that others have."""
    source, scale, bias = node.input
    by_group, apart, normal, sizes = (
        _free(f"{node.output[0]}.{what}", taken) for what in ("form", "groups", "normal", "sizes")
    )
    form = numpy_helper.from_array(np.array([0, attribute(node, "num_groups"), -1]), by_group)
    epsilon = attribute(node, "epsilon", 1e-5)
    return [
        helper.make_node("Constant", [], [by_group], value=form),
        helper.make_node("Reshape", [source, by_group], [apart]),
        helper.make_node(
            "InstanceNormalization", [apart, scale, bias], [normal], node.name, epsilon=epsilon
        ),
        helper.make_node("Shape", [source], [sizes]),
        helper.make_node("Reshape", [normal, sizes], node.output),
    ]


def _free(wanted: str, taken: set[str]) -> str:
    """A name that nothing has: `wanted` or something like it."""
    name, count = wanted, 0
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    taken.add(name)
    return name
