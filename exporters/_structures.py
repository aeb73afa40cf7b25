"""Passes that write structures of real networks in the form that the analysis reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from ..runtime.network._graph import Graph, attribute

__all__ = [
    "add_biases",
    "drop_zero_states",
    "note_like",
    "note_shape",
    "shapes_of_inputs",
    "shuffles_to_gathers",
    "unshare_weights",
    "unspread_constants",
]

_WEIGHT_PLACES = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (1,),
    "LSTM": (1, 2, 3),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
}


def note_shape(graph: Graph, name: str, like: str, sizes: Mapping[int, int]) -> None:
    """Note that a new tensor has the shape and type of another but for some sizes."""
    shape, at_three = list(graph.shapes[like]), list(graph.sizes_at_three[like])
    for axis, size in sizes.items():
        shape[axis] = at_three[axis] = size
    graph.shapes[name], graph.sizes_at_three[name] = tuple(shape), tuple(at_three)
    graph.dtypes[name] = graph.dtypes.get(like, np.dtype(np.float32))


def note_like(graph: Graph, name: str, like: str, order: Sequence[int]) -> None:
    """Note that a new tensor has the axes of another in this order."""
    note_shape(graph, name, like, {})
    shape, at_three = graph.shapes[name], graph.sizes_at_three[name]
    graph.shapes[name] = tuple(shape[axis] for axis in order)
    graph.sizes_at_three[name] = tuple(at_three[axis] for axis in order)


def shapes_of_inputs(graph: Graph) -> bool:
    """After: a Shape reads an input of the network, for the batch; all other sizes are constants.

    What asks an activation for its size would have to be told when the activation shrinks.
    """
    source = next((i.name for i in graph.inputs if i.shape[:1] == (None,)), None)
    wanted = [node for node in graph.nodes if _asks_activation(graph, node)]
    if source is None or not wanted:
        return False
    batch = graph.unique("edgeprune.batch")
    _note_vector(graph, batch)
    first = helper.make_node("Shape", [source], [batch], name=batch, start=0, end=1)
    made = {id(node): _size_nodes(graph, node, batch) for node in wanted}
    graph.nodes = [first, *(n for node in graph.nodes for n in made.get(id(node), [node]))]
    return True


def _asks_activation(graph: Graph, node: onnx.NodeProto) -> bool:
    if node.op_type != "Shape" or node.input[0] in {item.name for item in graph.inputs}:
        return False
    sizes = graph.shapes.get(node.input[0], ())
    three = graph.sizes_at_three.get(node.input[0], ())
    return None in sizes and all(m % 3 == 0 for n, m in zip(sizes, three, strict=True) if n is None)


def _note_vector(graph: Graph, name: str) -> None:
    graph.shapes[name] = graph.sizes_at_three[name] = (1,)
    graph.dtypes[name] = np.dtype(np.int64)


def _size_nodes(graph: Graph, node: onnx.NodeProto, batch: str) -> list[onnx.NodeProto]:
    """A Concat of sizes in place of a Shape, and the products that it reads."""
    span = slice(attribute(node, "start", 0), attribute(node, "end", None))
    sizes = graph.shapes[node.input[0]][span]
    three = graph.sizes_at_three[node.input[0]][span]
    nodes, parts = [], []
    for size, at_three in zip(sizes, three, strict=True):
        if size is None and at_three == 3:
            parts.append(batch)
            continue
        count = at_three // 3 if size is None else size
        constant = graph.named_constant(f"edgeprune.size.{count}", np.array([count], np.int64))
        if size is None:
            product = graph.unique(f"{node.output[0]}.product")
            _note_vector(graph, product)
            nodes.append(helper.make_node("Mul", [batch, constant], [product], name=product))
            constant = product
        parts.append(constant)
    return [*nodes, helper.make_node("Concat", parts, node.output, name=node.name, axis=0)]


def unshare_weights(graph: Graph) -> bool:
    """After: what an operator has for a weight nobody else reads; it can lose units alone."""
    uses, changed = graph.uses(), False
    for node in graph.nodes:
        for place in _WEIGHT_PLACES.get(node.op_type, ()):
            name = node.input[place] if place < len(node.input) else ""
            if name in graph.constants and uses[name] > 1:
                copy = graph.unique(name)
                graph.constants[copy] = graph.constants[name]
                graph.origins[copy] = graph.origins.get(name, name)
                node.input[place] = copy
                changed = True
    return changed


def add_biases(graph: Graph) -> bool:
    """After: every MatMul by a constant matrix is followed by an Add of one constant per output."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        nodes.append(node)
        if _is_linear(graph, node) and not _takes_bias(graph, node, readers):
            nodes.append(_bias_node(graph, node))
    changed = len(nodes) != len(graph.nodes)
    graph.nodes = nodes
    return changed


