"""Rewrite operators into the explicit form: gain ⊙ W ⊙ mask and gain ⊙ bias + shift.

The nodes that do so read initializers only; ONNX Runtime folds them when it loads the model.
Neutral tensors multiply by 1 and add 0, so the folded weights are the source's bit by bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from ..runtime.artifact import Operator
from ..runtime.network._graph import Graph, attribute
from ..runtime.network._layout import Dense
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
    node_by_name = {node.name: node for node in masked.graph.nodes}
    source = {node.name: node for node in graph.nodes}
    before: dict[str, list[onnx.NodeProto]] = {}
    for name, operator in by_name.items():
        dense = plan.dense[name]
        _take_parameters(masked, _bias(graph, source, dense), graph, dense, operator)
        before[name] = _expressions(masked, dense, operator, plan.index.get(name))
        _connect(node_by_name, dense, operator)
    masked.graph.nodes = [
        each for node in masked.graph.nodes for each in (*before.get(node.name, ()), node)
    ]
    masked.graph.remove_dead()
    for name in (*masked.weights, *masked.masks):
        masked.graph.constants.pop(name, None)  # the source's weight often has the same name
    return masked


def _connect(nodes: dict[str, onnx.NodeProto], dense: Dense, operator: Operator) -> None:
    """Let the node read the effective tensors; a MatMul's bias is read by the Add after it."""
    values = {dense.weight: _value(operator, "weight")}
    if operator.recurrent:
        values |= {(operator.name, 2): _value(operator, "recurrence")}
    values[dense.bias or (operator.name, 3 if operator.recurrent else 2)] = _value(operator, "bias")
    for (name, place), value in values.items():
        inputs = nodes[name].input
        inputs.extend([""] * (place + 1 - len(inputs)))
        inputs[place] = value


def _copy(graph: Graph) -> Graph:
    nodes = []
    for node in graph.nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        nodes.append(copy)
    return replace(graph, nodes=nodes, constants=dict(graph.constants))


def _value(operator: Operator, what: str) -> str:
    """Tensor that holds the effective weight or bias."""
    return f"{PREFIX}{operator.name}/{what}"


def _take_parameters(
    masked: Masked, bias: NDArray[Any] | None, graph: Graph, dense: Dense, operator: Operator
) -> None:
    node, outputs = dense.node, operator.out_channels
    masked.weights[operator.weight] = _float(graph.constants[node.input[1]])
    if operator.recurrent:
        masked.weights[operator.recurrence] = _float(graph.constants[node.input[2]])
    biases = outputs * (2 if operator.recurrent else 1)
    masked.weights[operator.bias] = (
        np.zeros(biases, np.float32) if bias is None else _float(bias).reshape(-1)
    )
    masked.masks[operator.gain] = np.ones(outputs, np.float32)
    masked.masks[operator.shift] = np.zeros(outputs, np.float32)


def _float(value: NDArray[Any]) -> NDArray[np.float32]:
    return np.ascontiguousarray(value, np.float32)


def _bias(graph: Graph, nodes: Mapping[str, onnx.NodeProto], dense: Dense) -> NDArray[Any] | None:
    """The constant that an operator, or the Add after it, adds to each output channel."""
    if dense.bias is None:
        return None
    name, place = dense.bias
    return graph.constants[nodes[name].input[place]]


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
        return self.reshape(tensor, tuple(shape), name)

    def reshape(self, tensor: str, shape: tuple[int, ...], name: str) -> str:
        """Give a tensor another shape."""
        constant = self.constant(f"{PREFIX}shape/{'x'.join(map(str, shape))}", np.array(shape))
        return self.add("Reshape", [tensor, constant], name)


