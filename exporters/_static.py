"""Passes that need shapes: write the same function with operators that are easier to read."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from ._graph import Graph, attribute

__all__ = ["reduced_axes", "specialize"]

_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def specialize(graph: Graph) -> None:
    """Before: simplified, shapes known. After: plain reshapes, pools and Gemms; shapes known."""
    sequences_to_splits(graph)
    static_reshapes(graph)
    graph.remove_dead()
    means_to_pools(graph)
    matmuls_to_gemms(graph)
    normal_gemms(graph)
    graph.remove_dead()


def sequences_to_splits(graph: Graph) -> bool:
    """After: parts taken at constant places from a SplitToSequence are outputs of a Split."""
    changed = False
    for node in list(graph.nodes):
        if node.op_type == "SplitToSequence" and attribute(node, "keepdims", 1):
            changed |= _sequence_to_split(graph, node)
    return changed


def _sequence_to_split(graph: Graph, node: onnx.NodeProto) -> bool:
    readers = [other for other in graph.nodes if node.output[0] in other.input]
    places = [graph.constant(r.input[1]) if r.op_type == "SequenceAt" else None for r in readers]
    sizes = _part_sizes(graph, node)
    known = [int(place.item()) for place in places if place is not None]
    if sizes is None or len(set(known)) != len(readers) or graph.output == node.output[0]:
        return False
    axis, shape = attribute(node, "axis", 0), graph.shapes[node.input[0]]
    parts = []
    for number, size in enumerate(sizes):
        name = graph.unique(f"{node.output[0]}.part{number}")
        graph.shapes[name] = tuple(size if k == axis else old for k, old in enumerate(shape))
        parts.append(name)
    for place, reader in zip(known, readers, strict=True):
        parts[place] = reader.output[0]
        graph.nodes.remove(reader)
    split = _shape_constant(graph, np.array(sizes, np.int64))
    node.CopyFrom(helper.make_node("Split", [node.input[0], split], parts, node.name, axis=axis))
    return True


def _part_sizes(graph: Graph, node: onnx.NodeProto) -> list[int] | None:
    """Sizes of the parts that a SplitToSequence makes of an axis that is not the batch."""
    shape, axis = graph.shapes.get(node.input[0]), attribute(node, "axis", 0)
    sizes = graph.constant(node.input[1]) if len(node.input) > 1 else None
    total = shape[axis] if shape and axis > 0 else None
    if sizes is None or total is None:
        return None
    if sizes.ndim:
        return [int(size) for size in sizes]
    step = int(sizes.item())
    return [min(step, total - start) for start in range(0, total, step)]


def static_reshapes(graph: Graph) -> bool:
    """After: a reshape that keeps the batch in front reads no computed shape."""
    changed = False
    for node in graph.nodes:
        if node.op_type in _RESHAPES and _keeps_batch(graph, node):
            changed |= _static_reshape(graph, node)
    return changed


def _keeps_batch(graph: Graph, node: onnx.NodeProto) -> bool:
    if node.input[0] in graph.constants:
        return False
    shapes = [graph.shapes.get(name, ()) for name in (node.input[0], node.output[0])]
    return all(shape and shape[0] is None for shape in shapes)


def _static_reshape(graph: Graph, node: onnx.NodeProto) -> bool:
    shape = graph.shapes[node.output[0]]
    new: tuple[str, list[str], dict[str, Any]]
    if len(shape) == 2:
        new = ("Flatten", [node.input[0]], {"axis": 1})
    else:
        wanted = np.array([0, *shape[1:]], np.int64)
        new = ("Reshape", [node.input[0], _shape_constant(graph, wanted)], {})
    if node.op_type == new[0] == "Flatten":
        return False
    _replace(node, *new)
    return True


def _shape_constant(graph: Graph, value: NDArray[Any]) -> str:
    name = "edgeprune.shape." + "x".join(map(str, value))
    if name not in graph.constants:
        graph.constants[name] = value
    return name


def _replace(node: onnx.NodeProto, op: str, inputs: list[str], attributes: dict[str, Any]) -> None:
    """Turn a node into another that writes the same outputs."""
    outputs, name = list(node.output), node.name
    node.CopyFrom(helper.make_node(op, inputs, outputs, name=name, **attributes))


def reduced_axes(graph: Graph, node: onnx.NodeProto) -> list[int] | None:
    """Axes of a Reduce node, not negative; `None` if they are not known."""
    shape = graph.shapes.get(node.input[0])
    axes = attribute(node, "axes")
    if len(node.input) > 1 and node.input[1]:
        axes = graph.constant(node.input[1])
        if axes is None:
            return None
    if shape is None:
        return None
    if axes is None or len(axes) == 0:
        noop = attribute(node, "noop_with_empty_axes", 0)
        return [] if noop else list(range(len(shape)))
    return sorted(int(axis) % len(shape) for axis in axes)


def means_to_pools(graph: Graph) -> bool:
    """After: a mean over all spatial axes is a GlobalAveragePool, and a Flatten if it dropped them.

    The pool stays in ONNX Runtime's blocked layout, ReduceMean leaves it.
    """
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        nodes += _pool_nodes(graph, node)
    changed = len(nodes) != len(graph.nodes)
    graph.nodes = nodes
    return changed


def _pool_nodes(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The nodes that stand in for `node`: itself, if it is no mean over space."""
    shape = graph.shapes.get(node.input[0], ()) if node.input else ()
    if node.op_type != "ReduceMean" or len(shape) not in (3, 4) or shape[0] is not None:
        return [node]
    if reduced_axes(graph, node) != list(range(2, len(shape))):
        return [node]
    if attribute(node, "keepdims", 1):
        _replace(node, "GlobalAveragePool", [node.input[0]], {})
        return [node]
    pooled = graph.unique(f"{node.output[0]}.pooled")
    pool = helper.make_node(
        "GlobalAveragePool", [node.input[0]], [pooled], name=f"{node.name}.pool"
    )
    graph.shapes[pooled] = (None, shape[1], *[1] * (len(shape) - 2))
    _replace(node, "Flatten", [pooled], {"axis": 1})
    return [pool, node]


