"""What the nodes of a network cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import onnx

from ._graph import Graph, attribute

__all__ = ["node_macs"]


def node_macs(graph: Graph, node: onnx.NodeProto) -> int:
    """Multiply-adds of one sample in a node that multiplies matrices; 0 for all others."""
    count = _COUNTS.get(node.op_type)
    known = [name in graph.shapes or name in graph.constants for name in node.input[:2]]
    if count is None or not all(known) or len(known) < 2:
        return 0
    inputs = [_sizes(graph, name) if name else () for name in node.input]
    output = graph.sizes_at_three[next(name for name in node.output if name)]
    return count(node, inputs, output) // _batch(graph)


def _sizes(graph: Graph, name: str) -> Sequence[int]:
    if name in graph.constants:
        return graph.constants[name].shape
    return graph.sizes_at_three.get(name, ())


def _batch(graph: Graph) -> int:
    """The batch for which `Graph.sizes_at_three` holds."""
    return max(
        (graph.sizes_at_three[i.name][0] for i in graph.inputs if i.shape[:1] == (None,)), default=1
    )


_Sizes = Sequence[int]


def _conv(_node: onnx.NodeProto, inputs: Sequence[_Sizes], output: _Sizes) -> int:
    return prod(inputs[1]) * prod(output[2:]) * output[0]


def _conv_transpose(_node: onnx.NodeProto, inputs: Sequence[_Sizes], _output: _Sizes) -> int:
    return prod(inputs[1]) * prod(inputs[0][2:]) * inputs[0][0]


def _product(node: onnx.NodeProto, inputs: Sequence[_Sizes], output: _Sizes) -> int:
    inner = inputs[0][0] if attribute(node, "transA", 0) else inputs[0][-1]
    return prod(output) * inner


def _recurrent(_node: onnx.NodeProto, inputs: Sequence[_Sizes], _output: _Sizes) -> int:
    """Both weights at every step of every sequence."""
    return prod(inputs[0][:2]) * sum(map(prod, inputs[1:3]))


def _attention(_node: onnx.NodeProto, inputs: Sequence[_Sizes], output: _Sizes) -> int:
    """A product of queries and keys, and one with the values."""
    keys, values = inputs[1], inputs[2]
    return prod(output[:-1]) * keys[-2] * (keys[-1] + values[-1])


_COUNTS: dict[str, Callable[[onnx.NodeProto, Sequence[_Sizes], _Sizes], int]] = {
    "Attention": _attention,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _product,
    "MatMul": _product,
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
}
