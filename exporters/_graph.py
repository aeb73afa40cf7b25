"""A network as the passes of this package see it: nodes, constants, and shapes of one sample.

A pass is a function on a `Graph` that edits it in place and says whether it changed anything; its
docstring states what holds before and after. Constants are never edited in place, only replaced,
so that the source model stays what it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ..runtime.errors import ExportError

__all__ = ["Graph", "Shape", "attribute", "constant_model", "from_model", "to_model"]

Shape = tuple[int | None, ...]
"""Dimensions of a tensor; `None` is the batch and stands first or nowhere."""

# ONNX Runtime 1.22, the oldest we support, reads IR versions up to 10.
_IR_VERSION = 10


@dataclass
class Graph:
    """One input, one output, nodes in topological order, constants by name."""

    nodes: list[onnx.NodeProto]
    constants: dict[str, NDArray[Any]]
    input: str
    input_shape: Shape
    output: str
    opset: int
    shapes: dict[str, Shape] = field(default_factory=dict)
    references: dict[str, tuple[NDArray[Any], NDArray[Any]]] = field(default_factory=dict)
    """Mean and deviation of a tensor per channel, read off the BatchNorm that was folded."""
    origins: dict[str, str] = field(default_factory=dict)
    """For a constant that was rearranged at export, the name that it had in the source."""

    def uses(self) -> Counter[str]:
        """How often each tensor is read, the network output counted once."""
        counts = Counter(name for node in self.nodes for name in node.input if name)
        counts[self.output] += 1
        return counts

    def producers(self) -> dict[str, onnx.NodeProto]:
        """The node that writes each tensor."""
        return {name: node for node in self.nodes for name in node.output if name}

    def constant(self, name: str) -> NDArray[Any] | None:
        """Value of a constant tensor; `None` for an activation or an absent input."""
        return self.constants.get(name)

    def activations(self, node: onnx.NodeProto) -> list[str]:
        """Inputs of `node` that depend on the network's input."""
        return [name for name in node.input if name and name not in self.constants]

    def replace_uses(self, old: str, new: str) -> None:
        """Let every reader of `old` read `new`; `old` must not be the network output."""
        for node in self.nodes:
            for place, name in enumerate(node.input):
                if name == old:
                    node.input[place] = new

    def unique(self, wanted: str) -> str:
        """Find a tensor name that is still free, `wanted` if it is."""
        taken = set(self.constants) | set(self.producers()) | {self.input}
        name, count = wanted, 0
        while name in taken:
            count += 1
            name = f"{wanted}_{count}"
        return name

    def remove_dead(self) -> bool:
        """After: every node and every constant contributes to the network output."""
        live, kept = {self.output}, []
        for node in reversed(self.nodes):
            if live.intersection(node.output):
                kept.append(node)
                live.update(node.input)
        changed = len(kept) != len(self.nodes)
        self.nodes = kept[::-1]
        self.constants = {name: value for name, value in self.constants.items() if name in live}
        return changed


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Value of a node's attribute; text as `str`."""
    for item in node.attribute:
        if item.name == name:
            value = helper.get_attribute_value(item)
            return value.decode() if isinstance(value, bytes) else value
    return default


def from_model(model: onnx.ModelProto) -> Graph:
    """Read a model with one input and one output.

    Raises:
        ExportError: there are more, or the model is of a kind that we do not read.
    """
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    inputs = [item for item in model.graph.input if item.name not in constants]
    _check_ends(inputs, model.graph.output)
    dims = inputs[0].type.tensor_type.shape.dim
    shape = (None, *(dim.dim_value for dim in dims[1:]))
    if 0 in shape:
        raise ExportError(
            f"the input {inputs[0].name!r} has no fixed size apart from the batch. "
            "Export with a fixed example input; nothing was written."
        )
    return Graph(
        nodes=[_clean(node) for node in model.graph.node],
        constants=constants,
        input=inputs[0].name,
        input_shape=shape,
        output=model.graph.output[0].name,
        opset=_opset(model),
    )


def _check_ends(inputs: Iterable[Any], outputs: Iterable[Any]) -> None:
    for what, items in (("input", list(inputs)), ("output", list(outputs))):
        if len(items) != 1:
            names = ", ".join(item.name for item in items)
            raise ExportError(
                f"the network has {len(items)} {what}s ({names}); edgeprune exports networks with "
                f"one {what}. Wrap it in a module that has one; nothing was written."
            )


def _opset(model: onnx.ModelProto) -> int:
    for item in model.opset_import:
        if item.domain in ("", "ai.onnx"):
            return int(item.version)
    raise ExportError("the model uses no standard ONNX operators; nothing was written.")


def _clean(node: onnx.NodeProto) -> onnx.NodeProto:
    """Copy a node without what the exporter notes about the machine and the source code."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.doc_string = ""
    del copy.metadata_props[:]
    return copy


def to_model(graph: Graph, extra_outputs: Iterable[str] = ()) -> onnx.ModelProto:
    """Write the graph as a plain model; `extra_outputs` are tensors to expose as well."""
    outputs = [_value(graph, graph.output)]
    outputs += [helper.make_empty_tensor_value_info(name) for name in extra_outputs]
    initializers = [numpy_helper.from_array(v, name) for name, v in graph.constants.items()]
    proto = helper.make_graph(
        graph.nodes, "edgeprune", [_value(graph, graph.input)], outputs, initializers
    )
    return _versioned(proto, graph)


def _value(graph: Graph, name: str) -> onnx.ValueInfoProto:
    shape = graph.input_shape if name == graph.input else graph.shapes.get(name)
    dims = None if shape is None else ["batch" if size is None else size for size in shape]
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims)


def _versioned(proto: onnx.GraphProto, graph: Graph) -> onnx.ModelProto:
    domains = {node.domain for node in graph.nodes} - {"", "ai.onnx"}
    opsets = [helper.make_opsetid("", graph.opset)]
    opsets += [helper.make_opsetid(domain, 1) for domain in sorted(domains)]
    return helper.make_model(
        proto, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="edgeprune"
    )


def constant_model(node: onnx.NodeProto, graph: Graph) -> onnx.ModelProto:
    """Write one node whose inputs are all constant as a model without inputs."""
    names = dict.fromkeys(name for name in node.input if name)
    initializers = [numpy_helper.from_array(np.asarray(graph.constants[n]), n) for n in names]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
    proto = helper.make_graph([node], "constant", [], outputs, initializers)
    return _versioned(proto, graph)