def _expressions(
    masked: Masked, dense: Dense, operator: Operator, index: NDArray[np.int64] | None
) -> list[onnx.NodeProto]:
    build = _Builder(masked, operator)
    if operator.recurrent:
        return _recurrent_expressions(masked, build, operator, index)
    shape = masked.weights[operator.weight].shape
    gain = _gain(build, dense, operator, shape)
    mask = None if not operator.masked else _mask(masked, build, operator, index)
    last = "weight" if mask is None else "gained_weight"
    weight = build.add("Mul", [operator.weight, gain], last)
    if mask is not None and operator.in_axis is not None:
        spread = build.along(mask, len(shape), operator.in_axis, "mask")
        build.add("Mul", [weight, spread], "weight")
    bias = build.add("Mul", [operator.bias, operator.gain], "gained_bias")
    build.add("Add", [bias, operator.shift], "bias")
    return build.nodes


def _gain(build: _Builder, dense: Dense, operator: Operator, shape: tuple[int, ...]) -> str:
    """The gain, shaped so that it broadcasts over the outputs in the weight."""
    if dense.kind != "grouped" or operator.op == "Conv":
        return build.along(operator.gain, len(shape), operator.out_axis, "gain")
    # A grouped ConvTranspose has (in, out / groups, …): its rows repeat their group's outputs.
    groups = int(attribute(dense.node, "group", 1))
    table = build.reshape(operator.gain, (groups, -1), "gain_of_group")
    rows = np.repeat(np.arange(groups), shape[0] // groups)
    name = f"{PREFIX}{operator.name}/group_of_row"
    spread = build.add("Gather", [table, build.constant(name, rows)], "gain_of_row", axis=0)
    return build.reshape(spread, (*shape[:2], *[1] * (len(shape) - 2)), "gain")


def _recurrent_expressions(
    masked: Masked, build: _Builder, operator: Operator, index: NDArray[np.int64] | None
) -> list[onnx.NodeProto]:
    """W, R and B of an LSTM, GRU or RNN: a row for each gate of each hidden unit.

    The gain multiplies whole rows, biases included, and the shift is added to the input's bias.
    """
    directions, rows, hidden = masked.weights[operator.recurrence].shape
    gain = build.reshape(operator.gain, (directions, rows, 1), "gain")
    mask = _mask(masked, build, operator, index) if operator.masked else None
    _masked_product(build, operator.weight, gain, mask, "weight")
    own = _own_mask(masked, build, operator, hidden)
    _masked_product(build, operator.recurrence, gain, own, "recurrence")
    wide = build.add(
        "Concat", [build.reshape(gain, (directions, rows), "gain_rows")] * 2, "gain_twice", axis=1
    )
    shift = build.reshape(operator.shift, (directions, rows), "shift_rows")
    still = build.constant(
        f"{PREFIX}still/{directions}x{rows}", np.zeros((directions, rows), np.float32)
    )
    moved = build.add("Concat", [shift, still], "shift_twice", axis=1)
    bias = build.reshape(operator.bias, (directions, 2 * rows), "bias_rows")
    build.add("Add", [build.add("Mul", [bias, wide], "gained_bias"), moved], "bias")
    return build.nodes


def _masked_product(build: _Builder, weight: str, gain: str, mask: str | None, name: str) -> None:
    gained = build.add("Mul", [weight, gain], name if mask is None else f"gained_{name}")
    if mask is not None:
        build.add("Mul", [gained, build.along(mask, 3, 2, f"{name}_mask")], name)


def _own_mask(masked: Masked, build: _Builder, operator: Operator, hidden: int) -> str | None:
    """The mask of a recurrent operator's hidden state: that of the units that it writes."""
    if not operator.writes:
        return None
    places = np.arange(hidden) if operator.write_index is None else operator.write_index[:hidden]
    parts = [ONES if name == ONES else f"{name}.mask" for name in operator.writes]
    if ONES in parts:
        build.constant(ONES, np.ones(1, np.float32))
    joined = parts[0] if len(parts) == 1 else build.add("Concat", parts, "joined_hidden", axis=0)
    index = build.constant(f"{PREFIX}{operator.name}/hidden_index", np.array(places, np.int64))
    return build.add("Gather", [joined, index], "hidden_mask", axis=0)


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
