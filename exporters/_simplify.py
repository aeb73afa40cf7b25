"""Passes that need no shapes: fold what is constant, and fold what can live in a weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ._graph import Graph, attribute, constant_model, to_model

__all__ = ["simplify"]

_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli"}


def simplify(graph: Graph) -> None:
    """Before: a graph as an exporter wrote it. After: the same function with fewer nodes.

    Names of weights survive, and what a folded BatchNorm knew is kept in `graph.references`.
    """
    constants_to_initializers(graph)
    remove_identities(graph)
    castlikes_to_casts(graph)
    fold_constants(graph)
    graph.remove_dead()
    for one_pass in (fold_pads, fold_batchnorms, fold_bias_adds):
        while one_pass(graph):
            graph.remove_dead()


def constants_to_initializers(graph: Graph) -> bool:
    """After: there is no Constant node."""
    kept = []
    for node in graph.nodes:
        if node.op_type == "Constant":
            graph.constants[node.output[0]] = _constant_value(node)
        else:
            kept.append(node)
    changed = len(kept) != len(graph.nodes)
    graph.nodes = kept
    return changed


def _constant_value(node: onnx.NodeProto) -> NDArray[Any]:
    item = node.attribute[0]
    value = helper.get_attribute_value(item)
    if item.name == "value":
        return np.asarray(numpy_helper.to_array(value))
    return np.asarray(value, np.float32 if item.name.startswith("value_float") else np.int64)


def remove_identities(graph: Graph) -> bool:
    """After: no Identity or Dropout is left, except one from the input straight to the output."""
    before = len(graph.nodes)
    for node in list(graph.nodes):
        if node.op_type in ("Identity", "Dropout") and not any(node.output[1:]):
            _remove_identity(graph, node)
    return len(graph.nodes) != before


def _remove_identity(graph: Graph, node: onnx.NodeProto) -> None:
    source, target = node.input[0], node.output[0]
    if target != graph.output:
        graph.nodes.remove(node)
        graph.replace_uses(target, source)
        return
    producer = graph.producers().get(source)
    if producer is None:
        return
    graph.nodes.remove(node)
    graph.replace_uses(source, target)
    place = list(producer.output).index(source)
    producer.output[place] = target


def castlikes_to_casts(graph: Graph) -> bool:
    """After: a CastLike whose type can be inferred is a Cast, which constants can go through."""
    nodes = [node for node in graph.nodes if node.op_type == "CastLike"]
    if not nodes:
        return False
    inferred = onnx.shape_inference.infer_shapes(to_model(graph)).graph
    types = {info.name: info.type.tensor_type.elem_type for info in inferred.value_info}
    types |= {n: helper.np_dtype_to_tensor_dtype(v.dtype) for n, v in graph.constants.items()}
    types[graph.input] = onnx.TensorProto.FLOAT
    for node in nodes:
        kind = types.get(node.input[1], onnx.TensorProto.UNDEFINED)
        if kind != onnx.TensorProto.UNDEFINED:
            cast = helper.make_node("Cast", [node.input[0]], node.output, name=node.name, to=kind)
            node.CopyFrom(cast)
    return True


def fold_constants(graph: Graph) -> bool:
    """After: no node reads constants only, except those that cannot be evaluated."""
    kept = []
    for node in graph.nodes:
        known = all(name in graph.constants for name in node.input if name)
        if not known or node.op_type in _RANDOM or not _evaluate(node, graph):
            kept.append(node)
    changed = len(kept) != len(graph.nodes)
    graph.nodes = kept
    return changed


def _evaluate(node: onnx.NodeProto, graph: Graph) -> bool:
    from onnx.reference import ReferenceEvaluator

    try:
        values = ReferenceEvaluator(constant_model(node, graph)).run(None, {})
    except Exception:  # an operator that the evaluator lacks stays in the graph, which is right
        return False
    for name, value in zip(node.output, values, strict=True):
        graph.constants[name] = np.asarray(value)
        if node.op_type in ("Transpose", "Reshape", "Cast"):
            graph.origins[name] = graph.origins.get(node.input[0], node.input[0])
    return True


def fold_pads(graph: Graph) -> bool:
    """After: zero padding of spatial axes that one Conv reads is part of that Conv."""
    uses, producers = graph.uses(), graph.producers()
    for node in graph.nodes:
        pad = producers.get(node.input[0]) if node.op_type == "Conv" else None
        if pad is not None and pad.op_type == "Pad" and uses[pad.output[0]] == 1:
            amounts = _spatial_zero_pads(graph, pad)
            if amounts is not None and attribute(node, "auto_pad", "NOTSET") == "NOTSET":
                _add_pads(node, amounts)
                node.input[0] = pad.input[0]
                return True
    return False


def _spatial_zero_pads(graph: Graph, pad: onnx.NodeProto) -> list[int] | None:
    """Amounts of a Pad as a Conv wants them, or `None` if it does anything else."""
    amounts = graph.constant(pad.input[1]) if len(pad.input) > 1 else None
    value = graph.constant(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else np.zeros(1)
    plain = attribute(pad, "mode", "constant") == "constant" and len(pad.input) < 4
    if amounts is None or value is None or not plain or np.any(value != 0):
        return None
    begin, end = np.split(np.asarray(amounts, np.int64), 2)
    if begin[:2].any() or end[:2].any() or (begin < 0).any() or (end < 0).any():
        return None
    return [int(amount) for amount in (*begin[2:], *end[2:])]


def _add_pads(conv: onnx.NodeProto, amounts: list[int]) -> None:
    pads = attribute(conv, "pads", [0] * len(amounts))
    kept = [item for item in conv.attribute if item.name != "pads"]
    total = [int(a) + b for a, b in zip(pads, amounts, strict=True)]
    del conv.attribute[:]
    conv.attribute.extend([*kept, helper.make_attribute("pads", total)])


def fold_batchnorms(graph: Graph) -> bool:
    """After: no BatchNormalization is the only reader of a Conv or Gemm with constant weights."""
    uses, producers = graph.uses(), graph.producers()
    for node in graph.nodes:
        dense = producers.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if dense is None or uses[node.input[0]] != 1 or not _foldable(graph, dense):
            continue
        parameters = [graph.constant(name) for name in node.input[1:5]]
        if all(value is not None for value in parameters) and not any(node.output[1:]):
            _fold_batchnorm(graph, dense, node, [np.asarray(v, np.float64) for v in parameters])
            return True
    return False


def _foldable(graph: Graph, dense: onnx.NodeProto) -> bool:
    """Whether nothing else sees the weights of this Conv or plain Gemm."""
    if dense.op_type not in ("Conv", "Gemm") or dense.input[1] not in graph.constants:
        return False
    bias = dense.input[2] if len(dense.input) > 2 else ""
    plain = all(attribute(dense, name, 1.0) == 1.0 for name in ("alpha", "beta"))
    known = not bias or (bias in graph.constants and graph.constants[bias].ndim == 1)
    return plain and known and graph.uses()[dense.input[1]] == 1


def _out_axis(dense: onnx.NodeProto) -> int:
    return 1 if dense.op_type == "Gemm" and not attribute(dense, "transB", 0) else 0


def _fold_batchnorm(
    graph: Graph, dense: onnx.NodeProto, norm: onnx.NodeProto, parameters: list[NDArray[Any]]
) -> None:
    gamma, beta, mean, variance = parameters
    # In float64: the fold is done once, its rounding would stay for ever.
    scale = gamma / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
    weight = graph.constants[dense.input[1]].astype(np.float64)
    shape = [1] * weight.ndim
    shape[_out_axis(dense)] = -1
    bias = _bias(graph, dense)
    set_parameters(graph, dense, weight * scale.reshape(shape), (bias - mean) * scale + beta)
    dense.output[0] = norm.output[0]
    graph.nodes.remove(norm)
    deviation = np.abs(scale) * np.sqrt(variance)
    graph.references[norm.output[0]] = (beta, deviation)


def _bias(graph: Graph, dense: onnx.NodeProto) -> NDArray[Any]:
    if len(dense.input) > 2 and dense.input[2]:
        return graph.constants[dense.input[2]].astype(np.float64)
    return np.zeros(graph.constants[dense.input[1]].shape[_out_axis(dense)])


def set_parameters(
    graph: Graph, dense: onnx.NodeProto, weight: NDArray[Any], bias: NDArray[Any]
) -> None:
    """Give an operator new values; its weight keeps its name, its bias is named after it."""
    graph.constants[dense.input[1]] = np.ascontiguousarray(weight, np.float32)
    stem = dense.input[1].removesuffix(".weight")
    name = dense.input[2] if len(dense.input) > 2 else ""
    if not name or graph.uses()[name] != 1:
        name = graph.unique(f"{stem}.bias")
    graph.constants[name] = np.ascontiguousarray(bias, np.float32)
    del dense.input[2:]
    dense.input.append(name)


def fold_bias_adds(graph: Graph) -> bool:
    """After: no Add of one constant per channel directly follows a Conv or Gemm."""
    uses, producers = graph.uses(), graph.producers()
    for node in graph.nodes:
        if node.op_type != "Add" or len(graph.activations(node)) != 1:
            continue
        source = graph.activations(node)[0]
        dense = producers.get(source)
        if dense is None or uses[source] != 1 or not _foldable(graph, dense):
            continue
        value = _per_channel(graph, dense, node)
        if value is not None and source not in graph.references:
            weight = graph.constants[dense.input[1]]
            set_parameters(graph, dense, weight, _bias(graph, dense) + value)
            dense.output[0] = node.output[0]
            graph.nodes.remove(node)
            return True
    return False


def _per_channel(graph: Graph, dense: onnx.NodeProto, add: onnx.NodeProto) -> NDArray[Any] | None:
    """The constant that `add` adds, as one value per output channel, if that is what it is."""
    name = next(name for name in add.input if name in graph.constants)
    value, weight = graph.constants[name], graph.constants[dense.input[1]]
    channels = weight.shape[_out_axis(dense)]
    trailing = weight.ndim - 2
    wanted = (channels, *[1] * trailing)
    if value.shape[-len(wanted) :] != wanted or value.size != channels:
        return None
    if value.ndim > len(wanted) + 1:
        return None
    return value.reshape(channels).astype(np.float64)
