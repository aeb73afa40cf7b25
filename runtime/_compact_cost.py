"""What a network costs: parameters, and multiply-adds of one sample."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx

from .network._graph import Graph, attribute

__all__ = ["multiply_adds", "parameters"]


def parameters(graph: Graph) -> int:
    """Elements of all constants that hold floats, lone numbers left out."""
    return sum(v.size for v in graph.constants.values() if v.dtype.kind == "f" and v.ndim)


def multiply_adds(graph: Graph) -> int:
    """Multiply-adds of all matrix products, convolutions and recurrent cells, for one sample."""
    batch = 3 if any(None in item.shape for item in graph.inputs) else 1
    return sum(_of_node(graph, node) for node in graph.nodes) // batch


def _of_node(graph: Graph, node: onnx.NodeProto) -> int:
    """Multiply-adds of a node for a batch of three; 0 for what does not multiply matrices."""
    output = next((name for name in node.output if name in graph.sizes_at_three), None)
    if node.op_type not in _COUNTED or output is None:
        return 0
    first, second, *_ = (_sizes(graph, name) for name in node.input)
    if node.op_type in ("LSTM", "GRU", "RNN"):
        return math.prod(first[:2]) * (math.prod(second) + math.prod(_sizes(graph, node.input[2])))
    if node.op_type == "Conv":
        return math.prod(second[1:]) * math.prod(_sizes(graph, output))
    if node.op_type == "ConvTranspose":
        return math.prod(second[1:]) * math.prod(first)
    inner = first[0] if attribute(node, "transA", 0) else first[-1]
    return math.prod(_sizes(graph, output)) * inner


_COUNTED = frozenset(["Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN"])


def _sizes(graph: Graph, name: str) -> Sequence[int]:
    value = graph.constant(name)
    return graph.sizes_at_three.get(name, ()) if value is None else value.shape
