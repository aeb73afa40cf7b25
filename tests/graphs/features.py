"""What a model contains, in words: for histograms of what a strategy draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import onnx
from onnx import TensorProto, helper


def all_nodes(graph: Any) -> Iterator[Any]:
    """Every node, those in branches too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from all_nodes(attribute.g)


def features(model: onnx.ModelProto) -> set[str]:
    """Operators, their variants, and how the model is written."""
    found = set(_of_model(model))
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in all_nodes(model.graph):
        found.add(node.op_type)
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            shapes[node.output[0]] = tuple(node.attribute[0].t.dims)
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        variants = VARIANTS.get(node.op_type)
        if variants:
            weight = shapes.get(node.input[1], ()) if len(node.input) > 1 else ()
            found |= {f"{node.op_type} {word}" for word in variants(node, attributes, weight)}
    return found


def _of_model(model: onnx.ModelProto) -> Iterator[str]:
    yield f"opset {model.opset_import[0].version}"
    yield f"{len(model.graph.input)} inputs"
    yield f"{len(model.graph.output)} outputs"
    kinds = {value.type.tensor_type.elem_type for value in model.graph.input}
    if TensorProto.INT64 in kinds:
        yield "integer input"
    if model.graph.value_info:
        yield "value_info"
    if not model.graph.initializer:
        yield "no initializers"
    if any(not node.name for node in model.graph.node):
        yield "nodes without names"
    yield from _sharing(model)


def _sharing(model: onnx.ModelProto) -> Iterator[str]:
    large = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) >= 2}
    reads = Counter(name for node in model.graph.node for name in node.input if name in large)
    if reads and max(reads.values()) > 1:
        yield "shared weight"
    outputs = {value.name for value in model.graph.output}
    if any(name in outputs for node in model.graph.node for name in node.input):
        yield "output that is read"


Variants = Callable[[Any, dict[str, Any], tuple[int, ...]], Iterator[str]]


def _conv(node: Any, attributes: dict[str, Any], weight: tuple[int, ...]) -> Iterator[str]:
    group = attributes.get("group", 1)
    if weight:
        yield f"{len(weight) - 2}-d"
    if group > 1:
        one = len(weight) > 1 and weight[1] == 1 and node.op_type == "Conv"
        yield f"depthwise x{weight[0] // group}" if one else "grouped"
    for name, word in (("strides", "strided"), ("dilations", "dilated"), ("pads", "padded")):
        if set(attributes.get(name, ())) - {0, 1 if name != "pads" else 0}:
            yield word
    if "auto_pad" in attributes:
        yield "auto_pad"


def _gemm(node: Any, attributes: dict[str, Any], weight: tuple[int, ...]) -> Iterator[str]:
    yield f"transB={attributes.get('transB', 0)}"
    if attributes.get("alpha", 1) != 1:
        yield "alpha"
    if attributes.get("beta", 1) != 1:
        yield "beta"
    yield "with bias" if len(node.input) > 2 else "without bias"


def _recurrent(node: Any, attributes: dict[str, Any], weight: tuple[int, ...]) -> Iterator[str]:
    yield str(attributes.get("direction", b"forward").decode())
    if len(node.input) > 5:
        yield "with initial state"


def _resize(node: Any, attributes: dict[str, Any], weight: tuple[int, ...]) -> Iterator[str]:
    yield attributes["mode"].decode() + (" to sizes" if len(node.input) > 3 else " by scales")


def _concat(node: Any, attributes: dict[str, Any], weight: tuple[int, ...]) -> Iterator[str]:
    if len(set(node.input)) < len(node.input):
        yield "of the same tensor"


def _reduce(node: Any, attributes: dict[str, Any], weight: tuple[int, ...]) -> Iterator[str]:
    yield f"keepdims={attributes.get('keepdims', 1)}"


def _pad(node: Any, attributes: dict[str, Any], weight: tuple[int, ...]) -> Iterator[str]:
    yield attributes["mode"].decode()


VARIANTS: dict[str, Variants] = {
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Gemm": _gemm,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "Resize": _resize,
    "Concat": _concat,
    "ReduceMean": _reduce,
    "Pad": _pad,
}
