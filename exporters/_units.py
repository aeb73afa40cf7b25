"""Units: what is pruned as one piece, kept as classes of numbers that channels carry.

Every output channel of a dense operator gets a fresh number. Where the network ties two channels
together (a residual Add), their numbers are united. Number 0 marks a channel that cannot be pruned.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ids", "Units"]

Ids = NDArray[np.int64]
"""Numbers of a tensor's elements, without the batch; size 1 along axes where nothing changes."""


class Units:
    """A union-find over unit numbers, with the reasons why some may not be pruned.

    >>> units = Units()
    >>> first, second = units.fresh(3), units.fresh(3)
    >>> _ = units.join([first, second], "add")
    >>> (units.roots(first) == units.roots(second)).all()
    np.True_
    """

    def __init__(self) -> None:
        self._parent: Ids = np.zeros(1, np.int64)
        self._frozen: list[tuple[Ids, str]] = []

    def fresh(self, count: int) -> Ids:
        """Give `count` channels numbers of their own."""
        start = len(self._parent)
        ids = np.arange(start, start + count, dtype=np.int64)
        self._parent = np.concatenate([self._parent, ids])
        return ids

    def roots(self, ids: Ids) -> Ids:
        """For each number the one that stands for its class."""
        roots = self._parent[ids]
        while True:
            above = self._parent[roots]
            if np.array_equal(above, roots):
                return roots
            roots = above

    def freeze(self, ids: Ids, reason: str) -> None:
        """Note that these may not be pruned; the first reason given for one is the one told."""
        kept = np.unique(ids[ids > 0])
        if kept.size:
            self._frozen.append((kept, reason))

    def join(self, arrays: list[Ids], reason: str) -> Ids:
        """Tie together, element by element; what is tied to an unprunable channel is frozen."""
        spread: list[Any] = list(np.broadcast_arrays(*arrays))
        result: Ids = spread[0]
        for other in spread[1:]:
            self._unite(result, other)
            self.freeze(np.where((result == 0) ^ (other == 0), result + other, 0), reason)
            result = np.where(result == 0, other, result)
        return result

    def _unite(self, first: Ids, second: Ids) -> None:
        both = (first > 0) & (second > 0)
        pairs = np.unique(np.stack([first[both], second[both]]), axis=1)
        for left, right in pairs.T:
            a, b = self._root(int(left)), self._root(int(right))
            self._parent[max(a, b)] = min(a, b)

    def _root(self, number: int) -> int:
        while self._parent[number] != number:
            self._parent[number] = self._parent[self._parent[number]]
            number = int(self._parent[number])
        return number

    def reasons(self) -> dict[int, str]:
        """For each class that is frozen, by its root, the first reason."""
        found: dict[int, str] = {}
        for ids, reason in self._frozen:
            for root in np.unique(self.roots(ids)):
                found.setdefault(int(root), reason)
        return found
