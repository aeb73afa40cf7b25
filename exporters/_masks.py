"""Rewrite operators into the explicit form: gain ⊙ W ⊙ mask and gain ⊙ bias + shift.

The nodes that do so read initializers only; ONNX Runtime folds them when it loads the model.
Neutral tensors multiply by 1 and add 0, so the folded weights are the source's bit by bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from ..runtime.artifact import Operator
from ._graph import Graph
from ._groups import ONES, Plan

__all__ = ["PREFIX", "Masked", "insert_masks"]

PREFIX = "edgeprune/"


@dataclass
class Masked:
    """The rewritten graph and the tensors that go into the two files beside it."""

    graph: Graph
    weights: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    masks: dict[str, NDArray[np.float32]] = field(default_factory=dict)


def insert_masks(graph: Graph, plan: Plan) -> Masked:
    """After: a new graph in which every operator of the plan computes its weights; the old stays.

    Its external tensors are in `weights` and `masks`, all other constants in the graph.
    """
    masked = Masked(_copy(graph))
    for group in plan.groups:
        if group.frozen is None:
            masked.masks[group.mask] = np.ones(group.units, np.float32)
    by_name = {operator.name: operator for operator in plan.operators}
    nodes: list[onnx.NodeProto] = []
    for node in masked.graph.nodes:
        if node.name in by_name:
            operator = by_name[node.name]
            _take_parameters(masked, graph, node, operator)
            nodes += _expressions(masked, operator, plan.index.get(operator.name))
            del node.input[1:]
            node.input.extend([_value(operator, "weight"), _value(operator, "bias")])
        nodes.append(node)
    masked.graph.nodes = nodes
    masked.graph.remove_dead()
    for name in (*masked.weights, *masked.masks):
        masked.graph.constants.pop(name, None)  # the source's weight often has the same name
    return masked


def _copy(graph: Graph) -> Graph:
    nodes = []
    for node in graph.nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        nodes.append(copy)
    return Graph(
        nodes,
        dict(graph.constants),
        graph.input,
        graph.input_shape,
        graph.output,
        graph.opset,
        graph.shapes,
        graph.references,
        graph.origins,
    )


def _value(operator: Operator, what: str) -> str:
    """Tensor that holds the effective weight or bias."""
    return f"{PREFIX}{operator.name}/{what}"


def _take_parameters(masked: Masked, graph: Graph, node: Any, operator: Operator) -> None:
    weight = graph.constants[node.input[1]]
    bias = graph.constants[node.input[2]] if len(node.input) > 2 and node.input[2] else None
    outputs = operator.out_channels
    masked.weights[operator.weight] = np.ascontiguousarray(weight, np.float32)
    masked.weights[operator.bias] = (
        np.zeros(outputs, np.float32) if bias is None else np.ascontiguousarray(bias, np.float32)
    )
    masked.masks[operator.gain] = np.ones(outputs, np.float32)
    masked.masks[operator.shift] = np.zeros(outputs, np.float32)


class _Builder:
    """Collects the nodes of one operator's expressions."""

    def __init__(self, masked: Masked, operator: Operator) -> None:
        self._masked = masked
        self._stem = f"{PREFIX}{operator.name}/"
        self.nodes: list[onnx.NodeProto] = []

    def add(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Add a node; return the tensor that it writes."""
        output = self._stem + name
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Keep a small constant inside the graph."""
        self._masked.graph.constants[name] = value
        return name

    def along(self, tensor: str, rank: int, axis: int, name: str) -> str:
        """Reshape a vector so that it broadcasts along one axis of a weight."""
        shape = [1] * rank
        shape[axis] = -1
        text = "x".join(map(str, shape))
        return self.add(
            "Reshape", [tensor, self.constant(f"{PREFIX}shape/{text}", np.array(shape))], name
        )


def _expressions(
    masked: Masked, operator: Operator, index: NDArray[np.int64] | None
) -> list[onnx.NodeProto]:
    build = _Builder(masked, operator)
    rank = masked.weights[operator.weight].ndim
    gain = build.along(operator.gain, rank, operator.out_axis, "gain")
    mask = None if not operator.masked else _mask(masked, build, operator, index)
    last = "weight" if mask is None else "gained_weight"
    weight = build.add("Mul", [operator.weight, gain], last)
    if mask is not None and operator.in_axis is not None:
        spread = build.along(mask, rank, operator.in_axis, "mask")
        build.add("Mul", [weight, spread], "weight")
    bias = build.add("Mul", [operator.bias, operator.gain], "gained_bias")
    build.add("Add", [bias, operator.shift], "bias")
    return build.nodes


def _mask(
    masked: Masked, build: _Builder, operator: Operator, index: NDArray[np.int64] | None
) -> str:
    """The mask of an operator's input channels, in their order."""
    parts = [ONES if name == ONES else f"{name}.mask" for name in operator.reads]
    if ONES in parts:
        build.constant(ONES, np.ones(1, np.float32))
    joined = parts[0] if len(parts) == 1 else build.add("Concat", parts, "joined_masks", axis=0)
    if index is None:
        return joined
    places = build.constant(operator.mask_index, index)
    return build.add("Gather", [joined, places], "gathered_mask", axis=0)
