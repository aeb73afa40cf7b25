"""Which whole numbers an input can be fed: what it picks or counts says how many there are.

An input of word numbers ends at a Gather from a table of a thousand rows: it takes 0 to 999. What
nothing is known of gets 0 and 1, as a mask does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from ._graph import Graph, attribute, read_names, to_light_model

__all__ = ["Range", "integer_ranges", "note_ranges"]

Range = tuple[int, int]
"""The smallest number, and the one after the largest."""

_UNKNOWN = (0, 2)
# Operators that hand on the numbers of their first input, and those that do of any.
_HANDED_ON = """
    Identity Reshape Flatten Squeeze Unsqueeze Transpose Slice Split Expand Tile Gather Clip
"""
_JOINED = frozenset(["Concat", "Where"])
_COMPARED = frozenset(["Less", "LessOrEqual", "Greater", "GreaterOrEqual"])
# Operators that take whatever numbers there are: a Cast to floats, and these.
_INDIFFERENT = frozenset(["Shape", "Size", "Equal", "Cast", *_COMPARED])
_INTEGERS = frozenset([onnx.TensorProto.INT32, onnx.TensorProto.INT64])


def note_ranges(graph: Graph) -> None:
    """After: the inputs of whole numbers know which ones they can be fed."""
    if all(item.elem_type not in _INTEGERS for item in graph.inputs):
        return
    found = integer_ranges(to_light_model(graph)[0])
    graph.inputs = [
        replace(item, values=found[item.name]) if item.name in found else item
        for item in graph.inputs
    ]


def integer_ranges(model: onnx.ModelProto) -> dict[str, Range]:
    """For each integer input of a model the numbers that it can be fed."""
    inside = {item.name for item in model.graph.initializer}
    found = [i for i in model.graph.input if i.name not in inside]
    integers = [i.name for i in found if i.type.tensor_type.elem_type in _INTEGERS]
    if not integers:
        return {}
    reader = _Reader(model)
    return {name: reader.range_of(name) for name in integers}


class _Reader:
    """A model, with what is known of its tensors without running it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._constants = {item.name: item for item in model.graph.initializer}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in dict.fromkeys(read_names(node)):
                self._readers.setdefault(name, []).append(node)
        self._types = _types(model)

    def range_of(self, name: str) -> Range:
        """What all that reads a tensor allows; 0 and 1 where they cannot agree."""
        limits = list(self._limits(name, 0))
        low = max((0, *(first for first, _ in limits)))
        high = min((end for _, end in limits), default=_UNKNOWN[1])
        return (low, high) if limits and low < high else _UNKNOWN

    def _limits(self, name: str, added: int) -> Iterator[Range]:
        """What each reader allows, less what was added to the input on the way there."""
        for node in self._readers.get(name, ()):
            limit, number = self._limit(node, name), self._number(node)
            if limit is not None:
                yield limit[0] - added, limit[1] - added
            elif _hands_on(node, name):
                for output in node.output:
                    yield from self._limits(output, added)
            elif number is not None:
                sign = 1 if node.op_type == "Add" else -1
                yield from self._limits(node.output[0], added + sign * number)
            elif node.op_type not in _INDIFFERENT:
                yield _UNKNOWN  # counted up, taken for a size, ...: a larger one may be too large

    def _limit(self, node: onnx.NodeProto, name: str) -> Range | None:
        """What a node that picks or counts by a tensor allows it to be."""
        place = list(node.input).index(name) if name in node.input else -1
        if node.op_type in ("Gather", "GatherElements") and place == 1:
            return self._places(node.input[0], int(attribute(node, "axis", 0)))
        if node.op_type == "OneHot" and place == 0:
            depth = self._value(node.input[1])
            return _UNKNOWN if depth is None else (0, max(int(depth.item()), 1))
        if node.op_type in ("LSTM", "GRU", "RNN") and place == 4:
            return self._lengths(node)
        if node.op_type in _COMPARED:
            return self._compared(node, place)
        return None

    def _places(self, data: str, axis: int) -> Range:
        sizes = self._sizes(data)
        size = sizes[axis] if sizes is not None and -len(sizes) <= axis < len(sizes) else 0
        return (0, size) if size else _UNKNOWN

    def _lengths(self, node: onnx.NodeProto) -> Range:
        """A sequence of one step at least, and of no more than there are."""
        sizes = self._sizes(node.input[0])
        steps = sizes[1 if attribute(node, "layout", 0) else 0] if sizes else 0
        return 1, max(steps, 1) + 1

    def _compared(self, node: onnx.NodeProto, place: int) -> Range | None:
        """Of lengths, which are compared with the numbers of the steps: one step, up to all.

        A single number is a threshold, and says nothing of how far the others go.
        """
        value = self._value(node.input[1 - place])
        if value is None or value.dtype.kind != "i" or value.size < 2:
            return None
        return int(value.min()) + 1, int(value.max()) + 2

    def _number(self, node: onnx.NodeProto) -> int | None:
        """The one constant that an Add adds, or a Sub takes away."""
        if node.op_type not in ("Add", "Sub"):
            return None
        value = self._value(node.input[1])
        if value is None and node.op_type == "Add":
            value = self._value(node.input[0])
        return int(value.item()) if value is not None and value.size == 1 else None

    def _sizes(self, name: str) -> list[int] | None:
        """Sizes of a tensor, 0 where they are not known."""
        if name in self._constants:
            return list(self._constants[name].dims)
        kind = self._types.get(name)
        if kind is None or not kind.HasField("shape"):
            return None
        return [int(dim.dim_value) for dim in kind.shape.dim]

    def _value(self, name: str) -> Any:
        """A constant that stands in the model; None for others."""
        item = self._constants.get(name)
        if item is None or item.data_location == onnx.TensorProto.EXTERNAL:
            return None
        return np.asarray(numpy_helper.to_array(item))


def _hands_on(node: onnx.NodeProto, name: str) -> bool:
    if node.op_type == "Cast":
        return attribute(node, "to") in _INTEGERS
    return node.op_type in _JOINED or (node.op_type in _HANDED_ON.split() and node.input[0] == name)


def _types(model: onnx.ModelProto) -> Mapping[str, Any]:
    """Type and shape of the tensors, as far as ONNX infers them."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    items: Iterable[Any] = (*graph.input, *graph.value_info, *graph.output)
    return {item.name: item.type.tensor_type for item in items}
