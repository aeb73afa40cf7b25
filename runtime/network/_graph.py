"""A network as the passes of this package see it: nodes, constants, and shapes of one sample.

A pass is a function on a `Graph` that edits it in place and says whether it changed anything; its
docstring states what holds before and after. Constants are never edited in place, only replaced,
so that the source model stays what it was.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, inliner, numpy_helper

from ..errors import ExportError

__all__ = [
    "Declared",
    "Graph",
    "Input",
    "Shape",
    "attribute",
    "constant_model",
    "from_model",
    "inferred_types",
    "inner_names",
    "order_nodes",
    "read_names",
    "rename_tensors",
    "subgraphs",
    "to_light_model",
    "to_model",
]

Shape = tuple[int | None, ...]
"""Dimensions of a tensor; `None` is the batch or a multiple of it."""

# ONNX Runtime 1.22, the oldest we support, reads IR versions up to 10.
_IR_VERSION = 10

_REARRANGING = frozenset(
    ["Transpose", "Reshape", "Cast", "Slice", "Split", "Concat", "Squeeze", "Unsqueeze", "Gather"]
)

_SMALL = 1024  # elements of a constant that may be a shape


@dataclass(frozen=True)
class Input:
    """An input of the network: its shape (`None` where the batch is) and ONNX element type."""

    name: str
    shape: Shape
    elem_type: int = onnx.TensorProto.FLOAT
    values: tuple[int, int] = (0, 2)  # whole numbers to feed: from, and up to without

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its type in numpy's words."""
        dtype: np.dtype[Any] = helper.tensor_dtype_to_np_dtype(self.elem_type)
        return dtype


@dataclass(frozen=True)
class Declared:
    """ONNX element type and number of axes of an output, as its model states them."""

    elem_type: int
    rank: int


@dataclass
class Graph:
    """Nodes in topological order, constants by name, and what is known of every tensor."""

    nodes: list[onnx.NodeProto]
    constants: dict[str, NDArray[Any]]
    inputs: list[Input]
    outputs: list[str]
    opset: int
    shapes: dict[str, Shape] = field(default_factory=dict)
    sizes_at_three: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Sizes of every tensor for a batch of three, which tells apart how axes were reshaped."""
    dtypes: dict[str, np.dtype[Any]] = field(default_factory=dict)
    references: dict[str, tuple[NDArray[Any], NDArray[Any]]] = field(default_factory=dict)
    """Mean and deviation of a tensor per channel, read off the BatchNorm that was folded."""
    origins: dict[str, str] = field(default_factory=dict)
    """For a constant that was rearranged at export, the name that it had in the source."""
    fixed_batch: int | None = None
    """The batch that the source was made for, where it names one."""
    domains: dict[str, int] = field(default_factory=dict)
    """Version of every operator set besides the standard one."""
    declared: dict[str, Declared] = field(default_factory=dict)
    """What the source says of its outputs, for those whose sizes cannot be told."""
    _taken: set[str] | None = field(default=None, init=False, repr=False)
    _counts: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    @property
    def input(self) -> str:
        """Name of the first input."""
        return self.inputs[0].name

    @property
    def input_shape(self) -> Shape:
        """Shape of the first input."""
        return self.inputs[0].shape

    @property
    def output(self) -> str:
        """Name of the first output."""
        return self.outputs[0]

    def uses(self) -> Counter[str]:
        """How often each tensor is read, an output of the network counted once."""
        counts = Counter(name for node in self.nodes for name in read_names(node))
        counts.update(self.outputs)
        return counts

    def producers(self) -> dict[str, onnx.NodeProto]:
        """The node that writes each tensor."""
        return {name: node for node in self.nodes for name in node.output if name}

    def constant(self, name: str) -> NDArray[Any] | None:
        """Value of a constant tensor; `None` for an activation or an absent input."""
        return self.constants.get(name)

    def activations(self, node: onnx.NodeProto) -> list[str]:
        """Inputs of `node` that depend on the network's input."""
        return [name for name in read_names(node) if name not in self.constants]

    def unique(self, wanted: str) -> str:
        """Find a tensor name that was never used, `wanted` if it is; nobody else gets it again."""
        if self._taken is None:
            self._taken = self._names()
        name, count = wanted, self._counts.get(wanted, 0)
        while name in self._taken or name in self.constants:
            count += 1
            name = f"{wanted}_{count}"
        self._counts[wanted] = count
        self._taken.add(name)
        return name

    def _names(self) -> set[str]:
        """Names of all tensors, those inside sub-graphs included."""
        names = set(self.constants) | {item.name for item in self.inputs}
        for node in self.nodes:
            names.update(node.output)
            names.update(inner_names(node))
        return names

    def note_origin(self, node: onnx.NodeProto) -> None:
        """Note that what a node makes is a constant of the source, in another arrangement."""
        if node.op_type in _REARRANGING:
            source = self.origins.get(node.input[0], node.input[0])
            self.origins |= {name: source for name in node.output if name}

    def named_constant(self, name: str, value: NDArray[Any]) -> str:
        """Have a constant of this value under a name that says what it is; return the name."""
        wanted, count = name, 0
        while (known := self.constants.get(name)) is not None:
            if known.dtype == value.dtype and np.array_equal(known, value):
                return name
            count += 1
            name = f"{wanted}_{count}"
        self.constants[name] = value
        return name

    def remove_dead(self) -> bool:
        """After: every node and every constant contributes to an output."""
        live, kept = set(self.outputs), []
        for node in reversed(self.nodes):
            if live.intersection(node.output):
                kept.append(node)
                live.update(read_names(node))
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
    """Read a model; the first dimension of its first input is the batch.

    Raises:
        ExportError: the graph is broken, or of a kind that we do not read.
    """
    if model.functions:
        model = inliner.inline_local_functions(model)
    _check_names(model.graph)
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    inputs = [item for item in model.graph.input if item.name not in constants]
    if not inputs or not model.graph.output:
        raise ExportError("the network has no input or no output; nothing was written.")
    return Graph(
        nodes=[_clean(node) for node in _sorted(model.graph)],
        constants=constants,
        inputs=_inputs(inputs),
        outputs=[item.name for item in model.graph.output],
        opset=_opset(model),
        fixed_batch=_fixed_batch(inputs[0]),
        domains={
            item.domain: int(item.version)
            for item in model.opset_import
            if item.domain not in ("", "ai.onnx")
        },
        declared=_declared(model.graph.output),
    )


