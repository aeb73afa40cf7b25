"""Passes that need shapes: write the same function with operators that are easier to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from ..runtime.network._graph import Graph, attribute, read_names
from ..runtime.network._rules_mixing import reduced_axes
from ._einsum import einsums_to_matmuls, plain_matmuls
from ._simplify import fold_bias_adds
from ._structures import (
    add_biases,
    drop_zero_states,
    note_shape,
    shapes_of_inputs,
    shuffles_to_gathers,
    unshare_weights,
    unspread_constants,
)

__all__ = ["specialize"]

_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def specialize(graph: Graph) -> None:
    """Before: simplified, shapes known. After: plain reshapes, pools and Gemms; shapes known."""
    sequences_to_splits(graph)
    static_reshapes(graph)
    static_expands(graph)
    static_resizes(graph)
    graph.remove_dead()
    shapes_of_inputs(graph)
    shuffles_to_gathers(graph)
    drop_zero_states(graph)
    unspread_constants(graph)
    means_to_pools(graph)
    einsums_to_matmuls(graph)
    if plain_matmuls(graph):
        fold_bias_adds(graph)
    matmuls_to_gemms(graph)
    normal_gemms(graph)
    unshare_weights(graph)
    add_biases(graph)
    graph.remove_dead()


def sequences_to_splits(graph: Graph) -> bool:
    """After: parts taken at constant places from a SplitToSequence are outputs of a Split."""
    splits = [n for n in graph.nodes if n.op_type == "SplitToSequence"]
    readers: dict[str, list[onnx.NodeProto]] = {node.output[0]: [] for node in splits}
    for node in graph.nodes if splits else ():
        for name in dict.fromkeys(read_names(node)):
            if name in readers:
                readers[name].append(node)
    gone = {id(part) for node in splits for part in _sequence_to_split(graph, node, readers)}
    graph.nodes = [node for node in graph.nodes if id(node) not in gone]
    return bool(gone)


def _sequence_to_split(
    graph: Graph, node: onnx.NodeProto, readers: Mapping[str, list[onnx.NodeProto]]
) -> list[onnx.NodeProto]:
    """Turn a SplitToSequence into a Split; return the nodes that took its parts, if that went."""
    takers = readers[node.output[0]]
    places = [graph.constant(t.input[1]) if t.op_type == "SequenceAt" else None for t in takers]
    sizes = _part_sizes(graph, node)
    if sizes is None or node.output[0] in graph.outputs:
        return []
    known = [int(place.item()) % len(sizes) for place in places if place is not None]
    if len(set(known)) != len(takers):
        return []
    axis = attribute(node, "axis", 0)
    parts = []
    for number, size in enumerate(sizes):
        name = graph.unique(f"{node.output[0]}.part{number}")
        note_shape(graph, name, node.input[0], {axis: size})
        parts.append(name)
    for place, taker in zip(known, takers, strict=True):
        parts[place] = taker.output[0]
    split = _shape_constant(graph, np.array(sizes, np.int64))
    node.CopyFrom(helper.make_node("Split", [node.input[0], split], parts, node.name, axis=axis))
    return takers


def _part_sizes(graph: Graph, node: onnx.NodeProto) -> list[int] | None:
    """Sizes of the parts that a SplitToSequence makes of an axis that is not the batch."""
    if not attribute(node, "keepdims", 1):
        return None
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
    """Whether the result has at most one size that depends on the batch, so that it can be told."""
    if node.input[0] in graph.constants or node.output[0] not in graph.shapes:
        return False
    return graph.shapes[node.output[0]].count(None) <= 1


def _static_reshape(graph: Graph, node: onnx.NodeProto) -> bool:
    before, after = (graph.shapes.get(name, ()) for name in (node.input[0], node.output[0]))
    flat = before[:1] == after[:1] == (None,) and len(after) == 2
    if flat and graph.sizes_at_three[node.input[0]][:1] == graph.sizes_at_three[node.output[0]][:1]:
        changed = bool(node.op_type != "Flatten")
        _replace(node, "Flatten", [node.input[0]], {"axis": 1})
        return changed
    if node.op_type == "Flatten":
        return False
    wanted = np.array([-1 if size is None else size for size in after], np.int64)
    _replace(node, "Reshape", [node.input[0], _shape_constant(graph, wanted)], {})
    return True


def static_expands(graph: Graph) -> bool:
    """After: an Expand that leaves the batch as it is reads no computed shape."""
    changed = False
    for node in graph.nodes:
        if node.op_type != "Expand" or node.input[1] in graph.constants:
            continue
        target = _expand_target(graph, node)
        if target is not None:
            node.input[1] = _shape_constant(graph, np.array(target, np.int64))
            changed = True
    return changed


_AXES_OF_RESIZE = 18  # from this operator set on a Resize may name its axes


def static_resizes(graph: Graph) -> bool:
    """After: a Resize to computed sizes that leaves the batch alone names the axes that change.

    The sizes that exporters compute hold the batch, and so depend on what the network is given.
    """
    changed = False
    for node in graph.nodes if graph.opset >= _AXES_OF_RESIZE else ():
        if node.op_type == "Resize" and len(node.input) > 3 and node.input[3] in graph.shapes:
            changed |= _static_resize(graph, node)
    return changed


def _static_resize(graph: Graph, node: onnx.NodeProto) -> bool:
    before, after = (graph.shapes.get(name) for name in (node.input[0], node.output[0]))
    plain = attribute(node, "keep_aspect_ratio_policy", "stretch") == "stretch"
    plain &= attribute(node, "coordinate_transformation_mode") != "tf_crop_and_resize"
    if before is None or after is None or not plain or attribute(node, "axes") is not None:
        return False
    three = (graph.sizes_at_three[name] for name in (node.input[0], node.output[0]))
    moved = [axis for axis, (a, b) in enumerate(zip(*three, strict=True)) if a != b]
    if not moved or any(after[axis] is None for axis in moved):
        return False
    sizes = np.array([after[axis] for axis in moved], np.int64)
    node.input[1], node.input[2], node.input[3] = "", "", _shape_constant(graph, sizes)
    node.attribute.append(helper.make_attribute("axes", moved))
    return True


def _expand_target(graph: Graph, node: onnx.NodeProto) -> list[int] | None:
    """The sizes that an Expand stretches to, 1 for the batch that it has already."""
    before, after = (graph.sizes_at_three.get(n) for n in (node.input[0], node.output[0]))
    if before is None or after is None:
        return None
    before = (1,) * (len(after) - len(before)) + before
    shape = graph.shapes[node.output[0]]
    if any(n is None and a != b for n, a, b in zip(shape, before, after, strict=True)):
        return None
    return [1 if size is None else size for size in shape]


def _shape_constant(graph: Graph, value: NDArray[Any]) -> str:
    return graph.named_constant("edgeprune.shape." + "x".join(map(str, value)), value)


def _replace(node: onnx.NodeProto, op: str, inputs: list[str], attributes: dict[str, Any]) -> None:
    """Turn a node into another that writes the same outputs."""
    outputs, name = list(node.output), node.name
    node.CopyFrom(helper.make_node(op, inputs, outputs, name=name, **attributes))


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
    if node.output[0] not in graph.shapes:
        return [node]
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
    note_shape(graph, pooled, node.input[0], dict.fromkeys(range(2, len(shape)), 1))
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
