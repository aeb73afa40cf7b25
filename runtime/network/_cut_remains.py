"""What is left of each tensor when units are gone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray

from ._graph import Graph, Shape
from ._layout import Layout
from ._units import Ids, compressed

__all__ = ["BoolArray", "Part", "Remains", "removed_along"]

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Part:
    """The one axis along which a tensor shrinks, and for each of its places whether it is left.

    Of five channels the second and the third go::

        Part(1, [True, False, False, True, True]): size 3, places [0, 0, 0, 1, 2]
    """

    axis: int
    kept: BoolArray

    @property
    def size(self) -> int:
        """How many places are left."""
        return int(np.count_nonzero(self.kept))

    @property
    def places(self) -> Ids:
        """For each place that is left, where it stands now."""
        return np.asarray(np.cumsum(self.kept) - 1, np.int64)


Carried = dict[str, tuple[int, Ids]]


class Remains:
    """The tensors of an analysed graph without the units that do not `stay`.

    `stay` is a bool for each unit number; only roots are asked for, and 0 always stays.
    """

    def __init__(self, layout: Layout, stay: BoolArray, carried: Carried | None = None) -> None:
        self.layout = layout
        self.graph: Graph = layout.graph
        self.stay = stay.copy()
        self.stay[0] = True
        self.carried: Carried = _carried(layout) if carried is None else carried
        """For each activation that carries units that can be removed: the axis, and their roots."""

    @cached_property
    def _parts(self) -> dict[str, Part]:
        parts = {name: Part(axis, self.stay[ids]) for name, (axis, ids) in self.carried.items()}
        return {name: part for name, part in parts.items() if not part.kept.all()}

    def keeping(self, roots: Ids) -> Remains:
        """The same, with these units kept too."""
        more = Remains(self.layout, self.stay, self.carried)
        more.stay[roots] = True
        return more

    def part(self, name: str) -> Part | None:
        """How a tensor shrinks; `None` if it stays whole."""
        return self._parts.get(name)

    def vanished(self, name: str) -> bool:
        """Whether nothing is left of a tensor."""
        part = self._parts.get(name)
        return part is not None and not part.kept.any()

    def shape(self, name: str) -> Shape:
        """The shape that is left of an activation."""
        return _shrunk(self.graph.shapes[name], self.part(name))

    def sizes(self, name: str, batch: int = 3) -> tuple[int, ...]:
        """The sizes that are left of an activation, for a batch of `batch`."""
        shape, three = self.graph.shapes[name], list(self.graph.sizes_at_three[name])
        part = self.part(name)
        if part is not None:
            three[part.axis] = part.size
        return tuple(m * batch // 3 if n is None else m for n, m in zip(shape, three, strict=True))

    def cuts(self, node: onnx.NodeProto) -> Iterator[tuple[int, list[Part]]]:
        """Constant inputs of a node that shrink: the place, and how along each of their axes."""
        for place in range(len(node.input)):
            axes = self.layout.cuts.get((node.name, place), {})
            parts = [
                Part(axis, kept)
                for axis, ids in axes.items()
                if (kept := removed_along(self.layout, ids, self.stay)) is not None
            ]
            if parts:
                yield place, parts


def _carried(layout: Layout) -> Carried:
    found = {}
    for name, raw in layout.ids.items():
        roots = compressed(layout.resolved(raw)) if raw.any() else raw
        axes = [axis for axis, size in enumerate(roots.shape) if size > 1]
        if len(axes) == 1:
            found[name] = (axes[0], roots.reshape(-1))
    return found


def removed_along(layout: Layout, ids: Ids, stay: BoolArray) -> BoolArray | None:
    """Which places along an axis of a constant are left; `None` if all of them.

    Where all places belong to one unit, the tensor varies along another axis, and is cut there.
    """
    roots = layout.resolved(ids)
    kept = stay[roots]
    return None if kept.all() or (roots == roots[0]).all() else kept


def _shrunk(shape: Shape, part: Part | None) -> Shape:
    if part is None or shape[part.axis] is None:  # units may stand beside the batch
        return shape
    return (*shape[: part.axis], part.size, *shape[part.axis + 1 :])
