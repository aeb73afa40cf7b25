"""Between the groups of an artifact and the units that the analysis of its graph finds.

Masks speak of groups and of units in them, the analysis of roots. Both meet at the channels that
operators read and write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .artifact import ONES, Artifact, Operator
from .errors import CompactError
from .network._cut import all_kept, what_stays
from .network._cut_remains import Remains
from .network._layout import Dense, Layout
from .network._units import Ids

__all__ = ["Cutting", "Rounding", "plan_cutting"]

BoolArray = NDArray[np.bool_]
Masks = Mapping[str, BoolArray]
Rounding = Literal["up", "down"]


@dataclass
class _Group:
    """A group of the artifact: for each of its units, the roots of the analysis."""

    units: int
    roots: dict[int, set[int]] = field(default_factory=dict)

    def standing(self, flags: BoolArray) -> BoolArray:
        """Which units stand, given which roots do; one without a root cannot be removed."""
        stands = np.ones(self.units, np.bool_)
        for unit, roots in self.roots.items():
            stands[unit] = any(flags[root] for root in roots)
        return stands


Groups = Mapping[str, _Group]


@dataclass(frozen=True)
class Cutting:
    """What is cut: which units are kept, by root, and what remains of the tensors.

    ``masks`` are the masks in the end, of every group that can be pruned; ``left`` says how many
    units of each group are still there, those included that stay without being kept.
    """

    keep: BoolArray
    remains: Remains
    masks: Mapping[str, BoolArray]
    left: Mapping[str, int]


def plan_cutting(
    artifact: Artifact, layout: Layout, masks: Masks, multiple: int, rounding: Rounding
) -> Cutting:
    """Decide what goes: what the masks remove, rounded to multiples of channels.

    Before: `masks` has every group that can be pruned, and the weights of `layout.graph` are
    those that the masks leave.

    Raises:
        CompactError: masks and graph contradict each other.
    """
    groups = _groups(artifact, layout)
    keep = _keep_flags(artifact, layout, groups, masks)
    _check_unread(layout, keep)
    steps = _steps(layout, groups, multiple)
    if rounding == "down":
        masks = _rounded_down(layout, groups, masks, steps)
        keep = _keep_flags(artifact, layout, groups, masks)
    remains = _rounded_up(layout, keep, groups, steps)
    left = {name: int(group.standing(remains.stay).sum()) for name, group in groups.items()}
    return Cutting(keep, remains, masks, left)


def _groups(artifact: Artifact, layout: Layout) -> dict[str, _Group]:
    """For each group the roots of its units, from all that reads or writes them."""
    groups = {group.name: _Group(group.units) for group in artifact.info.prunable}
    operators = artifact.info.operator_by_name
    for dense in layout.dense:
        operator = operators.get(dense.node.name)
        if operator is None:
            continue
        if operator.reads:
            places = artifact.mask_index(operator).tolist()
            _enter(groups, operator, operator.reads, places, layout.resolved(dense.reads))
        if operator.writes:
            _enter(groups, operator, operator.writes, *_written(layout, dense, operator))
    return groups


def _written(layout: Layout, dense: Dense, operator: Operator) -> tuple[Sequence[int], Ids]:
    """Places and roots of the channels that an operator writes: for a cell, one of its gates."""
    index = operator.write_index or range(operator.out_channels)
    channels = len(dense.writes) if dense.kind == "recurrent" else operator.out_channels
    return index[:channels], layout.resolved(dense.writes)


def _enter(
    groups: Groups, operator: Operator, names: Sequence[str], places: Sequence[int], roots: Ids
) -> None:
    """Note the roots of channels that stand at `places` of the concatenation of some groups."""
    units = [(n, u) for n in names for u in range(1 if n == ONES else groups[n].units)]
    if len(places) != len(roots):
        raise CompactError(_contradiction(operator.name, "has another number of channels"))
    for place, root in zip(places, roots.tolist(), strict=True):
        name, unit = units[place]
        if root and name != ONES:
            groups[name].roots.setdefault(unit, set()).add(root)


def _contradiction(node: str, what: str) -> str:
    return (
        f"the graph and its metadata contradict each other: {node} {what}. Nothing was written; "
        "export the model again."
    )


def _keep_flags(artifact: Artifact, layout: Layout, groups: Groups, masks: Masks) -> BoolArray:
    """Which units are kept, by root; all of those that are in no group or that others read."""
    keep = all_kept(layout)
    for wanted in (False, True):  # a root may stand for several units: one of them keeps it
        for name, group in groups.items():
            for unit, roots in group.roots.items():
                if masks[name][unit] == wanted:
                    keep[list(roots)] = wanted
    for dense in layout.dense:
        if dense.node.name not in artifact.info.operator_by_name:
            for _, _, ids in _columns(layout, dense):
                keep[layout.resolved(ids)] = True
    return keep


def _check_unread(layout: Layout, keep: BoolArray) -> None:
    for dense in layout.dense:
        for weight, axis, ids in _columns(layout, dense):
            gone = ~keep[layout.resolved(ids)]
            if gone.any() and weight.compress(gone, axis).any():
                raise CompactError(_contradiction(dense.node.name, "reads what the masks remove"))


def _columns(layout: Layout, dense: Dense) -> Iterator[tuple[NDArray[np.float32], int, Ids]]:
    """The weights that read units: the array, the axis of its columns, and their units."""
    constants, node = layout.graph.constants, dense.node
    if dense.kind in ("dense", "recurrent") and dense.in_axis is not None:
        yield constants[node.input[1]], dense.in_axis, dense.reads
    if dense.kind == "recurrent":
        yield constants[node.input[2]], 2, dense.writes


def _steps(layout: Layout, groups: Groups, multiple: int) -> dict[str, int]:
    """For each group how many units at a time keep its tensors at a multiple of channels.

    A unit that is eight channels wide wherever an operator reads or writes it needs no rounding
    to eight.
    """
    spans = np.zeros(len(layout.units), np.int64)
    for dense in layout.dense:
        for ids in (dense.reads, dense.writes):
            roots, counts = np.unique(layout.resolved(ids), return_counts=True)
            spans[roots] = np.gcd(spans[roots], counts)
    steps = {}
    for name, group in groups.items():
        found = sorted(set().union(*group.roots.values()))
        span = int(np.gcd.reduce(spans[found])) if found else 1
        steps[name] = multiple // int(np.gcd(multiple, span or 1))
    return steps


def _rounded_up(
    layout: Layout, keep: BoolArray, groups: Groups, steps: Mapping[str, int]
) -> Remains:
    """Let removed units stay, the first ones, until every group stands in whole steps."""
    stay = keep
    while True:
        remains = what_stays(layout, stay)
        stay = remains.stay.copy()
        for name, group in groups.items():
            stay[_padding(group, remains.stay, steps[name])] = True
        if np.array_equal(stay, remains.stay):
            return remains


def _padding(group: _Group, stay: BoolArray, step: int) -> list[int]:
    """Roots of the units that have to stay besides, so that the group stands in whole steps."""
    stands = group.standing(stay)
    missing = -int(stands.sum()) % step
    units = np.flatnonzero(~stands)[:missing].tolist()
    return [root for unit in units for root in group.roots[unit]]


def _rounded_down(
    layout: Layout, groups: Groups, masks: Masks, steps: Mapping[str, int]
) -> dict[str, BoolArray]:
    """The masks without the kept units of the lowest score that fill no whole step.

    A group that is whole stays so, and one step is always left.
    """
    scores, result = _scores(layout), dict(masks)
    for name, group in groups.items():
        mask, step = masks[name].copy(), steps[name]
        kept = np.flatnonzero(mask)
        surplus = len(kept) % step if len(kept) > step and not mask.all() else 0
        worth = [sum(scores[root] for root in group.roots.get(u, {0})) for u in kept.tolist()]
        mask[kept[np.argsort(worth, kind="stable")[:surplus]]] = False
        result[name] = mask
    return result


def _scores(layout: Layout) -> NDArray[np.float64]:
    """By root: squared norm of the weights that read a unit, times that of those that write it.

    Number 0, which cannot be removed, is worth more than any.
    """
    reading, writing = np.zeros((2, len(layout.units)))
    for dense in layout.dense:
        for weight, axis, ids in _columns(layout, dense):
            np.add.at(reading, layout.resolved(ids), _squares(weight, axis))
        if dense.kind != "grouped":
            weight = layout.graph.constants[dense.node.input[dense.weight[1]]]
            rows = np.resize(dense.writes, weight.shape[dense.out_axis])
            np.add.at(writing, layout.resolved(rows), _squares(weight, dense.out_axis))
    scores = reading * writing
    scores[0] = np.inf
    return scores


def _squares(weight: NDArray[np.float32], axis: int) -> NDArray[np.float64]:
    others = tuple(k for k in range(weight.ndim) if k != axis)
    return np.asarray(np.square(weight, dtype=np.float64).sum(axis=others))
