"""Walks over everything that an ONNX model holds, sub-graphs and functions included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import onnx

from ..runtime.errors import ExportError
from ..runtime.network._graph import subgraphs

__all__ = ["all_nodes", "all_tensors", "check_texts", "first_line"]


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


def check_texts(model: onnx.ModelProto) -> None:
    """Refuse names that are no text: protobuf hands them out as bytes, and nothing goes with them.

    Raises:
        ExportError: there is one.
    """
    if not all(isinstance(text, str) for text in _texts(model)):
        raise ExportError("the file is no ONNX model: it holds names that are not UTF-8 text.")


def _texts(model: onnx.ModelProto) -> Iterator[Any]:
    yield from (item.domain for item in model.opset_import)
    yield from (text for prop in model.metadata_props for text in (prop.key, prop.value))
    for item in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        yield item.name
        yield from (dim.dim_param for dim in item.type.tensor_type.shape.dim)
    for tensor in all_tensors(model):
        yield tensor.name
        yield from (text for entry in tensor.external_data for text in (entry.key, entry.value))
    for node in all_nodes(model):
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (item.name for item in node.attribute)
        for graph in subgraphs(node):
            yield from (item.name for item in (*graph.input, *graph.output))


def first_line(error: BaseException) -> str:
    """The first line of a message that says something, without the full stop at its end."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line.rstrip(".") for line in lines if line), repr(error))