def _declared(outputs: Iterable[Any]) -> dict[str, Declared]:
    """Of the outputs that are tensors and say how many axes they have."""
    kinds = {item.name: item.type.tensor_type for item in outputs}
    return {
        name: Declared(int(kind.elem_type), len(kind.shape.dim))
        for name, kind in kinds.items()
        if kind.elem_type and kind.HasField("shape")
    }


def order_nodes(model: onnx.ModelProto) -> None:
    """After: the nodes are in topological order, which ONNX demands and not everybody keeps.

    Raises:
        ExportError: there is none, or names are lost or taken twice.
    """
    _check_names(model.graph)
    nodes = _sorted(model.graph)
    if any(new is not old for new, old in zip(nodes, model.graph.node, strict=True)):
        copies = [_copy(node) for node in nodes]
        del model.graph.node[:]
        model.graph.node.extend(copies)


def _check_names(graph: onnx.GraphProto) -> None:
    """Every tensor is written once: by a node, as an initializer or as an input."""
    if graph.sparse_initializer:
        raise ExportError("the model has sparse initializers, which are not read.")
    constants = [item.name for item in graph.initializer]
    known = set(constants)
    inputs = [item.name for item in graph.input if item.name not in known]
    written = [name for node in graph.node for name in node.output if name]
    twice = [name for name, count in Counter([*constants, *inputs, *written]).items() if count > 1]
    if twice:
        raise ExportError(
            f"the model is invalid: {twice[0]!r} is written more than once. Nothing was written."
        )


