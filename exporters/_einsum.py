"""Products of two tensors that stand in another way, as the MatMul or Conv that they are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from ..runtime.network._graph import Graph, attribute
from ._structures import note_like

__all__ = ["einsums_to_matmuls", "plain_matmuls"]

_EQUATION = re.compile(r"([A-Za-z]+),([A-Za-z]+)->([A-Za-z]*)")


@dataclass(frozen=True)
class _Roles:
    """What the letters of ``bhqd,bhkd->bhqk`` do: b and h are walked through, d is summed over."""

    batch: str
    rows: str
    inner: str
    columns: str
    output: str


def einsums_to_matmuls(graph: Graph) -> bool:
    """After: an Einsum that is a product of two matrices, or of stacks of them, is a MatMul."""
    made = {id(n): _matmul(graph, n) for n in graph.nodes if n.op_type == "Einsum"}
    graph.nodes = [each for node in graph.nodes for each in made.get(id(node)) or [node]]
    return any(made.values())


def plain_matmuls(graph: Graph) -> bool:
    """After: a MatMul by one constant matrix has it on the right and without axes of size one.

    ``W @ x`` works on the last axis but one. What is (batch, in, places) a convolution of width
    one reads as it is; where more axes stand in front, or none, x is turned and turned back.
    """
    made = {id(n): _plain_matmul(graph, n) for n in graph.nodes if n.op_type == "MatMul"}
    graph.nodes = [each for node in graph.nodes for each in made.get(id(node)) or [node]]
    return any(made.values())


def _plain_matmul(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """The nodes in place of a MatMul; `None` if it may stay."""
    left = node.input[0] in graph.constants
    name, other = node.input if left else reversed(node.input)
    if name not in graph.constants or not {other, node.output[0]} <= graph.shapes.keys():
        return None
    value, rank = graph.constants[name], len(graph.shapes[other])
    shape = value.shape[-2:]
    one = 2 <= value.ndim <= rank and value.size == shape[0] * shape[1]
    if not one or value.dtype != np.float32:
        return None
    if not left:
        if value.ndim > 2:
            node.input[1] = _rearranged(graph, name, value.reshape(shape))
        return None
    if rank == 3:
        kernel = _rearranged(graph, name, value.reshape(*shape, 1))
        return [helper.make_node("Conv", [other, kernel], node.output, node.name)]
    matrix = _rearranged(graph, name, value.reshape(shape))
    front = "abcdefgh"[: rank - 2]
    factors = [(other, f"{front}in"), (matrix, "oi")]
    return _product(graph, node, factors, f"{front}on")


def _rearranged(graph: Graph, name: str, value: NDArray[Any]) -> str:
    """A constant of the source in another arrangement, under a name of its own."""
    moved = graph.unique(f"{name}.moved")
    graph.constants[moved] = np.ascontiguousarray(value)
    graph.origins[moved] = graph.origins.get(name, name)
    return moved


def _roles(left: str, right: str, output: str) -> _Roles | None:
    """The letters by what they do; `None` if it is another kind of sum."""
    if any(len(set(part)) != len(part) for part in (left, right, output)):
        return None
    batch = "".join(letter for letter in output if letter in left and letter in right)
    rows = "".join(letter for letter in left if letter not in right)
    columns = "".join(letter for letter in right if letter not in left)
    inner = "".join(letter for letter in left if letter in right and letter not in output)
    # A matrix without batch multiplies what has any number of axes before its last.
    plain = len(inner) == len(columns) == 1 and (len(rows) == 1 or (rows and not batch))
    kept = set(output) == set(batch + rows + columns)
    return _Roles(batch, rows, inner, columns, output) if plain and kept else None


def _matmul(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """The nodes in place of an Einsum of two tensors of known shape."""
    match = _EQUATION.fullmatch(attribute(node, "equation", "").replace(" ", ""))
    known = all(n in graph.shapes or n in graph.constants for n in (*node.input, *node.output))
    if match is None or not known:
        return None
    factors = list(zip(node.input, match.groups(), strict=False))
    if node.input[0] in graph.constants:  # weights stand on the right of a MatMul
        factors.reverse()
    return _product(graph, node, factors, match[3])


def _product(
    graph: Graph, node: onnx.NodeProto, factors: list[tuple[str, str]], output: str
) -> list[onnx.NodeProto] | None:
    """The nodes in place of a product of two tensors, each with the letters of its axes."""
    (first, left), (second, right) = factors
    roles = _roles(left, right, output)
    if roles is None:
        return None
    build = _Builder(graph, node)
    first = build.ordered(first, left, roles.batch + roles.rows + roles.inner)
    second = build.ordered(second, right, roles.batch + roles.inner + roles.columns)
    order = roles.batch + roles.rows + roles.columns
    build.multiply(first, second, order, roles.output)
    return build.nodes


class _Builder:
    """Collects the nodes that stand in for one, and notes the shapes of what they write."""

    def __init__(self, graph: Graph, node: onnx.NodeProto) -> None:
        self._graph = graph
        self._node = node
        self.nodes: list[onnx.NodeProto] = []

    def ordered(self, name: str, letters: str, wanted: str) -> str:
        """A tensor with its axes in another order."""
        if letters == wanted:
            return name
        order = [letters.index(letter) for letter in wanted]
        graph = self._graph
        if name in graph.constants:
            return _rearranged(graph, name, graph.constants[name].transpose(order))
        moved = graph.unique(f"{self._node.output[0]}.moved")
        note_like(graph, moved, name, order)
        self._add("Transpose", [name], moved, perm=order)
        return moved

    def multiply(self, first: str, second: str, letters: str, wanted: str) -> None:
        """The product, with its axes in the order of the Einsum."""
        output = self._node.output[0]
        if letters == wanted:
            self._add("MatMul", [first, second], output)
            return
        product = self._graph.unique(f"{output}.product")
        note_like(self._graph, product, output, [wanted.index(letter) for letter in letters])
        self._add("MatMul", [first, second], product)
        self._add("Transpose", [product], output, perm=[letters.index(letter) for letter in wanted])

    def _add(self, op: str, inputs: list[str], output: str, **attributes: list[int]) -> None:
        # The product keeps the name, by which the group that it begins is known.
        part = "" if op == "MatMul" else f".{len(self.nodes)}"
        name = self._node.name and f"{self._node.name}{part}"
        self.nodes.append(helper.make_node(op, inputs, [output], name, **attributes))
