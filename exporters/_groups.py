"""From units to channel groups and operators, as the metadata of the artifact lists them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from ..runtime.artifact import ChannelGroup, Member, Operator, Reference
from ._graph import Graph, attribute
from ._layout import Dense, Layout
from ._rules import GATES, LINEAR
from ._units import Ids

__all__ = ["ONES", "Plan", "make_plan", "node_macs"]

ONES = "edgeprune.ones"


@dataclass(frozen=True)
class Plan:
    """What the artifact will hold: groups, operators, and where an index is needed, the index."""

    groups: tuple[ChannelGroup, ...]
    operators: tuple[Operator, ...]
    index: dict[str, NDArray[np.int64]]


@dataclass
class _Group:
    """A group in the making: operators that write it, and its units in channel order."""

    producers: list[Dense]
    units: Ids
    frozen: str | None
    consumers: list[Dense]
    between: list[onnx.NodeProto]
    added: bool = False
    nonlinear: bool = False

    @property
    def name(self) -> str:
        """Name of the first producer."""
        return str(self.producers[0].node.name)


def make_plan(layout: Layout) -> Plan:
    """Before: the analysis is complete and nodes are named."""
    groups = _components(layout)
    group_of, unit_of = _tables(layout, groups)
    _add_members(layout, groups, group_of)
    _freeze_what_cannot_be_told(layout, groups, group_of)
    _note_kinds(layout, groups, group_of)
    operators, index = [], {}
    for dense in layout.dense:
        operator, places = _operator(layout, dense, groups, group_of, unit_of)
        operators.append(operator)
        if places is not None:
            index[operator.name] = places
    return Plan(tuple(_finished(group) for group in groups), tuple(operators), index)


def _components(layout: Layout) -> list[_Group]:
    """Producers whose units are tied together, in the order of their first producer."""
    producers = [dense for dense in layout.dense if not dense.depthwise]
    owner = {int(i): p for p, dense in enumerate(producers) for i in dense.writes}
    above = list(range(len(producers)))

    def top(p: int) -> int:
        while above[p] != p:
            p = above[p]
        return p

    for p, dense in enumerate(producers):
        for root in np.unique(layout.units.roots(dense.writes)):
            low, high = sorted((top(p), top(owner[int(root)])))
            above[high] = low
    sets: dict[int, list[Dense]] = {}
    for p, dense in enumerate(producers):
        sets.setdefault(top(p), []).append(dense)
    reasons = layout.units.reasons()
    return [_component(layout, members, reasons) for members in sets.values()]


def _component(layout: Layout, producers: list[Dense], reasons: dict[int, str]) -> _Group:
    rows = [layout.units.roots(dense.writes) for dense in producers]
    units = np.unique(np.concatenate(rows))
    frozen = next((reasons[int(root)] for root in units if int(root) in reasons), None)
    if len(units) < 2:
        frozen = frozen or "it has one unit"
    if any(not np.array_equal(row, units) for row in rows):
        frozen = frozen or "its producers do not write the same channels in the same order"
    return _Group(producers, units, frozen, [], [])


def _tables(layout: Layout, groups: list[_Group]) -> tuple[Ids, Ids]:
    """For each unit number, its group and its place there; -1 where there is none."""
    count = 1 + max((int(dense.writes.max()) for dense in layout.dense), default=0)
    group_of, unit_of = np.full(count, -1), np.full(count, -1)
    for number, group in enumerate(groups):
        group_of[group.units] = number
        unit_of[group.units] = np.arange(len(group.units))
    roots = layout.units.roots(np.arange(count))
    return group_of[roots], unit_of[roots]


def _touched(ids: Ids, group_of: Ids) -> list[int]:
    """Groups that some of these channels belong to, in the order in which they come."""
    numbers = group_of[ids.reshape(-1)]
    return [int(n) for n in dict.fromkeys(numbers.tolist()) if n >= 0]


def _add_members(layout: Layout, groups: list[_Group], group_of: Ids) -> None:
    for step in layout.passed:
        for number in _touched(step.ids, group_of):
            if step.node not in groups[number].between:
                groups[number].between.append(step.node)
    for dense in layout.dense:
        for number in [] if dense.depthwise else _touched(dense.reads, group_of):
            groups[number].consumers.append(dense)


def _freeze_what_cannot_be_told(layout: Layout, groups: list[_Group], group_of: Ids) -> None:
    """The metadata gives a depthwise operator one group, whose units are its channels in order."""
    for dense in layout.dense:
        touched = _touched(dense.reads, group_of) if dense.depthwise else []
        whole = len(touched) == 1 and np.array_equal(
            layout.units.roots(dense.reads), groups[touched[0]].units
        )
        for number in [] if whole else touched:
            reason = f"depthwise {dense.node.name!r} reads it together with other channels"
            groups[number].frozen = groups[number].frozen or reason
    for group in groups:
        if not group.consumers:
            group.frozen = group.frozen or "no dense operator reads it"


def _note_kinds(layout: Layout, groups: list[_Group], group_of: Ids) -> None:
    for join in layout.joins:
        gates = join.node.op_type in GATES
        for number in _touched(join.ids, group_of):
            groups[number].nonlinear |= gates
            groups[number].added |= not gates
    for group in groups:
        group.nonlinear |= any(_nonlinear(node) for node in group.between)


def _nonlinear(node: onnx.NodeProto) -> bool:
    # Mul and Div by a constant are linear; those of two activations were seen as joins.
    return node.op_type not in LINEAR and node.op_type not in ("Mul", "Div")


def _kind(group: _Group) -> Literal["hidden", "linear", "residual"]:
    if group.added:
        return "residual"
    return "hidden" if group.nonlinear else "linear"


def _finished(group: _Group) -> ChannelGroup:
    members = [Member(d.node.name, d.node.op_type, "producer") for d in group.producers]
    members += [Member(node.name, node.op_type, "channelwise") for node in group.between]
    members += [Member(d.node.name, d.node.op_type, "consumer") for d in group.consumers]
    return ChannelGroup(group.name, len(group.units), _kind(group), group.frozen, tuple(members))


def _reads(
    dense: Dense, groups: list[_Group], group_of: Ids, unit_of: Ids
) -> tuple[tuple[str, ...], NDArray[np.int64] | None]:
    """The masks that an operator concatenates, and where each input channel finds its own."""
    numbers = group_of[dense.reads]
    alive = [n for n in _touched(dense.reads, group_of) if groups[n].frozen is None]
    if dense.depthwise or not alive:
        return (), None
    names, places, offset = [groups[n].name for n in alive], np.full(len(numbers), -1), 0
    for number in alive:
        mine = numbers == number
        places[mine] = offset + unit_of[dense.reads[mine]]
        offset += len(groups[number].units)
    if (places < 0).any():
        names.append(ONES)
        places[places < 0] = offset
        offset += 1
    plain = offset == len(places) and np.array_equal(places, np.arange(offset))
    return tuple(names), None if plain else places.astype(np.int64)


def _operator(
    layout: Layout, dense: Dense, groups: list[_Group], group_of: Ids, unit_of: Ids
) -> tuple[Operator, NDArray[np.int64] | None]:
    graph, node = layout.graph, dense.node
    weight = graph.constants[node.input[1]]
    flipped = node.op_type == "Gemm" and not attribute(node, "transB", 0)
    reads, places = _reads(dense, groups, group_of, unit_of)
    written = [groups[n] for n in _touched(dense.writes, group_of)]
    outputs = len(dense.writes)
    operator = Operator(
        name=node.name,
        op=node.op_type,
        depthwise=dense.depthwise,
        input=node.input[0],
        output=node.output[0],
        in_channels=len(dense.reads),
        out_channels=outputs,
        in_axis=None if dense.depthwise else int(not flipped),
        out_axis=int(flipped),
        reads=reads,
        masked=bool(reads),
        writes=written[0].name if written and written[0].frozen is None else None,
        parameters=weight.size + outputs,
        macs=node_macs(graph, node),
        reference=_reference(graph, node.output[0]),
    )
    return operator, places


def _reference(graph: Graph, tensor: str) -> Reference | None:
    if tensor not in graph.references:
        return None
    mean, std = graph.references[tensor]
    return Reference("batchnorm", mean.astype(np.float32), std.astype(np.float32))


def node_macs(graph: Graph, node: onnx.NodeProto) -> int:
    """Multiply-adds of one sample in a node with constant weights; 0 for all others."""
    weight: Any = graph.constant(node.input[1]) if len(node.input) > 1 else None
    shape = graph.shapes.get(node.output[0])
    if weight is None or shape is None or node.op_type not in ("Conv", "Gemm", "MatMul"):
        return 0
    if node.op_type == "Conv":
        return int(weight.size * _product(shape[2:]))
    return int(weight.size * _product(shape[1:-1]))


def _product(sizes: Iterable[int | None]) -> int:
    return int(np.prod([size or 1 for size in sizes], dtype=np.int64))