def _is_linear(graph: Graph, node: onnx.NodeProto) -> bool:
    if node.op_type != "MatMul" or node.input[0] in graph.constants:
        return False
    weight = graph.constant(node.input[1])
    known = node.output[0] in graph.shapes and len(graph.shapes[node.output[0]]) > 1
    return known and weight is not None and weight.ndim == 2 and weight.dtype == np.float32


def _takes_bias(
    graph: Graph, node: onnx.NodeProto, readers: Mapping[str, list[onnx.NodeProto]]
) -> bool:
    """Whether the one reader adds a constant per output; that constant becomes a vector."""
    reading = readers.get(node.output[0], [])
    if len(reading) != 1 or reading[0].op_type != "Add" or node.output[0] in graph.outputs:
        return False
    add, outputs = reading[0], graph.constants[node.input[1]].shape[1]
    place = 1 - list(add.input).index(node.output[0])
    value = graph.constant(add.input[place])
    if value is None or value.shape[-1:] != (outputs,) or value.size != outputs:
        return False
    if value.ndim > len(graph.shapes[node.output[0]]):
        return False
    name = graph.unique(f"{add.input[place]}.vector")
    graph.constants[name] = value.reshape(outputs)
    graph.origins[name] = graph.origins.get(add.input[place], add.input[place])
    add.input[place] = name
    return True


def _bias_node(graph: Graph, node: onnx.NodeProto) -> onnx.NodeProto:
    outputs, written = graph.constants[node.input[1]].shape[1], node.output[0]
    product, bias = graph.unique(f"{written}.product"), graph.unique(f"{written}.zeros")
    note_shape(graph, product, written, {})
    graph.constants[bias] = np.zeros(outputs, np.float32)
    node.output[0] = product
    return helper.make_node("Add", [product, bias], [written], name=f"{node.name}.bias")


def drop_zero_states(graph: Graph) -> bool:
    """After: no recurrent operator is given an initial state of zeros, which it has anyway."""
    producers, changed = graph.producers(), False
    for node in graph.nodes:
        if node.op_type not in ("LSTM", "GRU", "RNN"):
            continue
        for place in (5, 6):
            name = node.input[place] if place < len(node.input) else ""
            if name and _is_zero(graph, producers, name):
                node.input[place] = ""
                changed = True
        while node.input and not node.input[-1]:
            node.input.pop()
    return changed


