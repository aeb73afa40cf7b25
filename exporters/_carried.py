"""How many parameters and multiply-adds would go with the units of a group, and with all of them.

A weight of ten rows by six columns, of which two rows and three columns belong to units that go,
keeps 8 · 3 = 24 of its 60 numbers: 36 are carried by these units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod

import numpy as np
import onnx

from ..runtime.network._graph import Graph
from ..runtime.network._layout import Dense, Layout
from ..runtime.network._units import Ids

__all__ = ["Carried", "carried"]


@dataclass(frozen=True)
class Carried:
    """What goes with the units of each group, by its number, and what with all units together."""

    parameters: dict[int, int] = field(default_factory=dict)
    macs: dict[int, int] = field(default_factory=dict)
    all_parameters: int = 0
    all_macs: int = 0


@dataclass(frozen=True)
class _Block:
    """A constant and the work done with it, with the group of each place along some axes."""

    parameters: int
    macs: int
    axes: tuple[Ids, ...]

    def share(self, amount: int, group: int | None = None) -> int:
        """How much of an amount goes with the units of one group, or of all."""
        whole = prod(len(axis) for axis in self.axes)
        gone = [axis >= 0 if group is None else axis == group for axis in self.axes]
        kept = prod(int(np.count_nonzero(~g)) for g in gone)
        return amount - amount * kept // whole

    def groups(self) -> list[int]:
        """The groups that it touches."""
        return [n for n in np.unique(np.concatenate(self.axes)).tolist() if n >= 0]


def carried(
    layout: Layout, group_of: Ids, macs_of: Callable[[Graph, onnx.NodeProto], int]
) -> Carried:
    """Count; `group_of` gives for each unit number a prunable group, or -1."""
    parameters: dict[int, int] = {}
    macs: dict[int, int] = {}
    total = [0, 0]
    for block in _blocks(layout, group_of, macs_of):
        for group in block.groups():
            parameters[group] = parameters.get(group, 0) + block.share(block.parameters, group)
            macs[group] = macs.get(group, 0) + block.share(block.macs, group)
        total[0] += block.share(block.parameters)
        total[1] += block.share(block.macs)
    return Carried(parameters, macs, *total)


def _blocks(
    layout: Layout, group_of: Ids, macs_of: Callable[[Graph, onnx.NodeProto], int]
) -> Iterator[_Block]:
    graph, seen = layout.graph, set[str]()
    weighted = {dense.node.name for dense in layout.dense if dense.kind != "embedding"}
    for dense in layout.dense:
        if dense.kind != "embedding":
            yield from _operator_blocks(layout, dense, group_of, macs_of(graph, dense.node))
            seen.update(dense.parameters(layout.nodes))
    for (node_name, place), axes in layout.cuts.items():
        name = layout.nodes[node_name].input[place]
        value = graph.constants[name]
        if name not in seen and value.dtype.kind == "f" and value.ndim:
            seen.add(name)
            yield _Block(value.size, 0, tuple(group_of[ids] for ids in axes.values()))
    for node in graph.nodes:
        if node.name not in weighted and (work := macs_of(graph, node)):
            ids = layout.ids.get(node.output[0])
            if ids is not None and ids.any():
                yield _Block(0, work, (group_of[ids].reshape(-1),))


def _operator_blocks(layout: Layout, dense: Dense, group_of: Ids, macs: int) -> Iterator[_Block]:
    """Weights, and as many biases as the artifact has, which gives one to every operator."""
    graph, node = layout.graph, dense.node
    rows = group_of[dense.writes]
    columns = () if dense.in_axis is None else (group_of[dense.reads],)
    size = graph.constants[node.input[1]].size
    if dense.kind != "recurrent":
        yield _Block(size, macs, (rows, *columns))
        yield _Block(len(rows), 0, (rows,))
        return
    recurrence = graph.constants[node.input[2]]
    outer = macs * size // (size + recurrence.size)
    yield _Block(size, outer, (rows, *columns))
    yield _Block(recurrence.size, macs - outer, (rows, rows))
    yield _Block(2 * recurrence.shape[0] * recurrence.shape[1], 0, (rows,))
