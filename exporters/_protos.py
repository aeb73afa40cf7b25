"""Walks over everything that an ONNX model holds, sub-graphs and functions included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

from ..runtime.network._graph import subgraphs

__all__ = ["all_nodes", "all_tensors", "first_line"]


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node of a model."""
    yield from _with_inner(model.graph.node)
    for function in model.functions:
        yield from _with_inner(function.node)


def _with_inner(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from _with_inner(graph.node)


def all_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every constant of a model."""
    yield from _initializers(model.graph)
    for node in all_nodes(model):
        for item in node.attribute:
            yield from item.tensors
            if item.HasField("t"):
                yield item.t
        for graph in subgraphs(node):
            yield from _initializers(graph)


def _initializers(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)


def first_line(error: BaseException) -> str:
    """The first line of a message that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
