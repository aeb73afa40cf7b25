"""The queue between a device, which does not wait, and its reader, which may be slow."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

__all__ = ["DropOldest"]

_Item = TypeVar("_Item")


class DropOldest(Generic[_Item]):
    """A bounded queue whose writer never waits: what is too old makes room for what is new.

    With a capacity of 1 it holds the latest item only. Safe for several threads.
    """

    def __init__(self, capacity: int) -> None:
        self._items: deque[_Item] = deque()
        self._capacity = capacity
        self._dropped = 0
        self._closed = False
        self._changed = threading.Condition()

    @property
    def closed(self) -> bool:
        """Whether nothing will ever come again."""
        with self._changed:
            return self._closed and not self._items

    def put(self, item: _Item) -> bool:
        """Add an item; return whether the oldest had to go. After `close` nothing happens."""
        with self._changed:
            if self._closed:
                return False
            full = len(self._items) >= self._capacity
            if full:
                self._items.popleft()
                self._dropped += 1
            self._items.append(item)
            self._changed.notify()
            return full

    def get(self, timeout_s: float | None) -> tuple[_Item, int] | None:
        """Wait for the oldest item; with it comes the number of items dropped before it.

        Returns None when ``timeout_s`` (None: no limit) has passed, or when the queue is closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed, timeout_s)
            return (self._items.popleft(), self._dropped) if self._items else None

    def close(self, *, discard: bool) -> None:
        """Wake every reader; with ``discard`` what is left is thrown away, else still readable."""
        with self._changed:
            self._closed = True
            if discard:
                self._items.clear()
            self._changed.notify_all()
