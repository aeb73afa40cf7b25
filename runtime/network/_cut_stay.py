"""Which units have to stay although nothing reads them, so that the rest can be cut exactly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from ._cut_remains import BoolArray, Remains
from ._cut_rewrites import supported
from ._layout import Layout

__all__ = ["what_stays"]


def what_stays(layout: Layout, keep: BoolArray) -> Remains:
    """After: every tensor that vanishes can be left out, and every node can be rewritten.

    A unit that stays without being kept costs nothing in accuracy: its columns are zero.
    """
    remains = Remains(layout, keep)
    while True:
        more = [*_in_the_way(remains), *_needed(remains)]
        if not more:
            return remains
        remains = remains.keeping(np.array(more, np.int64))


def _in_the_way(remains: Remains) -> Iterator[int]:
    """All units of tensors at nodes that cannot be rewritten."""
    for node in remains.graph.nodes:
        names = [n for n in (*node.input, *node.output) if remains.part(n) is not None]
        if names and not supported(remains, node):
            for name in names:
                yield from remains.carried[name][1].tolist()


def _needed(remains: Remains) -> Iterator[int]:
    """One unit of every tensor that would vanish under a node that has no answer to that."""
    weighted = {dense.node.name for dense in remains.layout.dense if dense.kind == "dense"}
    for node in remains.graph.nodes:
        lost = [name for name in node.input if remains.vanished(name)]
        if not lost or all(remains.vanished(name) for name in node.output if name):
            continue
        if node.op_type != "Concat" and not (
            node.name in weighted and lost == list(node.input[:1])
        ):
            yield from _first_units(remains, lost)


def _first_units(remains: Remains, names: Iterable[str]) -> Iterator[int]:
    for name in names:
        roots = remains.carried[name][1]
        yield int(roots[roots > 0].min())
