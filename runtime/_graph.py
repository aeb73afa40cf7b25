"""Cutting a model into pieces: sub-models, cut points and probes.

A position ``p`` is an index into `Graph.nodes`, the nodes on the path of the data (those that
compute effective weights are left out: they ride along with their operators). The cut at ``p``
stands before node ``p``; `Graph.live` names the tensors that must be known there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ._external import left_in_files
from ._fold import folded, outside
from ._narrow import NarrowPath, narrow_paths, narrowed
from ._ort import give_back, make_session
from .artifact import Artifact, Operator
from .network._graph import read_names

__all__ = ["Graph"]

WEIGHT_NODE = "edgeprune/"
_FLOAT_BYTES = 4
_LARGE_BYTES = 4_000_000  # of weights: what building a session leaves of them is worth returning
_AXES_ARE_AN_INPUT = 18  # of ReduceMean, from this operator set on


class Graph:
    """The data path of an artifact's graph, with the shapes of its tensors."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.model = artifact.model
        graph = self.model.graph
        self.nodes = [node for node in graph.node if not node.name.startswith(WEIGHT_NODE)]
        self.input = artifact.info.input_name
        self.output = artifact.info.output_name
        self._producer = {
            name: place for place, node in enumerate(graph.node) for name in node.output if name
        }
        self._position = {
            name: index for index, node in enumerate(self.nodes) for name in node.output
        }
        self._named = {node.name: index for index, node in enumerate(self.nodes)}
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}

    @cached_property
    def _values(self) -> dict[str, Any]:
        graph = onnx.shape_inference.infer_shapes(self.model, data_prop=True).graph
        values = (*graph.input, *graph.value_info, *graph.output)
        return {value.name: value.type.tensor_type for value in values}

    @cached_property
    def shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Shapes of the tensors on the data path, as far as they can be inferred."""
        return {
            name: tuple(dim.dim_value or None for dim in kind.shape.dim)
            for name, kind in self._values.items()
            if kind.HasField("shape")
        }

    def produced_at(self, tensor: str) -> int:
        """Position of the node that writes `tensor`; -1 for the network's input."""
        return self._position.get(tensor, -1)

    def consumed_at(self, operator: Operator) -> int:
        """Position of the node of `operator`."""
        return self._named[operator.name]

    def live(self, position: int) -> tuple[str, ...]:
        """Tensors that the nodes from `position` on need and earlier ones have made."""
        known = ((self.input, -1), *self._position.items())
        return tuple(n for n, made in known if made < position <= self._last_read.get(n, -1))

    @cached_property
    def _last_read(self) -> dict[str, int]:
        """Position of the last node that reads a tensor; the output is read after all of them."""
        read = {name: at for at, node in enumerate(self.nodes) for name in read_names(node)}
        return read | {self.output: len(self.nodes)}

    def largest_step_bytes(self) -> int:
        """Bytes that one sample's largest node reads and writes, as far as shapes are known."""
        sizes = {name: self._sample_bytes(name) or 0 for name in self.shapes}
        return max(
            sum(sizes.get(name, 0) for name in (*node.input, *node.output)) for node in self.nodes
        )

    def _sample_bytes(self, name: str) -> int | None:
        shape = self.shapes.get(name)
        sizes = [size for size in (shape or ())[1:] if size is not None]
        if shape is None or len(sizes) < len(shape) - 1:
            return None
        return _FLOAT_BYTES * math.prod(sizes)

    def live_bytes(self, position: int) -> int | None:
        """Bytes of one sample's live tensors at `position`; None where a shape is unknown."""
        total = 0
        for name in self.live(position):
            size = self._sample_bytes(name)
            if size is None:
                return None
            total += size
        return total

    def session(
        self,
        feeds: Sequence[str],
        outputs: Sequence[str],
        tensors: Mapping[str, NDArray[Any]],
        threads: int,
        extra: Sequence[Any] = (),
        *,
        masks: Mapping[str, NDArray[np.bool_]] | None = None,
    ) -> Any:
        """A session of the part of the model that computes `outputs` from `feeds`.

        `tensors` are the network's external tensors; those that the part does not read are ignored.
        `extra` are nodes that read the model's tensors and make some of the `outputs`. Of groups
        with `masks`, which must be in force in `tensors`, pruned units are left out where that
        changes nothing: see `runtime._narrow`.
        """
        graph = self._part(feeds, outputs, extra)
        graph, given = self._folded(graph, tensors, masks or {})
        folder = self.artifact.path.parent.resolve()
        handed = left_in_files(graph.initializer, given, folder)
        model = helper.make_model(
            graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version
        )
        serialised = model.SerializeToString()
        session = make_session(serialised, handed, threads=threads, folder=folder, brief=True)
        if sum(value.nbytes for value in given.values()) > _LARGE_BYTES:
            give_back(given.values())
        return session

    @cached_property
    def narrow_paths(self) -> Mapping[str, NarrowPath]:
        """What the units of those groups run through of which parts can leave some out."""
        scalars = [t.name for t in self._initializers.values() if math.prod(t.dims) == 1]
        return narrow_paths(self.artifact.info, self.nodes, scalars)

    def mean_nodes(self, tensor: str, channel_axis: int) -> tuple[str, list[Any]]:
        """Nodes that average a tensor over its positions, and the name of what they make.

        GlobalAveragePool stays inside ONNX Runtime's blocked layout. A tensor without positions is
        its own mean.
        """
        rank = len(self.shapes[tensor])
        if rank <= 2:
            return tensor, []
        name = f"edgeprune.mean.{tensor}"
        if channel_axis == 1:
            return name, [helper.make_node("GlobalAveragePool", [tensor], [name])]
        axes = list(range(1, rank - 1))
        opset = {entry.domain: entry.version for entry in self.model.opset_import}[""]
        if opset < _AXES_ARE_AN_INPUT:
            return name, [helper.make_node("ReduceMean", [tensor], [name], axes=axes)]
        given = helper.make_node("Constant", [], [f"{name}.axes"], value_ints=axes)
        return name, [given, helper.make_node("ReduceMean", [tensor, f"{name}.axes"], [name])]

    def picked_nodes(self, tensor: str, channel_axis: int, limit: int) -> tuple[str, list[Any]]:
        """Nodes that pick at least `limit` positions of a tensor, on a grid, and what they make.

        A depthwise convolution with a single 1 in its kernel stays inside ONNX Runtime's blocked
        layout, so that only what was picked has to leave it. Tensors of fewer positions, of unknown
        shape, or with their channels last come whole.
        """
        shape = self.shapes.get(tensor, ())
        sizes = [size or 0 for size in shape[2:]]
        channels = shape[1] if len(shape) > 2 else None
        step = _grid_step(sizes, limit) if channel_axis == 1 and channels else 1
        if step == 1:
            return tensor, []
        name, spatial = f"edgeprune.picked.{tensor}", len(sizes)
        kernel = np.zeros((channels or 0, 1, 2**spatial), np.float32)
        kernel[..., -1] = 1.0  # the corner that is half a step away
        kernel = kernel.reshape(-1, 1, *[2] * spatial)
        value = onnx.numpy_helper.from_array(kernel)
        return name, [
            helper.make_node("Constant", [], [f"{name}.kernel"], value=value),
            helper.make_node(
                "Conv",
                [tensor, f"{name}.kernel"],
                [name],
                group=channels,
                kernel_shape=[2] * spatial,
                dilations=[step // 2] * spatial,
                strides=[step] * spatial,
            ),
        ]

    def _folded(
        self,
        graph: Any,
        tensors: Mapping[str, NDArray[Any]],
        masks: Mapping[str, NDArray[np.bool_]],
    ) -> tuple[Any, dict[str, NDArray[Any]]]:
        """A part with effective weights in place of what makes them, and all that it reads."""
        weights = [node for node in graph.node if node.name.startswith(WEIGHT_NODE)]
        rest = [node for node in graph.node if not node.name.startswith(WEIGHT_NODE)]
        names = [tensor.name for tensor in graph.initializer]
        known = self._constants | {name: tensors[name] for name in names if name in tensors}
        left, made = folded(weights, known)
        paths = [
            (self.narrow_paths[g], mask) for g, mask in masks.items() if g in self.narrow_paths
        ]
        ends = {value.name for value in (*graph.input, *graph.output)}
        rest, made = narrowed(rest, made, paths, ends)
        read = {name for node in (*left, *rest) for name in read_names(node)}
        read.update(value.name for value in graph.output)
        stay = [tensor for tensor in graph.initializer if tensor.name in read]
        made = {name: value for name, value in made.items() if name in read}
        initializers = [*stay, *(outside(name, value) for name, value in made.items())]
        nodes = [*left, *rest]  # weight expressions read nothing from the path of the data
        part = helper.make_graph(nodes, graph.name, graph.input, graph.output, initializers)
        return part, {t.name: tensors[t.name] for t in stay if t.name in tensors} | made

    @cached_property
    def _constants(self) -> dict[str, NDArray[Any]]:
        """What weight expressions read inside the model: shapes and places."""
        weights = (n for n in self.model.graph.node if n.name.startswith(WEIGHT_NODE))
        read = {name for node in weights for name in node.input}
        return {
            name: onnx.numpy_helper.to_array(tensor)
            for name, tensor in self._initializers.items()
            if name in read and tensor.data_location != TensorProto.EXTERNAL
        }

    def _part(self, feeds: Sequence[str], outputs: Sequence[str], extra: Sequence[Any]) -> Any:
        made = {name for node in extra for name in node.output}
        wanted = [name for name in outputs if name not in made]
        needed = self._needed([*wanted, *(n for node in extra for n in node.input)], set(feeds))
        nodes = [self.model.graph.node[place] for place in sorted(needed)]
        used = {name for node in nodes for name in read_names(node)}
        return helper.make_graph(
            [*nodes, *extra],
            "edgeprune",
            [self._value(name) for name in feeds],
            [self._value(name) for name in dict.fromkeys(outputs)],
            [tensor for name, tensor in self._initializers.items() if name in used],
        )

    def _needed(self, wanted: Iterable[str], known: set[str]) -> set[int]:
        """Places of all nodes that must run to make `wanted` from `known`."""
        needed: set[int] = set()
        stack = list(wanted)
        while stack:
            name = stack.pop()
            place = self._producer.get(name)
            if name in known or place is None or place in needed:
                continue
            needed.add(place)
            stack.extend(read_names(self.model.graph.node[place]))
        return needed

    def _value(self, name: str) -> Any:
        shape = self.shapes.get(name)
        kind = self._values[name].elem_type if name in self._values else TensorProto.FLOAT
        dims = None if shape is None else list(shape)
        return helper.make_tensor_value_info(name, kind or TensorProto.FLOAT, dims)


def _grid_step(sizes: Sequence[int], limit: int) -> int:
    """The widest step of a grid, half a step from the border, that has `limit` points; 1 if none.

    What is shorter than a step in one direction (a spectrogram's bands) keeps the step small.
    """
    step = 1
    while math.prod(_points(size, step + 1) for size in sizes) >= limit:
        step += 1
    return step


def _points(size: int, step: int) -> int:
    return max(0, (size - 1 - step // 2) // step + 1)
