"""Shapes of every tensor for one sample, found by running the graph with two batch sizes.

Running is what shape inference would have to agree with: it also knows the shapes that an exporter
computes at run time (Shape, Gather, Concat, Reshape), where symbolic inference gives up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ..errors import ExportError
from ._graph import Graph, Shape, inferred_types, subgraphs
from ._session import random_feeds, run_tensors

__all__ = ["infer_shapes"]


def infer_shapes(graph: Graph) -> None:
    """After: the graph knows shape and type of every activation.

    What is computed from shapes alone and does not depend on the batch has become constant. A
    network that was made for one batch keeps it as a fixed size, unless it runs with others and
    each of its outputs has the batch in front.

    Raises:
        ExportError: the network does not run.
    """
    fixed = graph.fixed_batch
    if fixed is None:
        _infer(graph, (2, 3))
        return
    before = [_copy(node) for node in graph.nodes], dict(graph.constants)
    with contextlib.suppress(ExportError):
        _infer(graph, (2, 3))
        if _batch_in_front(graph):
            return
    graph.nodes, graph.constants = before
    graph.inputs = [
        replace(item, shape=tuple(fixed if size is None else size for size in item.shape))
        for item in graph.inputs
    ]
    _infer(graph, (fixed, fixed))


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def _batch_in_front(graph: Graph) -> bool:
    return all(graph.shapes.get(name, ())[:1] == (None,) for name in graph.outputs)


def _infer(graph: Graph, batch_sizes: tuple[int, int]) -> None:
    names = [name for node in graph.nodes for name in node.output if name]
    unsure = _sized_by_values(graph)
    sized = _computed_from_shapes(graph, unsure)
    types = _tensor_types(graph)
    two, three = (_run(graph, types, set(sized), batch) for batch in batch_sizes)
    graph.shapes = {item.name: item.shape for item in graph.inputs}
    graph.sizes_at_three = {
        item.name: tuple(batch_sizes[1] if size is None else size for size in item.shape)
        for item in graph.inputs
    }
    for name in names:
        shape = _merge(two.sizes[name], three.sizes[name])
        if shape is not None and name not in unsure:
            graph.shapes[name] = shape
            graph.sizes_at_three[name] = three.sizes[name]
            graph.dtypes[name] = three.dtypes[name]
    fixed = {n: two.values[n] for n in sized if np.array_equal(two.values[n], three.values[n])}
    _make_constant(graph, fixed)
    graph.remove_dead()


_OUTPUT_BY_VALUES = frozenset(
    ["NonZero", "Unique", "Compress", "NonMaxSuppression", "If", "Loop", "Scan", "SequenceMap"]
)
_SIZES_AT = {
    **dict.fromkeys(("ConstantOfShape", "HannWindow", "HammingWindow", "BlackmanWindow"), (0,)),
    **dict.fromkeys(("Reshape", "Expand", "Tile", "Pad", "TopK", "OneHot", "Upsample"), (1,)),
    **dict.fromkeys(("Split", "CenterCropPad", "AffineGrid", "Squeeze", "Unsqueeze"), (1,)),
    **dict.fromkeys(("SplitToSequence", "SequenceAt", "DFT"), (1,)),
    **dict.fromkeys(("Range", "MelWeightMatrix"), (0, 1, 2)),
    "Slice": (1, 2, 3, 4),
    "Resize": (1, 2, 3),
    "Col2Im": (1, 2),
    "MaxUnpool": (2,),
    "STFT": (1, 3),
}
"""Inputs whose values say how large the output is."""


def _sized_by_values(graph: Graph) -> set[str]:
    """Tensors whose sizes depend on values: two runs say nothing about the third."""
    sure = _inferred(graph) if any(subgraphs(node) for node in graph.nodes) else set[str]()
    by_sizes: set[str] = set()
    unsure: set[str] = set()
    for node in graph.nodes:
        activations = graph.activations(node)
        places = _SIZES_AT.get(node.op_type, ())
        asked = {node.input[place] for place in places if place < len(node.input)} - {""}
        told = all(name in by_sizes or name in graph.constants for name in asked)
        outputs = [name for name in node.output if name]
        if sure.issuperset(outputs) and subgraphs(node):
            continue
        if node.op_type in _OUTPUT_BY_VALUES or not told or not unsure.isdisjoint(activations):
            unsure.update(outputs)
        elif node.op_type == "Shape" or (activations and by_sizes.issuperset(activations)):
            by_sizes.update(outputs)
    return unsure


def _inferred(graph: Graph) -> set[str]:
    """Tensors whose sizes, apart from the batch, follow from the operators whatever the values."""
    return {
        name
        for name, kind in inferred_types(graph).items()
        if kind.tensor_type.HasField("shape")
        and all(dim.dim_value or dim.dim_param == "batch" for dim in kind.tensor_type.shape.dim)
    }


def _computed_from_shapes(graph: Graph, unsure: set[str]) -> list[str]:
    """Tensors that depend on sizes only, never on values."""
    found: dict[str, None] = {}
    for node in graph.nodes:
        activations = graph.activations(node)
        by_sizes = node.op_type == "Shape" or (activations and found.keys() >= set(activations))
        if by_sizes and unsure.isdisjoint(node.output):
            found |= dict.fromkeys(name for name in node.output if name)
    return list(found)


@dataclass
class _Seen:
    """Sizes and types of all tensors, values of a few."""

    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[str, np.dtype[Any]] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, value: Any) -> None:
        """Note a tensor that was computed."""
        if isinstance(value, np.ndarray):
            self.sizes[name], self.dtypes[name] = value.shape, value.dtype
        else:  # a sequence or an optional: no rule reads it
            self.sizes[name], self.dtypes[name] = (-1,), np.dtype(object)
        self.values[name] = value


def _run(graph: Graph, types: Mapping[str, np.dtype[Any]], kept: set[str], batch: int) -> _Seen:
    """Run once; of tensors whose type is known only the sizes are kept, which takes no memory."""
    names = [name for node in graph.nodes for name in node.output if name]
    sized = {
        f"edgeprune.sizes.{name}": name for name in names if name in types and name not in kept
    }
    whole = [name for name in names if name not in types or name in kept]
    asked = [helper.make_node("Shape", [name], [size]) for size, name in sized.items()]
    feeds = random_feeds(graph.inputs, batch, seed=0)
    found = run_tensors(graph, [*sized, *whole], feeds, asked)
    seen = _Seen()
    for name in whole:
        seen.add(name, found[name])
    for size, name in sized.items():
        seen.sizes[name], seen.dtypes[name] = tuple(found[size].tolist()), types[name]
    return seen


def _tensor_types(graph: Graph) -> dict[str, np.dtype[Any]]:
    """Types of the tensors, as far as ONNX infers them."""
    kinds = {name: kind.tensor_type.elem_type for name, kind in inferred_types(graph).items()}
    return {name: helper.tensor_dtype_to_np_dtype(kind) for name, kind in kinds.items() if kind}


def _make_constant(graph: Graph, values: Mapping[str, Any]) -> None:
    """Detach tensors from the nodes that compute them; dead code removal does the rest."""
    for node in graph.nodes:
        if any(name in values for name in node.output):
            graph.note_origin(node)
        for place, name in enumerate(node.output):
            if name in values and name not in graph.outputs:
                graph.constants[name] = np.asarray(values[name])
                node.output[place] = graph.unique(f"{name}.computed")


def _merge(two: tuple[int, ...], three: tuple[int, ...]) -> Shape | None:
    """The shape that is `two` at batch 2 and `three` at batch 3; `None` if no such form."""
    if len(two) != len(three) or -1 in two:
        return None
    return tuple(a if a == b else None for a, b in zip(two, three, strict=True))
