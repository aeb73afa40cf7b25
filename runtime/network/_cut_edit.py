"""A new graph made from an old one, node by node."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from ._graph import Graph, Shape, read_names

__all__ = ["Edit"]


class Edit:
    """Copies of nodes, and for each constant the versions of it that they read.

    Several nodes may read one constant, and each may need another version. Before: the graph that
    is read. After `finish`: a new graph; a constant whose versions are all alike keeps its name.
    """

    def __init__(self, source: Graph) -> None:
        self.source = source
        self.graph = replace(
            source,
            nodes=[],
            constants=dict(source.constants),
            shapes=dict(source.shapes),
            sizes_at_three=dict(source.sizes_at_three),
            dtypes=dict(source.dtypes),
            references={},
        )
        self._versions: dict[str, dict[Hashable, str]] = {}
        self._taken = {*source.constants, *source.producers(), *(i.name for i in source.inputs)}
        self._taken |= {node.name for node in source.nodes}

    def copy(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """A copy of a node to edit; it is not in the graph yet."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        return copy

    def free(self, wanted: str) -> str:
        """A name that nothing has, for a tensor or a node."""
        name, count = wanted, 0
        while name in self._taken:
            count += 1
            name = f"{wanted}.{count}"
        self._taken.add(name)
        return name

    def value(self, node: onnx.NodeProto, place: int) -> NDArray[Any] | None:
        """The constant at an input of a node; `None` if it is absent or no constant."""
        return self.graph.constants.get(node.input[place]) if place < len(node.input) else None

    def put(
        self, node: onnx.NodeProto, place: int, value: NDArray[Any], key: Hashable = None
    ) -> None:
        """Let an input of `node` read another constant.

        `key` says what was done to the old one, where that is shorter than the value itself.
        """
        while len(node.input) <= place:
            node.input.append("")
        base = node.input[place] or f"{node.name}.{place}"
        if key is None:
            key = (value.shape, value.dtype.str, value.tobytes())
        versions = self._versions.setdefault(base, {})
        if key not in versions:
            versions[key] = self.free(base)
            self.graph.constants[versions[key]] = np.array(value, order="C")
        node.input[place] = versions[key]

    def constant(self, wanted: str, value: NDArray[Any]) -> str:
        """Add a constant; return its name."""
        name = self.free(wanted)
        self.graph.constants[name] = value
        return name

    def insert(
        self,
        op: str,
        inputs: list[str],
        output: str,
        shape: Shape,
        *,
        like: str = "",
        axis: int | None = None,
    ) -> str:
        """Add a node of ours that writes `output`, of the type of the tensor `like` or int64."""
        attributes = {} if axis is None else {"axis": axis}
        name = self.free(f"{output}.{op}")
        self.graph.nodes.append(helper.make_node(op, inputs, [output], name, **attributes))
        self.graph.shapes[output] = shape
        self.graph.dtypes[output] = self.graph.dtypes.get(like, np.dtype(np.int64))
        return output

    def finish(self) -> Graph:
        """The new graph, without what nothing reads."""
        graph = self.graph
        graph.remove_dead()
        read = {name for node in graph.nodes for name in read_names(node)}
        names = {}
        for base, versions in self._versions.items():
            live = [name for name in versions.values() if name in graph.constants]
            if live and base not in read and base not in graph.shapes:
                names[live[0]] = base
        graph.constants = {names.get(name, name): v for name, v in graph.constants.items()}
        for node in graph.nodes:
            for place, name in enumerate(node.input):
                if name in names:
                    node.input[place] = names[name]
        return graph