_KEEP_ZERO = ("Expand", "Slice", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Gather", "Split")


def _is_zero(graph: Graph, producers: Mapping[str, onnx.NodeProto], name: str) -> bool:
    if name in graph.constants:
        return not graph.constants[name].any()
    node = producers.get(name)
    if node is None:
        return False
    if node.op_type == "ConstantOfShape":
        value = attribute(node, "value")
        return value is None or not onnx.numpy_helper.to_array(value).any()
    if node.op_type in (*_KEEP_ZERO, "Identity", "Cast"):
        return _is_zero(graph, producers, node.input[0])
    return node.op_type == "Concat" and all(_is_zero(graph, producers, n) for n in node.input)


def shuffles_to_gathers(graph: Graph) -> bool:
    """After: channels that a Reshape, a Transpose and a Reshape permute are permuted by a Gather.

    In between they stand along two axes, along which they could not be removed one by one.
    """
    uses, producers, changed = graph.uses(), graph.producers(), False
    for last in graph.nodes:
        chain = list(_backwards(producers, last, ("Reshape", "Transpose", "Reshape")))
        if len(chain) != 3 or any(uses[node.output[0]] != 1 for node in chain[1:]):
            continue
        order = _permutation(graph, chain[::-1])
        if order is not None:
            source = chain[-1].input[0]
            places = graph.unique(f"{last.output[0]}.order")
            graph.constants[places] = order
            last.CopyFrom(
                helper.make_node("Gather", [source, places], last.output, name=last.name, axis=1)
            )
            changed = True
    return changed


def _backwards(
    producers: Mapping[str, onnx.NodeProto], node: onnx.NodeProto | None, ops: tuple[str, ...]
) -> Iterator[onnx.NodeProto]:
    """Nodes of these types, each reading the next."""
    for op in ops:
        if node is None or node.op_type != op:
            return
        yield node
        node = producers.get(node.input[0])


def _permutation(graph: Graph, chain: list[onnx.NodeProto]) -> NDArray[np.int64] | None:
    """The order in which the chain takes the places of axis 1, if that is all that it does."""
    first, transpose, last = chain
    names = [first.input[0], first.output[0], last.output[0]]
    if any(name not in graph.shapes for name in names):
        return None
    before, between, after = (graph.sizes_at_three[name] for name in names)
    if before != after or len(before) < 3:
        return None
    small = [before[0], before[1], *[1] * (len(before) - 2)]
    if before[2:] != between[len(between) - len(before) + 2 :]:
        return None
    narrow = [*between[: len(between) - len(before) + 2], *[1] * (len(before) - 2)]
    places = np.arange(before[0] * before[1]).reshape(small).reshape(narrow)
    places = places.transpose(attribute(transpose, "perm")).reshape(before[0], before[1])
    order = places[0]
    moved = places == order + np.arange(before[0])[:, None] * before[1]
    kept = list(attribute(transpose, "perm"))[-(len(before) - 2) :]
    tail = list(range(len(between) - len(before) + 2, len(between)))
    plain = np.array_equal(order, np.arange(before[1]))
    return order if moved.all() and kept == tail and not plain else None


_ELEMENT_BY_ELEMENT = ("Add", "Sub", "Mul", "Div", "Min", "Max", "Pow", "Sum", "Mean")


def unspread_constants(graph: Graph) -> bool:
    """After: what combines an activation with a constant spread over the batch reads the constant.

    A cell that is written out begins with a state of zeros for every sample, whose units could
    not be removed with those of the cell: only constants can be cut.
    """
    producers, changed = graph.producers(), False
    for node in graph.nodes:
        if node.op_type not in _ELEMENT_BY_ELEMENT or node.output[0] not in graph.shapes:
            continue
        whole = [_same_shape(graph, name, node.output[0]) for name in node.input]
        for place, name in enumerate(node.input):
            others = any(same for other, same in enumerate(whole) if other != place)
            value = _spread_constant(graph, producers, name) if others else None
            if value is not None:
                node.input[place] = value
                whole[place] = False
                changed = True
    return changed


def _same_shape(graph: Graph, name: str, like: str) -> bool:
    if name not in graph.shapes:
        return False
    return graph.shapes[name] == graph.shapes[like] and (
        graph.sizes_at_three[name] == graph.sizes_at_three[like]
    )


def _spread_constant(
    graph: Graph, producers: Mapping[str, onnx.NodeProto], name: str
) -> str | None:
    """A constant that broadcasts to the tensor, if that is all that the tensor is."""
    node = producers.get(name)
    if node is None or name not in graph.shapes or name not in graph.dtypes:
        return None
    if node.op_type == "Expand" and node.input[0] in graph.constants:
        return str(node.input[0])
    if node.op_type != "ConstantOfShape":
        return None
    value = attribute(node, "value")
    filled = np.float32(0) if value is None else onnx.numpy_helper.to_array(value).item()
    shape = [1 if size is None else size for size in graph.shapes[name]]
    return graph.named_constant(f"{name}.whole", np.full(shape, filled, graph.dtypes[name]))