def rename_tensors(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Let a node read and write tensors by other names, in its sub-graphs too."""
    for listed in (node.input, node.output):
        for place, name in enumerate(listed):
            if name in names:
                listed[place] = names[name]
    for graph in subgraphs(node):
        for inner in graph.node:
            rename_tensors(inner, names)
        for item in (*graph.input, *graph.initializer, *graph.output):
            item.name = names.get(item.name, item.name)


def _inputs(items: Sequence[Any]) -> list[Input]:
    for item in items:
        if not item.type.HasField("tensor_type") or not item.type.tensor_type.HasField("shape"):
            raise ExportError(f"the input {item.name!r} is no tensor of a stated shape.")
    first = items[0].type.tensor_type.shape.dim
    batch = first[0].dim_param if len(first) else ""
    return [_input(item, batch, first=place == 0) for place, item in enumerate(items)]


def _fixed_batch(item: Any) -> int | None:
    dims = item.type.tensor_type.shape.dim
    return (int(dims[0].dim_value) or None) if len(dims) else None


def _input(item: Any, batch: str, *, first: bool) -> Input:
    """The batch is the first size of the first input; in others, what bears its name or none."""
    shape: list[int | None] = []
    free = []
    for axis, dim in enumerate(item.type.tensor_type.shape.dim):
        unnamed = not (dim.dim_value or dim.dim_param)
        is_batch = axis == 0 if first else (unnamed or bool(batch and dim.dim_param == batch))
        shape.append(None if is_batch else int(dim.dim_value))
        if not (is_batch or dim.dim_value):
            free.append(dim.dim_param or f"{item.name}:{axis}")
    if free:
        fixes = " ".join(f"--size {name}=N" for name in free)
        raise ExportError(
            f"the input {item.name!r} has no fixed size apart from the batch. Fix its sizes: "
            f"{fixes} (or {free[0]}=batch). Nothing was written."
        )
    return Input(item.name, tuple(shape), item.type.tensor_type.elem_type)


def _sorted(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Topological order, the given one where it is one already (Kahn 1962)."""
    nodes = list(graph.node)
    known = {*(item.name for item in (*graph.initializer, *graph.input)), ""}
    waiting: dict[str, list[int]] = {}
    missing = []
    for place, node in enumerate(nodes):
        needs = {name for name in read_names(node) if name not in known}
        missing.append(len(needs))
        for name in needs:
            waiting.setdefault(name, []).append(place)
    ready = [place for place, count in enumerate(missing) if count == 0]
    heapq.heapify(ready)
    order = []
    while ready:
        place = heapq.heappop(ready)
        order.append(nodes[place])
        for name in nodes[place].output:
            for reader in waiting.pop(name, ()):
                missing[reader] -= 1
                if missing[reader] == 0:
                    heapq.heappush(ready, reader)
    if waiting:
        raise ExportError(_why_unsorted(nodes, waiting))
    return order


def _why_unsorted(nodes: Iterable[onnx.NodeProto], waiting: Mapping[str, Any]) -> str:
    written = {name for node in nodes for name in node.output}
    lost = next((name for name in waiting if name not in written), None)
    if lost is not None:
        return (
            f"the model is invalid: {lost!r} is read but is neither an input, an initializer nor "
            "the output of a node. Nothing was written."
        )
    return f"the model is invalid: {next(iter(waiting))!r} depends on itself. Nothing was written."


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs that a node holds: the branches of an If, the body of a Loop."""
    return [
        graph
        for item in node.attribute
        for graph in (*item.graphs, *([item.g] if item.HasField("g") else []))
    ]


def inner_names(node: onnx.NodeProto) -> set[str]:
    """Names of the tensors that are made inside the sub-graphs of a node."""
    names: set[str] = set()
    for graph in subgraphs(node):
        names.update(item.name for item in (*graph.input, *graph.initializer))
        for inner in graph.node:
            names.update(inner.output)
            names |= inner_names(inner)
    return names


def read_names(node: onnx.NodeProto) -> list[str]:
    """Tensors of the graph that a node reads, those that its sub-graphs capture included."""
    names = [name for name in node.input if name]
    for graph in subgraphs(node):
        own = {item.name for item in (*graph.input, *graph.initializer)}
        own |= {name for inner in graph.node for name in inner.output}
        names += [n for inner in graph.node for n in read_names(inner) if n not in own]
        names += [item.name for item in graph.output if item.name not in own]
    return names


def _opset(model: onnx.ModelProto) -> int:
    for item in model.opset_import:
        if item.domain in ("", "ai.onnx"):
            return int(item.version)
    raise ExportError("the model uses no standard ONNX operators; nothing was written.")


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def _clean(node: onnx.NodeProto) -> onnx.NodeProto:
    """Copy a node without what the exporter notes about the machine and the source code."""
    copy = _copy(node)
    _strip(copy)
    return copy


def _strip(node: onnx.NodeProto) -> None:
    node.doc_string = ""
    del node.metadata_props[:]
    for graph in subgraphs(node):
        graph.doc_string = ""
        del graph.metadata_props[:]
        for inner in graph.node:
            _strip(inner)


def inferred_types(graph: Graph) -> dict[str, Any]:
    """What ONNX's own inference says of the type and shape of tensors, by name."""
    light, weights = _without_weights(graph)
    model = to_model(light)
    # Weights only need to be there: their values say nothing of types and shapes.
    model.graph.input.extend(
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for n, v in weights.items()
    )
    found = onnx.shape_inference.infer_shapes(model).graph
    return {item.name: item.type for item in (*found.input, *found.value_info, *found.output)}


def _without_weights(graph: Graph) -> tuple[Graph, dict[str, NDArray[Any]]]:
    weights = {n: v for n, v in graph.constants.items() if v.size > _SMALL and v.dtype.kind != "O"}
    rest = {name: value for name, value in graph.constants.items() if name not in weights}
    return replace(graph, constants=rest), weights


def to_light_model(
    graph: Graph, extra_outputs: Iterable[str] = ()
) -> tuple[onnx.ModelProto, dict[str, NDArray[Any]]]:
    """As `to_model`, with the weights beside the model, to be handed to a session as they are."""
    light, weights = _without_weights(graph)
    model = to_model(light, extra_outputs)
    for name, value in weights.items():
        tensor = model.graph.initializer.add(name=name, dims=value.shape)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(value.dtype)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="weights")
    return model, weights


