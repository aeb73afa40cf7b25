"""Files in the time of devices."""

from __future__ import annotations

import threading
import time

__all__ = ["Pace"]


class Pace:
    """When the pieces of a file are due: at once, or as they would come from a device."""

    def __init__(self, paced: bool) -> None:
        self._paced = paced
        self._start: float | None = None
        self._closing = threading.Event()

    @property
    def closed(self) -> bool:
        """Whether nothing is due any more."""
        return self._closing.is_set()

    def wait(self, due_s: float, timeout_s: float | None) -> bool:
        """Wait until ``due_s`` after the first call; False when closed or out of time first."""
        if self._start is None:
            self._start = time.monotonic()
        if not self._paced:
            return not self.closed
        left = max(0.0, self._start + due_s - time.monotonic())
        too_long = timeout_s is not None and timeout_s < left
        closed = self._closing.wait(timeout_s if too_long else left)
        return not closed and not too_long

    def time(self, due_s: float) -> float:
        """Return the moment that is ``due_s`` after the first `wait`, on time.monotonic's clock."""
        assert self._start is not None
        return self._start + due_s

    def close(self) -> None:
        """End every wait."""
        self._closing.set()
