"""Removing units from a network: as zeros in the weights, or for good.

`masked` and `cut` compute the same function. In a chain ``conv1 → relu → conv2`` whose first unit
goes, `masked` sets the first column of conv2 to zero; `cut` drops that column, the first row of
conv1 and its bias, and the tensors between are one channel narrower.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from ._cut_edit import Edit
from ._cut_fixed import Fixed
from ._cut_remains import BoolArray, Remains
from ._cut_rewrites import REWRITES, cut_constants
from ._cut_scales import part_scales
from ._cut_stay import what_stays
from ._graph import Graph
from ._layout import Layout
from ._units import Ids

__all__ = ["all_kept", "cut", "cut_to", "masked", "removable", "what_stays"]


def all_kept(layout: Layout) -> BoolArray:
    """A bool for each unit number, all true: what `masked` and `cut` take, to be edited."""
    return np.ones(len(layout.units), np.bool_)


def removable(layout: Layout) -> Ids:
    """The units that can be removed, by their roots, ascending."""
    roots = np.unique(layout.resolved(np.arange(len(layout.units))))
    return roots[roots > 0]


def masked(layout: Layout, keep: BoolArray) -> Graph:
    """The same graph with zeros in all weights that read a removed unit.

    Before: `layout` is the result of `analyse`; `keep` is true, by unit number, for the roots of
    the units that are kept. After: `layout.graph` is as it was; the new graph has the same nodes
    and tensors, and what removed units hold has no influence on any output.
    """
    edit = Edit(layout.graph)
    columns = {place: (axis, kept) for place, axis, kept in _columns(layout, keep)}
    for node in map(edit.copy, layout.graph.nodes):
        for place in range(len(node.input)):
            if (node.name, place) in columns:
                _zero(edit, node, place, *columns[node.name, place])
        edit.graph.nodes.append(node)
    return edit.finish()


def _columns(layout: Layout, keep: BoolArray) -> Iterator[tuple[tuple[str, int], int, BoolArray]]:
    """Weights that read removed units: the place, the axis, and which columns are kept."""
    for dense in layout.dense:
        if dense.kind in ("dense", "recurrent") and dense.in_axis is not None:
            yield dense.weight, dense.in_axis, _kept(layout, dense.reads, keep)
        if dense.kind == "recurrent":
            yield (dense.node.name, 2), 2, _kept(layout, dense.writes, keep)


def _kept(layout: Layout, ids: Ids, keep: BoolArray) -> BoolArray:
    roots = layout.resolved(ids)
    return np.asarray(keep[roots] | (roots == 0))


def _zero(edit: Edit, node: onnx.NodeProto, place: int, axis: int, kept: BoolArray) -> None:
    value = edit.value(node, place)
    if value is None or kept.all():
        return
    value = value.copy()
    np.moveaxis(value, axis, 0)[~kept] = 0
    edit.put(node, place, value, (axis, kept.tobytes()))


def cut(layout: Layout, keep: BoolArray) -> Graph:
    """The same network with units physically gone; it computes what `masked` computes.

    Before: as for `masked`. After: `layout.graph` is as it was; in the new graph every tensor
    lacks the units that are not kept, shapes are known, and nothing is left that has no influence
    on an output. Where a tensor would vanish under an operator that cannot do without it, or the
    operator cannot be rewritten, units stay, with zeros in the weights that read them.
    """
    return cut_to(layout, keep, what_stays(layout, keep))


def cut_to(layout: Layout, keep: BoolArray, remains: Remains) -> Graph:
    """As `cut`, of what `what_stays` found for these units or for more."""
    edit = Edit(masked(layout, keep | ~remains.stay))
    fixed = Fixed(edit, remains)
    for node in map(edit.copy, edit.source.nodes):
        if all(remains.vanished(name) for name in node.output if name):
            continue
        cut_constants(edit, remains, node)
        if node.op_type in REWRITES:
            REWRITES[node.op_type](edit, remains, node)
        fixed.settle(node)
    for name in edit.graph.outputs:
        fixed.write_out(name)
    graph = edit.finish()
    part_scales(graph)
    _update_shapes(graph, remains)
    return graph


def _update_shapes(graph: Graph, remains: Remains) -> None:
    """After: the graph knows the shapes of the tensors that it has."""
    known = {name for node in graph.nodes for name in node.output} | {i.name for i in graph.inputs}
    old = remains.graph.shapes
    for name in [name for name in graph.shapes if name not in known]:
        for table in (graph.shapes, graph.sizes_at_three, graph.dtypes):
            table.pop(name, None)
    for name in graph.shapes:
        if name in old:
            graph.shapes[name] = remains.shape(name)
            graph.sizes_at_three[name] = remains.sizes(name)
        else:  # a size that is inserted is one of the network's own
            graph.sizes_at_three[name] = tuple(3 if n is None else n for n in graph.shapes[name])