def to_model(graph: Graph, extra_outputs: Iterable[str] = ()) -> onnx.ModelProto:
    """Write the graph as a plain model; `extra_outputs` are tensors to expose as well."""
    outputs = [_value(graph, name) for name in graph.outputs]
    outputs += [helper.make_empty_tensor_value_info(name) for name in extra_outputs]
    inputs = [
        helper.make_tensor_value_info(i.name, i.elem_type, _dims(i.shape)) for i in graph.inputs
    ]
    initializers = [numpy_helper.from_array(v, name) for name, v in graph.constants.items()]
    proto = helper.make_graph(graph.nodes, "edgeprune", inputs, outputs, initializers)
    return _versioned(proto, graph)


def _dims(shape: Shape) -> list[int | str]:
    return ["batch" if size is None else size for size in shape]


def _value(graph: Graph, name: str) -> onnx.ValueInfoProto:
    shape, dtype = graph.shapes.get(name), graph.dtypes.get(name)
    if shape is None or dtype is None:
        return _as_declared(graph, name)
    # A size that is a multiple of the batch is left unnamed.
    sizes = graph.sizes_at_three.get(name, ())
    dims = [
        (None if sizes[axis : axis + 1] not in ((3,), ()) else "batch") if size is None else size
        for axis, size in enumerate(shape)
    ]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), dims)


def _as_declared(graph: Graph, name: str) -> onnx.ValueInfoProto:
    """An output of unknown sizes; the checker wants its type, and how many sizes there are."""
    declared = graph.declared.get(name)
    if declared is None:
        return helper.make_empty_tensor_value_info(name)
    return helper.make_tensor_value_info(name, declared.elem_type, [None] * declared.rank)


def _versioned(proto: onnx.GraphProto, graph: Graph) -> onnx.ModelProto:
    used = {node.domain for node in graph.nodes} - {"", "ai.onnx"}
    opsets = [helper.make_opsetid("", graph.opset)]
    opsets += [helper.make_opsetid(domain, graph.domains.get(domain, 1)) for domain in sorted(used)]
    return helper.make_model(
        proto,
        opset_imports=opsets,
        ir_version=max(_IR_VERSION, helper.find_min_ir_version_for(opsets[:1])),
        producer_name="edgeprune",
    )


def constant_model(node: onnx.NodeProto, graph: Graph) -> onnx.ModelProto:
    """Write one node whose inputs are all constant as a model without inputs."""
    names = dict.fromkeys(name for name in node.input if name)
    initializers = [numpy_helper.from_array(np.asarray(graph.constants[n]), n) for n in names]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
    proto = helper.make_graph([node], "constant", [], outputs, initializers)
    return _versioned(proto, graph)
