"""Reading of a serialised ONNX model only what opening an artifact needs.

To parse a model with the onnx package takes that package: three times as long to import as ONNX
Runtime itself takes to start. Here are the few fields that are wanted (the names in the grammar are
those of onnx.proto3), found by the wire format of Protocol Buffers; everything else is skipped
over. What runs the model parses all of it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

__all__ = ["Tensor", "WireModel", "read_model"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}
_LONGEST_VARINT = 10
_MODEL_GRAPH, _MODEL_METADATA = 7, 14
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_DIMS, _DATA_TYPE, _INT64_DATA, _NAME, _RAW, _EXTERNAL = 1, 2, 7, 8, 9, 13
_KEY, _VALUE = 1, 2
_SIGN, _RANGE = 1 << 63, 1 << 64


@dataclass(frozen=True)
class Tensor:
    """An initializer: where it stands outside the graph, or its bytes.

    ``integers`` are its values where they are written one by one.
    """

    name: str
    dims: tuple[int, ...]
    data_type: int
    external: Mapping[str, str]
    raw: memoryview
    integers: tuple[int, ...]


@dataclass(frozen=True)
class WireModel:
    """What of a model was read: whether it has a graph of nodes, initializers and metadata."""

    has_nodes: bool
    initializers: tuple[Tensor, ...]
    metadata: Mapping[str, str]


def read_model(data: bytes) -> WireModel:
    """Read the initializers and the metadata of a serialised ``ModelProto``.

    Raises:
        ValueError: the bytes are no such thing.
    """
    metadata: dict[str, str] = {}
    tensors: list[Tensor] = []
    has_nodes = False
    for number, value in _fields(memoryview(data)):
        if number == _MODEL_METADATA:
            key, text = _pair(_message(value))
            metadata[key] = text
        elif number == _MODEL_GRAPH:
            for inner, part in _fields(_message(value)):
                has_nodes |= inner == _GRAPH_NODE
                if inner == _GRAPH_INITIALIZER:
                    tensors.append(_tensor(_message(part)))
    return WireModel(has_nodes, tuple(tensors), metadata)


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of every field of a message; ValueError where it is none."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            raise ValueError(f"a field of wire type {kind}")
        if not tag >> 3 or size > end - at:
            raise ValueError("a field that does not fit")
        yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    if at < len(data) and data[at] < 0x80:
        return data[at], at + 1  # most are one byte
    value = shift = 0
    for place in range(at, min(at + _LONGEST_VARINT, len(data))):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
        shift += 7
    raise ValueError("a number without an end")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message belongs")
    return value


def _pair(data: memoryview) -> tuple[str, str]:
    texts = {_KEY: "", _VALUE: ""}
    for number, value in _fields(data):
        if number in texts:
            texts[number] = str(_message(value), "utf-8")
    return texts[_KEY], texts[_VALUE]


def _tensor(data: memoryview) -> Tensor:
    name, kind, raw = "", 0, memoryview(b"")
    dims: list[int] = []
    integers: list[int] = []
    external: list[tuple[str, str]] = []
    for number, value in _fields(data):
        if number == _DIMS:
            dims += _integers(value)
        elif number == _INT64_DATA:
            integers += _integers(value)
        elif number == _DATA_TYPE and isinstance(value, int):
            kind = value
        elif number == _NAME:
            name = str(_message(value), "utf-8")
        elif number == _RAW:
            raw = _message(value)
        elif number == _EXTERNAL:
            external.append(_pair(_message(value)))
    return Tensor(name, tuple(dims), kind, dict(external), raw, tuple(integers))


def _integers(value: int | memoryview) -> list[int]:
    """Signed 64-bit numbers: one, or several packed together."""
    found = []
    if isinstance(value, int):
        found.append(value)
    else:
        at = 0
        while at < len(value):
            number, at = _varint(value, at)
            found.append(number)
    return [number - _RANGE if number & _SIGN else number for number in found]
