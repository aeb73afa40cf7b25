"""Give every node a unique name; operators get the name of their module in the source network."""

from __future__ import annotations

import re
from collections import Counter

import onnx

from ..runtime.errors import ExportError
from ..runtime.network._graph import Graph, inner_names, rename_tensors

__all__ = ["SUFFIXES", "free_reserved_names", "name_nodes"]

SUFFIXES = ("weight", "bias", "gain", "shift", "mask", "mask_index", "recurrence")
"""Tensors that an operator or its group may own under its name."""

_RESERVED = ("edgeprune.", "edgeprune/")

# What PyTorch's layers call their weights: a linear or recurrent layer's, attention's.
_PARAMETER = re.compile(
    r"(.+?)(?:\.(?:weight|bias)|\.(?:weight|bias)_[ih]h_l\d+(?:_reverse)?|(\.in_proj)_(?:weight|bias))"
)

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")


def free_reserved_names(graph: Graph) -> None:
    """After: no tensor inside the graph has a name that the artifact may need for its own."""
    outside = {*graph.outputs, *(item.name for item in graph.inputs)}
    if taken := next((name for name in outside if name.startswith(_RESERVED)), None):
        raise ExportError(f"the input or output {taken!r} has a name that edgeprune needs.")
    made = (name for node in graph.nodes for name in (*node.output, *inner_names(node)))
    reserved = [name for name in (*graph.constants, *made) if name.startswith(_RESERVED)]
    new_names = {name: graph.unique(f"source/{name}") for name in reserved}
    if new_names:
        graph.constants = {new_names.get(n, n): value for n, value in graph.constants.items()}
        for node in graph.nodes:
            rename_tensors(node, new_names)


def name_nodes(graph: Graph) -> None:
    """After: node names are unique, deterministic and plain; ``P.weight`` is free for each P."""
    taken: set[str] = set()
    tensors = Counter([*graph.constants, *graph.producers(), *(i.name for i in graph.inputs)])
    counts: Counter[str] = Counter()
    for node in graph.nodes:
        node.name = _free(tensors, counts, node, _plain(_wanted(graph, node)), taken)
        taken.add(node.name)


def _wanted(graph: Graph, node: onnx.NodeProto) -> str:
    # PyTorch's script exporter writes where in its branches a name comes from.
    return re.sub(r"If_\d+_(then|else)_branch__Inline_\d+__\.?", "", _said(graph, node))


def _said(graph: Graph, node: onnx.NodeProto) -> str:
    wanted: str = node.name or node.output[0]
    if node.op_type not in _WEIGHTED:
        return wanted
    for name in node.input[1:3]:
        source = _PARAMETER.fullmatch(graph.origins.get(name, name))
        if name in graph.constants and source is not None:
            return source[1] + (source[2] or "")
    # The older exporter names nodes /module/path/Conv.
    return re.sub(r"(?<=[^/])/(Conv|ConvTranspose|Gemm|MatMul|LSTM|GRU|RNN)(_\d+)?$", "", wanted)


def _plain(name: str) -> str:
    """Letters, digits, dot, dash and underscore only: names become file and tensor names."""
    parts: list[str] = []
    for part in filter(None, re.split(r"[/:]+", name)):
        if parts and part.startswith(f"{parts[-1]}."):
            parts.pop()  # the older exporter says /features/features.2 of what is features.2
        parts.append(part)
    return re.sub(r"[^A-Za-z0-9_.\-]", "_", ".".join(parts)) or "node"


def _free(
    tensors: Counter[str], counts: Counter[str], node: onnx.NodeProto, wanted: str, taken: set[str]
) -> str:
    own = set(node.input[1:])
    name, count = wanted, max(counts[wanted], 1)
    while name in taken or any(
        tensor in tensors and tensor not in own
        for tensor in (f"{name}.{suffix}" for suffix in SUFFIXES)
    ):
        count += 1
        name = f"{wanted}_{count}"
    counts[wanted] = count
    return name
