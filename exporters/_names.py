"""Give every node a unique name; operators get the name of their module in the source network."""

from __future__ import annotations

import re

import onnx

from ._graph import Graph

__all__ = ["SUFFIXES", "name_nodes"]

SUFFIXES = ("weight", "bias", "gain", "shift", "mask", "mask_index")
"""Tensors that an operator or its group may own under its name."""

_WEIGHTED = ("Conv", "Gemm")


def name_nodes(graph: Graph) -> None:
    """After: node names are unique, deterministic and plain; ``P.weight`` is free for each P."""
    taken: set[str] = set()
    for node in graph.nodes:
        node.name = _free(graph, node, _plain(_wanted(graph, node)), taken)
        taken.add(node.name)


def _wanted(graph: Graph, node: onnx.NodeProto) -> str:
    wanted: str = node.name or node.output[0]
    if node.op_type not in _WEIGHTED:
        return wanted
    for name, suffix in zip(node.input[1:], (".weight", ".bias"), strict=False):
        source = graph.origins.get(name, name)
        if name in graph.constants and source.endswith(suffix):
            return str(source.removesuffix(suffix))
    # The older exporter names nodes /module/path/Conv.
    return re.sub(r"(?<=[^/])/(Conv|Gemm|MatMul)(_\d+)?$", "", wanted)


def _plain(name: str) -> str:
    """Letters, digits, dot, dash and underscore only: names become file and tensor names."""
    parts = [part for part in re.split(r"[/:]+", name) if part]
    return re.sub(r"[^A-Za-z0-9_.\-]", "_", ".".join(parts)) or "node"


def _free(graph: Graph, node: onnx.NodeProto, wanted: str, taken: set[str]) -> str:
    tensors = (set(graph.constants) | set(graph.producers()) | {graph.input}) - set(node.input[1:])
    name, count = wanted, 1
    while name in taken or any(f"{name}.{suffix}" in tensors for suffix in SUFFIXES):
        count += 1
        name = f"{wanted}_{count}"
    return name
