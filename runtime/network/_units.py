"""Units: what is pruned as one piece, kept as classes of numbers that channels carry.

Every output channel of a dense operator gets a fresh number. Where the network ties two channels
together (a residual Add), their numbers are united. Number 0 marks a channel that cannot be pruned.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ids", "Units", "compressed"]

Ids = NDArray[np.int64]
"""Numbers of a tensor's elements; size 1 along axes where nothing changes."""


def compressed(ids: Ids) -> Ids:
    """The same numbers without the axes along which nothing changes."""
    for axis in range(ids.ndim):
        if ids.shape[axis] > 1:
            first = ids.take([0], axis)
            if (ids == first).all():
                ids = first
    return ids


class Units:
    """A union-find over unit numbers, with the reasons why some may not be pruned.

    >>> units = Units()
    >>> first, second = units.fresh(3), units.fresh(3)
    >>> units.unite(first, second)
    >>> (units.roots(first) == units.roots(second)).all()
    np.True_
    """

    def __init__(self) -> None:
        self._parent: list[int] = [0]
        self._flat: Ids | None = None
        self._frozen: list[tuple[Ids, str]] = []
        self._mixed: list[tuple[Ids, str]] = []

    def __len__(self) -> int:
        return len(self._parent)

    def fresh(self, count: int) -> Ids:
        """Give `count` channels numbers of their own; a single channel can never be pruned."""
        if count < 2:
            return np.zeros(count, np.int64)
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        self._flat = None
        return np.arange(start, start + count, dtype=np.int64)

    def roots(self, ids: Ids) -> Ids:
        """For each number the one that stands for its class."""
        if self._flat is None:
            self._flat = self._flattened()
        return self._flat[ids]

    def _flattened(self) -> Ids:
        roots = np.array(self._parent, np.int64)
        while True:
            above = roots[roots]
            if np.array_equal(above, roots):
                return roots
            roots = above

    def freeze(self, ids: Ids, reason: str) -> None:
        """Note that these may not be pruned; the first reason given for one is the one told."""
        kept = np.unique(ids[ids > 0])
        if kept.size:
            self._frozen.append((kept, reason))

    def unite(self, first: Ids, second: Ids) -> None:
        """Tie together, element by element, where both are units."""
        first, second = np.broadcast_arrays(first, second)
        both = (first > 0) & (second > 0) & (first != second)
        if not both.any():
            return
        pairs = np.unique(first[both] * len(self) + second[both])
        for pair in pairs.tolist():
            left, right = divmod(pair, len(self))
            a, b = self._root(left), self._root(right)
            if a != b:
                self._parent[max(a, b)] = min(a, b)
                self._flat = None

    def _root(self, number: int) -> int:
        parent = self._parent
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    def join(self, arrays: Sequence[Ids], reason: str) -> Ids:
        """Tie together, element by element; what is tied to an unprunable channel is frozen."""
        spread: list[Any] = list(np.broadcast_arrays(*arrays))
        result: Ids = spread[0]
        for other in spread[1:]:
            self.unite(result, other)
            self.freeze(np.where((result == 0) ^ (other == 0), result + other, 0), reason)
            result = np.where(result == 0, other, result)
        return result

    def tie_along(self, ids: Ids, axes: Iterable[int], reason: str) -> Ids:
        """Make one unit of all that stand along `axes`; return the numbers without these axes.

        `reason` is told if nothing but a single unit is left of the group.
        """
        axes = [axis for axis in axes if ids.shape[axis] > 1]
        if not axes:
            return ids
        moved = np.moveaxis(ids, axes, range(len(axes)))
        flat: Ids = moved.reshape(-1, *moved.shape[len(axes) :])
        some, every = (flat > 0).any(0), (flat > 0).all(0)
        mixed = np.where(some & ~every, flat, 0)
        self.freeze(mixed, f"{reason} together with channels that cannot be pruned")
        self.unite(flat[:1], flat)
        self._mixed.append((np.unique(flat[flat > 0]), reason))
        first = np.where(every, flat[0], 0)
        return first.reshape([1 if axis in axes else n for axis, n in enumerate(ids.shape)])

    def reasons(self) -> dict[int, str]:
        """For each class that is frozen, by its root, the first reason."""
        return self._first_told(self._frozen)

    def mixers(self) -> dict[int, str]:
        """For each class that holds what an operator mixes, by its root, the first operator."""
        return self._first_told(self._mixed)

    def _first_told(self, told: Iterable[tuple[Ids, str]]) -> dict[int, str]:
        found: dict[int, str] = {}
        for ids, reason in told:
            for root in np.unique(self.roots(ids)).tolist():
                found.setdefault(root, reason)
        return found
