"""Shapes of every tensor for one sample, found by running the graph with two batch sizes.

Running is what shape inference would have to agree with: it also knows the shapes that an exporter
computes at run time (Shape, Gather, Concat, Reshape), where symbolic inference gives up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ._graph import Graph, Shape
from ._session import run_tensors

__all__ = ["infer_shapes"]


def infer_shapes(graph: Graph) -> None:
    """After: `graph.shapes` holds every activation whose shape is the batch and fixed sizes.

    What is computed from shapes alone and does not depend on the batch has become constant.
    """
    names = [name for node in graph.nodes for name in node.output if name]
    sized = _computed_from_shapes(graph)
    two, three = (_run(graph, names, sized, batch) for batch in (2, 3))
    graph.shapes = {graph.input: graph.input_shape}
    for name in names:
        shape = _merge(two[0][name], three[0][name])
        if shape is not None:
            graph.shapes[name] = shape
    for name in sized:
        if np.array_equal(two[1][name], three[1][name]) and name != graph.output:
            _make_constant(graph, name, two[1][name])
    graph.remove_dead()


def _computed_from_shapes(graph: Graph) -> list[str]:
    """Tensors that depend on sizes only, never on values."""
    found: list[str] = []
    for node in graph.nodes:
        activations = graph.activations(node)
        if node.op_type == "Shape" or (activations and set(activations) <= set(found)):
            found += [name for name in node.output if name]
    return found


def _run(
    graph: Graph, names: list[str], kept: list[str], batch: int
) -> tuple[Mapping[str, tuple[int, ...]], Mapping[str, Any]]:
    """Shapes of all tensors and values of a few, for a batch of this size."""
    sizes = [size or batch for size in graph.input_shape]
    values = np.random.default_rng(0).standard_normal(sizes, np.float32)
    tensors = run_tensors(graph, names, values)
    return {n: np.shape(tensors[n]) for n in names}, {n: tensors[n] for n in kept}


def _make_constant(graph: Graph, name: str, value: Any) -> None:
    """Detach a tensor from the node that computes it; dead code removal does the rest."""
    graph.constants[name] = np.asarray(value)
    producer = graph.producers()[name]
    place = list(producer.output).index(name)
    producer.output[place] = graph.unique(f"{name}.computed")


def _merge(two: tuple[int, ...], three: tuple[int, ...]) -> Shape | None:
    """The shape that is `two` at batch 2 and `three` at batch 3; `None` if no such form."""
    if len(two) != len(three):
        return None
    if two[:1] == (2,) and three[:1] == (3,) and two[1:] == three[1:]:
        return (None, *two[1:])
    return two if two == three else None
