"""Passes that need no shapes: fold what is constant, and fold what can live in a weight."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ..runtime.network._graph import (
    Graph,
    attribute,
    constant_model,
    inferred_types,
    read_names,
    subgraphs,
)
from ._branches import inline_ifs

__all__ = ["RANDOM", "fold", "fold_bias_adds", "simplify"]

_LARGEST_CONSTANT = 2**28  # bytes; what is larger is made when the network runs, as in the source
RANDOM = frozenset(
    [
        "RandomNormal",
        "RandomUniform",
        "RandomNormalLike",
        "RandomUniformLike",
        "Bernoulli",
        "Multinomial",
    ]
)
"""Operators that answer otherwise each time."""


def simplify(graph: Graph) -> None:
    """Before: a graph as an exporter wrote it. After: the same function with fewer nodes.

    Names of weights survive, and what a folded BatchNorm knew is kept in `graph.references`.
    """
    fold(graph)
    while inline_ifs(graph):
        fold(graph)
    graph.remove_dead()
    for one_pass in (fold_pads, fold_batchnorms, fold_bias_adds):
        if one_pass(graph):
            graph.remove_dead()


def fold(graph: Graph) -> None:
    """After: what is constant is a constant, and nothing stands that only passes on."""
    constants_to_initializers(graph)
    remove_identities(graph)
    castlikes_to_casts(graph)
    fold_constants(graph)


def constants_to_initializers(graph: Graph) -> bool:
    """After: there is no Constant node, unless it holds text or a sparse tensor."""
    kept = []
    for node in graph.nodes:
        value = _constant_value(node) if node.op_type == "Constant" else None
        if value is None:
            kept.append(node)
        else:
            graph.constants[node.output[0]] = value
    changed = len(kept) != len(graph.nodes)
    graph.nodes = kept
    return changed


def _constant_value(node: onnx.NodeProto) -> NDArray[Any] | None:
    item = node.attribute[0]
    value = helper.get_attribute_value(item)
    if item.name == "value":
        return np.asarray(numpy_helper.to_array(value))
    if item.name.startswith(("value_float", "value_int")):
        return np.asarray(value, np.float32 if item.name.startswith("value_float") else np.int64)
    return None


def remove_identities(graph: Graph) -> bool:
    """After: no Identity or Dropout is left, except those that write an output of the network.

    What a sub-graph captures keeps its name.
    """
    kept_names = set(graph.outputs)
    for node in graph.nodes:
        kept_names.update(set(read_names(node)).difference(node.input))
    stands_for: dict[str, str] = {}
    kept = []
    for node in graph.nodes:
        for place, name in enumerate(node.input):
            node.input[place] = stands_for.get(name, name)
        passes = node.op_type in ("Identity", "Dropout") and not any(node.output[1:])
        if passes and node.output[0] not in kept_names:
            stands_for[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    changed = len(kept) != len(graph.nodes)
    graph.nodes = kept
    return _name_outputs_at_source(graph) or changed


def _name_outputs_at_source(graph: Graph) -> bool:
    """After: what only an Identity to an output reads writes that output itself."""
    uses, producers, gone = graph.uses(), graph.producers(), set[int]()
    for node in graph.nodes:
        source = producers.get(node.input[0]) if node.op_type == "Identity" else None
        if source is not None and uses[node.input[0]] == 1 and node.output[0] in graph.outputs:
            source.output[list(source.output).index(node.input[0])] = node.output[0]
            producers[node.output[0]] = source
            gone.add(id(node))
    return _drop(graph, gone)


def castlikes_to_casts(graph: Graph) -> bool:
    """After: a CastLike whose type can be inferred is a Cast, which constants can go through."""
    nodes = [node for node in graph.nodes if node.op_type == "CastLike"]
    if not nodes:
        return False
    types = {name: kind.tensor_type.elem_type for name, kind in inferred_types(graph).items()}
    types |= {n: helper.np_dtype_to_tensor_dtype(v.dtype) for n, v in graph.constants.items()}
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
        known = all(name in graph.constants for name in read_names(node))
        if not known or _keeps_running(node) or not _evaluate(node, graph):
            kept.append(node)
    changed = len(kept) != len(graph.nodes)
    graph.nodes = kept
    return changed


def _keeps_running(node: onnx.NodeProto) -> bool:
    return node.op_type in RANDOM or node.op_type == "Constant" or bool(subgraphs(node))


def _evaluate(node: onnx.NodeProto, graph: Graph) -> bool:
    from onnx.reference import ReferenceEvaluator

    try:
        values = ReferenceEvaluator(constant_model(node, graph)).run(None, {})
    except Exception:  # an operator that the evaluator lacks stays in the graph, which is right
        return False
    if not all(isinstance(v, np.ndarray) and v.nbytes <= _LARGEST_CONSTANT for v in values):
        return False
    for name, value in zip(node.output, values, strict=True):
        graph.constants[name] = value
    graph.note_origin(node)
    return True


def fold_pads(graph: Graph) -> bool:
    """After: zero padding of spatial axes that one Conv reads is part of that Conv."""
    uses, producers, changed = graph.uses(), graph.producers(), False
    for node in graph.nodes:
        pad = producers.get(node.input[0]) if node.op_type == "Conv" else None
        if pad is not None and pad.op_type == "Pad" and uses[pad.output[0]] == 1:
            amounts = _spatial_zero_pads(graph, pad)
            if amounts is not None and attribute(node, "auto_pad", "NOTSET") == "NOTSET":
                _add_pads(node, amounts)
                node.input[0] = pad.input[0]
                changed = True
    return changed


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
    """After: no BatchNormalization is the only reader of an operator with constant weights."""
    uses, producers, gone = graph.uses(), graph.producers(), set[int]()
    for node in graph.nodes:
        dense = producers.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if dense is None or uses[node.input[0]] != 1 or not _foldable(graph, dense, uses):
            continue
        parameters = [graph.constant(name) for name in node.input[1:5]]
        if all(value is not None for value in parameters) and not any(node.output[1:]):
            values = [np.asarray(v, np.float64) for v in parameters]
            _fold_batchnorm(graph, dense, node, values, uses)
            producers[dense.output[0]] = dense
            gone.add(id(node))
    return _drop(graph, gone)


def _drop(graph: Graph, gone: set[int]) -> bool:
    graph.nodes = [node for node in graph.nodes if id(node) not in gone]
    return bool(gone)


def _foldable(graph: Graph, dense: onnx.NodeProto, uses: Counter[str]) -> bool:
    """Whether nothing else sees the weights of this Conv, ConvTranspose or plain Gemm."""
    if dense.op_type not in ("Conv", "ConvTranspose", "Gemm"):
        return False
    if dense.input[1] not in graph.constants or dense.input[0] in graph.constants:
        return False
    bias = dense.input[2] if len(dense.input) > 2 else ""
    plain = all(attribute(dense, name, 1.0) == 1.0 for name in ("alpha", "beta"))
    plain &= dense.op_type != "ConvTranspose" or attribute(dense, "group", 1) == 1
    known = not bias or (bias in graph.constants and graph.constants[bias].ndim == 1)
    return plain and known and uses[dense.input[1]] == 1


def _out_axis(dense: onnx.NodeProto) -> int:
    if dense.op_type == "ConvTranspose":
        return 1
    return 1 if dense.op_type == "Gemm" and not attribute(dense, "transB", 0) else 0


def _fold_batchnorm(
    graph: Graph,
    dense: onnx.NodeProto,
    norm: onnx.NodeProto,
    parameters: list[NDArray[Any]],
    uses: Counter[str],
) -> None:
    gamma, beta, mean, variance = parameters
    # In float64: the fold is done once, its rounding would stay for ever.
    scale = gamma / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
    weight = graph.constants[dense.input[1]].astype(np.float64)
    shape = [1] * weight.ndim
    shape[_out_axis(dense)] = -1
    bias = _bias(graph, dense)
    bias = (bias - mean) * scale + beta
    set_parameters(graph, dense, weight * scale.reshape(shape), bias, uses)
    dense.output[0] = norm.output[0]
    deviation = np.abs(scale) * np.sqrt(variance)
    graph.references[norm.output[0]] = (beta, deviation)


def _bias(graph: Graph, dense: onnx.NodeProto) -> NDArray[Any]:
    if len(dense.input) > 2 and dense.input[2]:
        return graph.constants[dense.input[2]].astype(np.float64)
    return np.zeros(graph.constants[dense.input[1]].shape[_out_axis(dense)])


def set_parameters(
    graph: Graph,
    dense: onnx.NodeProto,
    weight: NDArray[Any],
    bias: NDArray[Any],
    uses: Counter[str],
) -> None:
    """Give an operator new values; its weight keeps its name, its bias is named after it."""
    graph.constants[dense.input[1]] = np.ascontiguousarray(weight, np.float32)
    stem = dense.input[1].removesuffix(".weight")
    name = dense.input[2] if len(dense.input) > 2 else ""
    if not name or uses[name] != 1:
        name = graph.unique(f"{stem}.bias")
        uses[name] = 1
    graph.constants[name] = np.ascontiguousarray(bias, np.float32)
    del dense.input[2:]
    dense.input.append(name)


def fold_bias_adds(graph: Graph) -> bool:
    """After: no Add of one constant per channel directly follows a Conv or Gemm."""
    uses, producers, gone = graph.uses(), graph.producers(), set[int]()
    for node in graph.nodes:
        if node.op_type != "Add" or len(graph.activations(node)) != 1:
            continue
        source = graph.activations(node)[0]
        dense = producers.get(source)
        if dense is None or uses[source] != 1 or not _foldable(graph, dense, uses):
            continue
        value = _per_channel(graph, dense, node)
        if value is not None and source not in graph.references:
            weight = graph.constants[dense.input[1]]
            set_parameters(graph, dense, weight, _bias(graph, dense) + value, uses)
            dense.output[0] = node.output[0]
            producers[node.output[0]] = dense
            gone.add(id(node))
    return _drop(graph, gone)


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
