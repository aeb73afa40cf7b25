"""Leaving pruned units out of a part of a network, where it is plain what they run through.

A masked unit costs as much as any other. Where everything between the operators that make a group
and those that read it treats each channel by itself, a part that holds them all gives the same
without the group's pruned units: fewer rows of the weights that make it, fewer columns of those
that read it. `edgeprune compact` removes units for good, in every network; this is for sessions
that are used for a moment, and leaves groups alone that run through anything else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from .artifact import ModelInfo, Operator
from .network._graph import read_names

__all__ = ["NarrowPath", "narrow_paths", "narrowed"]

Bool = NDArray[np.bool_]
_MULTIPLE = 16  # odd numbers of channels are slower than a few too many
_EACH_BY_ITSELF = frozenset(
    (
        *("AveragePool", "Clip", "Elu", "Erf", "Gelu", "GlobalAveragePool", "HardSigmoid"),
        *("HardSwish", "Identity", "LeakyRelu", "MaxPool", "Mish", "Relu", "Selu", "Sigmoid"),
        *("Softplus", "Softsign", "Tanh"),
    )
)
_OF_TWO = frozenset(("Add", "Div", "Mul", "Sub"))


@dataclass(frozen=True)
class NarrowPath:
    """What the units of a group run through, from where they are made to where they are read.

    Attributes:
        makers: operators whose outputs they are.
        along: depthwise operators, of which each unit has its own kernel.
        readers: operators that mix them.
        nodes: names of all nodes from the makers to the readers.
        tensors: what stands between, one channel for each unit.
    """

    makers: tuple[Operator, ...]
    along: tuple[Operator, ...]
    readers: tuple[Operator, ...]
    nodes: frozenset[str]
    tensors: frozenset[str]


def narrow_paths(
    info: ModelInfo, nodes: Sequence[NodeProto], scalars: Collection[str]
) -> dict[str, NarrowPath]:
    """The paths of those groups of a network that can be narrowed.

    Args:
        info: the network's operators.
        nodes: the nodes on the path of the data, in the order in which they run.
        scalars: initializers of one number.
    """
    by_name = {node.name: node for node in nodes}
    found = {}
    for group in info.prunable:
        touching = [o for o in info.operators if group.name in (*o.reads, *o.writes)]
        if all(_plain(by_name[o.name], o, group.name, group.units) for o in touching):
            path = _path(info, group.name, nodes, frozenset(scalars))
            if path is not None:
                found[group.name] = path
    return found


def _plain(node: NodeProto, operator: Operator, group: str, units: int) -> bool:
    """Whether the operator makes the group's units, or reads them, each as one channel in order."""
    if operator.op not in ("Conv", "Gemm") or operator.write_index is not None:
        return False
    if operator.depthwise:
        return (
            operator.writes == (group,) and operator.in_channels == operator.out_channels == units
        )
    if next((a.i for a in node.attribute if a.name == "group"), 1) != 1:
        return False
    reads = group not in operator.reads or (
        operator.masked and operator.reads == (group,) and operator.in_channels == units
    )
    writes = group not in operator.writes or (
        operator.writes == (group,) and operator.out_channels == units
    )
    return reads and writes and not (group in operator.reads and group in operator.writes)


def _path(
    info: ModelInfo, group: str, nodes: Sequence[NodeProto], scalars: frozenset[str]
) -> NarrowPath | None:
    """The path of a group; None where something on it is not known to treat units one by one."""
    makers = {o.name: o for o in info.operators if group in o.writes and not o.depthwise}
    along = {o.name: o for o in info.operators if group in o.writes and o.depthwise}
    readers = {o.name: o for o in info.operators if group in o.reads}
    tensors: set[str] = set()
    names: set[str] = set()
    for node in nodes:
        narrow = [name for name in read_names(node) if name in tensors]
        if not narrow and node.name not in makers:
            continue
        names.add(node.name)
        if node.name in readers and narrow == [node.input[0]]:
            continue
        made = not narrow and node.name in makers
        moved = narrow == [node.input[0]] and node.name in along
        if not (made or moved or _each_by_itself(node, tensors | scalars)):
            return None
        tensors.update(node.output)
    complete = names.issuperset((*makers, *along, *readers)) and info.output_name not in tensors
    if not (complete and makers and readers):
        return None
    makes, moves, reads = (tuple(part.values()) for part in (makers, along, readers))
    return NarrowPath(makes, moves, reads, frozenset(names), frozenset(tensors))


def _each_by_itself(node: NodeProto, fine: Collection[str]) -> bool:
    if node.op_type not in _EACH_BY_ITSELF | _OF_TWO or len(node.output) != 1:
        return False
    return all(name in fine for name in read_names(node))


def narrowed(
    nodes: Sequence[NodeProto],
    made: Mapping[str, NDArray[Any]],
    paths: Iterable[tuple[NarrowPath, Bool]],
    seen: Collection[str],
) -> tuple[list[NodeProto], dict[str, NDArray[Any]]]:
    """Before: a part's nodes, and its effective weights by name. After: without pruned units.

    What the nodes compute does not change, but for the rounding of sums. `paths` are of groups
    with masks, true for what is kept, under which the weights of the readers are 0; a path that
    does not lie in the part altogether, or of which something stands in `seen`, what the part is
    given and asked for and what nodes without a name read, is left as it is.
    """
    by_name = {node.name: node for node in nodes if node.name}
    seen = {*seen, *(name for node in nodes if not node.name for name in node.input)}
    weights = dict(made)
    for path, mask in paths:
        kept = _to_keep(mask)
        if len(kept) == len(mask) or not _inside(path, by_name, weights, seen):
            continue
        for operator in (*path.makers, *path.along):
            _, weight, *bias = by_name[operator.name].input
            axis = 0 if operator.depthwise else operator.out_axis
            weights[weight] = np.take(weights[weight], kept, axis)
            for name in bias:
                weights[name] = np.take(weights[name], kept)
        for operator in path.along:
            by_name[operator.name] = _of_groups(by_name[operator.name], len(kept))
        for operator in path.readers:
            weight = by_name[operator.name].input[1]
            weights[weight] = np.take(weights[weight], kept, operator.in_axis)
    return [by_name.get(node.name, node) for node in nodes], weights


def _to_keep(mask: Bool) -> NDArray[np.int64]:
    """What is kept, and as many others as make it a multiple."""
    most = -(-int(mask.sum()) // _MULTIPLE) * _MULTIPLE
    return np.sort(np.argsort(~mask, kind="stable")[:most])


def _inside(
    path: NarrowPath,
    nodes: Mapping[str, NodeProto],
    weights: Mapping[str, NDArray[Any]],
    seen: Collection[str],
) -> bool:
    if not (path.nodes <= nodes.keys() and path.tensors.isdisjoint(seen)):
        return False
    operators = (*path.makers, *path.along, *path.readers)
    return all(name in weights for o in operators for name in nodes[o.name].input[1:])


def _of_groups(node: NodeProto, groups: int) -> NodeProto:
    """A depthwise convolution of so many channels."""
    changed = NodeProto()
    changed.CopyFrom(node)
    kept = [attribute for attribute in node.attribute if attribute.name != "group"]
    del changed.attribute[:]
    changed.attribute.extend([*kept, helper.make_attribute("group", groups)])
    return changed