def matmuls_to_gemms(graph: Graph) -> bool:
    """After: no MatMul multiplies a (batch, features) tensor by a constant matrix."""
    changed = False
    for node in list(graph.nodes):
        if node.op_type != "MatMul" or len(graph.shapes.get(node.input[0], ())) != 2:
            continue
        if node.input[0] in graph.constants or node.input[1] not in graph.constants:
            continue
        if graph.constants[node.input[1]].ndim == 2:
            _replace(node, "Gemm", list(node.input), {})
            changed = True
    return changed


def normal_gemms(graph: Graph) -> bool:
    """After: a Gemm with constant weights and a bias per output has alpha = beta = 1."""
    changed = False
    for node in graph.nodes:
        if node.op_type == "Gemm" and node.input[1] in graph.constants:
            changed |= _normal_gemm(graph, node)
    return changed


def _normal_gemm(graph: Graph, node: onnx.NodeProto) -> bool:
    alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    bias = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    known = len(node.input) < 3 or not node.input[2] or bias is not None
    trans_b = attribute(node, "transB", 0)
    outputs = graph.constants[node.input[1]].shape[0 if trans_b else 1]
    plain = (alpha, beta) == (1.0, 1.0) and (bias is None or bias.shape == (outputs,))
    if plain or not known or (bias is not None and bias.size not in (1, outputs)):
        return False
    _rescale(graph, node, alpha, beta, outputs)
    attributes = {"transA": attribute(node, "transA", 0), "transB": trans_b}
    _replace(node, "Gemm", list(node.input), attributes)
    return True


def _rescale(graph: Graph, node: onnx.NodeProto, alpha: float, beta: float, outputs: int) -> None:
    """Put alpha and beta into copies of the constants, which others may read too."""
    if alpha != 1.0:
        weight = graph.unique(node.input[1])
        graph.constants[weight] = graph.constants[node.input[1]] * np.float32(alpha)
        node.input[1] = weight
    if len(node.input) > 2 and node.input[2]:
        value = graph.constants[node.input[2]].reshape(-1) * np.float32(beta)
        bias = graph.unique(node.input[2])
        graph.constants[bias] = np.ascontiguousarray(np.broadcast_to(value, (outputs,)))
        node.input[2] = bias
