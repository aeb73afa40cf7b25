"""From units to channel groups and operators, as the metadata of the artifact lists them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from ..runtime.artifact import ONES, ChannelGroup, Member, Operator, Reference
from ..runtime.network._cost import node_macs
from ..runtime.network._graph import Graph
from ..runtime.network._layout import Dense, Join, Layout
from ..runtime.network._rules import GATES, LINEAR
from ..runtime.network._units import Ids, compressed
from ._carried import carried
from ._refused import refused_groups

__all__ = ["ONES", "Plan", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """What the artifact will hold: groups, operators, and where an index is needed, the index.

    ``dense`` gives for each operator the analysis of its node.
    """

    groups: tuple[ChannelGroup, ...]
    operators: tuple[Operator, ...]
    index: Mapping[str, NDArray[np.int64]]
    dense: Mapping[str, Dense] = field(default_factory=dict)
    prunable_parameters: int = 0
    prunable_macs: int = 0


@dataclass
class _Group:
    """A group in the making: operators that write it, and the roots of its units."""

    producers: list[Dense]
    units: Ids
    frozen: str | None
    consumers: list[Dense] = field(default_factory=list)
    between: dict[str, Join] = field(default_factory=dict)
    added: bool = False
    nonlinear: bool = False

    @property
    def name(self) -> str:
        """Name of the first producer."""
        return str(self.producers[0].node.name)


@dataclass
class _Tables:
    """For each unit number its group and its place there; -1 where it cannot be pruned."""

    layout: Layout
    groups: list[_Group]
    group_of: Ids
    unit_of: Ids

    def prunable(self) -> Ids:
        """For each unit number the prunable group that it belongs to, or -1."""
        frozen = np.array([group.frozen is not None for group in self.groups] + [True])
        return np.where(frozen[self.group_of], -1, self.group_of)

    def touched(self, ids: Ids) -> list[int]:
        """Groups that some of these channels belong to, in the order in which they come."""
        numbers = self.group_of[np.asarray(ids).reshape(-1)]
        return [int(n) for n in dict.fromkeys(numbers.tolist()) if n >= 0]

    def places(self, ids: Ids) -> tuple[tuple[str, ...], NDArray[np.int64] | None]:
        """The groups of some channels, one after the other, and where each channel stands there.

        The place is None where the channels are the groups' units in order.
        """
        numbers = self.group_of[ids]
        alive = [n for n in self.touched(ids) if self.groups[n].frozen is None]
        if not alive:
            return (), None
        names, places, offset = [self.groups[n].name for n in alive], np.full(len(ids), -1), 0
        for number in alive:
            mine = numbers == number
            places[mine] = offset + self.unit_of[ids[mine]]
            offset += len(self.groups[number].units)
        if (places < 0).any():
            names.append(ONES)
            places[places < 0] = offset
            offset += 1
        plain = offset == len(places) and np.array_equal(places, np.arange(offset))
        return tuple(names), None if plain else places.astype(np.int64)


def make_plan(layout: Layout) -> Plan:
    """Before: the analysis is complete and nodes are named."""
    groups = _components(layout)
    tables = _tables(layout, groups)
    _add_members(tables)
    _note_kinds(tables)
    operators, index = [], {}
    for dense in layout.dense:
        if dense.kind == "embedding":
            continue
        operator, places = _operator(tables, dense)
        operators.append(operator)
        if places is not None:
            index[operator.name] = places
    count = carried(layout, tables.prunable(), node_macs)
    finished = [
        _finished(layout, group, count.parameters.get(number, 0), count.macs.get(number, 0))
        for number, group in enumerate(groups)
    ]
    return Plan(
        (*finished, *refused_groups(layout)),
        tuple(operators),
        index,
        {dense.node.name: dense for dense in layout.dense if dense.kind != "embedding"},
        count.all_parameters,
        count.all_macs,
    )


def _components(layout: Layout) -> list[_Group]:
    """Producers whose units are tied together, in the order of their first producer."""
    producers = [dense for dense in layout.dense if dense.kind != "grouped" and dense.writes.size]
    above = list(range(len(producers)))
    owner: dict[int, int] = {}

    def top(p: int) -> int:
        while above[p] != p:
            above[p] = above[above[p]]
            p = above[p]
        return p

    for p, dense in enumerate(producers):
        for root in _roots(layout, dense.writes).tolist():
            low, high = sorted((top(p), top(owner.setdefault(root, p))))
            above[high] = low
    sets: dict[int, list[Dense]] = {}
    for p, dense in enumerate(producers):
        sets.setdefault(top(p), []).append(dense)
    return [_component(layout, members) for members in sets.values()]


def _roots(layout: Layout, ids: Ids) -> Ids:
    """The classes that some channels belong to; a single channel belongs to none."""
    roots = np.unique(layout.units.roots(ids))
    return roots[roots > 0]


def _component(layout: Layout, producers: list[Dense]) -> _Group:
    rows = np.concatenate([dense.writes for dense in producers])
    roots, alive = _roots(layout, rows), np.unique(layout.resolved(rows))
    alive = alive[alive > 0]
    if len(alive) >= 2:
        return _Group(producers, alive, None)
    reasons = [layout.frozen[root] for root in roots.tolist() if root in layout.frozen]
    return _Group(producers, roots, reasons[0] if reasons else "it has one unit")


def _tables(layout: Layout, groups: list[_Group]) -> _Tables:
    count = len(layout.units)
    group_of, unit_of = np.full(count, -1), np.full(count, -1)
    for number, group in enumerate(groups):
        group_of[group.units] = number
        unit_of[group.units] = np.arange(len(group.units))
    roots = layout.units.roots(np.arange(count))
    return _Tables(layout, groups, group_of[roots], unit_of[roots])


def _add_members(tables: _Tables) -> None:
    groups, layout = tables.groups, tables.layout
    for step in layout.passed:
        for number in tables.touched(step.ids):
            groups[number].between[step.node.name] = step
    for dense in layout.dense:
        for number in [] if dense.kind == "grouped" else tables.touched(dense.reads):
            groups[number].consumers.append(dense)
    for group in groups:
        recurrent = any(dense.kind == "recurrent" for dense in group.producers)
        if not group.consumers and not recurrent:
            group.frozen = group.frozen or "no dense operator reads it"


def _note_kinds(tables: _Tables) -> None:
    for join in tables.layout.joins:
        gates = join.node.op_type in GATES
        for number in tables.touched(join.ids):
            tables.groups[number].nonlinear |= gates
            tables.groups[number].added |= not gates
    for group in tables.groups:
        group.nonlinear |= any(_nonlinear(step.node) for step in group.between.values())


def _nonlinear(node: onnx.NodeProto) -> bool:
    # Mul and Div by a constant are linear; those of two activations were seen as joins. So is a
    # product in which one factor has the units: it mixes positions, as single-head attention does.
    return node.op_type not in LINEAR and node.op_type not in ("Mul", "Div", "MatMul")


def _kind(
    layout: Layout, group: _Group
) -> Literal["hidden", "linear", "residual", "heads", "recurrent"]:
    if any(dense.kind == "recurrent" for dense in group.producers):
        return "recurrent"
    if any(_sums(layout, step.node) for step in group.between.values()):
        return "heads"
    if group.added:
        return "residual"
    return "hidden" if group.nonlinear else "linear"


def _sums(layout: Layout, node: onnx.NodeProto) -> bool:
    """Whether a node sums over the channels of its units, and makes heads of them."""
    return node.op_type == "Attention" or node.name in layout.summing


def _finished(layout: Layout, group: _Group, parameters: int, macs: int) -> ChannelGroup:
    members = [Member(d.node.name, d.node.op_type, "producer", d.out_axis) for d in group.producers]
    members += [
        Member(step.node.name, step.node.op_type, "channelwise", _axis(layout, step.ids))
        for step in group.between.values()
    ]
    members += [Member(d.node.name, d.node.op_type, "consumer", d.in_axis) for d in group.consumers]
    units = max(len(group.units), 1)
    return ChannelGroup(
        group.name, units, _kind(layout, group), group.frozen, tuple(members), parameters, macs
    )


def _axis(layout: Layout, ids: Ids) -> int | None:
    """The axis along which units change, if it is one."""
    axes = [axis for axis, size in enumerate(compressed(layout.units.roots(ids)).shape) if size > 1]
    return axes[0] if len(axes) == 1 else None


def _operator(tables: _Tables, dense: Dense) -> tuple[Operator, NDArray[np.int64] | None]:
    graph, node = tables.layout.graph, dense.node
    grouped, recurrent = dense.kind == "grouped", dense.kind == "recurrent"
    reads, places = ((), None) if grouped else tables.places(dense.reads)
    weight = graph.constants[node.input[1]]
    outputs = weight.shape[0] * weight.shape[1] if recurrent else len(dense.writes)
    rows = np.resize(dense.writes, outputs)
    writes, write_places = tables.places(rows)
    operator = Operator(
        name=node.name,
        op=node.op_type,
        depthwise=grouped,
        input=node.input[0],
        output=dense.output,
        in_channels=len(dense.reads),
        out_channels=outputs,
        in_axis=dense.in_axis,
        out_axis=dense.out_axis,
        reads=reads,
        masked=bool(reads),
        writes=writes,
        write_index=None if write_places is None else tuple(write_places.tolist()),
        parameters=_parameters(graph, dense, outputs),
        macs=node_macs(graph, node),
        reference=_reference(graph, dense.output),
    )
    return operator, places


def _parameters(graph: Graph, dense: Dense, outputs: int) -> int:
    """Weights and biases, a bias counted where there is none yet: the artifact has one."""
    size = graph.constants[dense.node.input[1]].size
    if dense.kind == "recurrent":
        return int(size + graph.constants[dense.node.input[2]].size + 2 * outputs)
    return int(size + outputs)


def _reference(graph: Graph, tensor: str) -> Reference | None:
    if tensor not in graph.references:
        return None
    mean, std = graph.references[tensor]
    return Reference("batchnorm", mean.astype(np.float32), std.astype(np.float32))
