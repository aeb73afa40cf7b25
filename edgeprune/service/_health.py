"""What the service manager is told, and when it is true."""

from __future__ import annotations

import time
from typing import Final

from ._inputs import LiveInput
from ._notify import Notifier

__all__ = ["Health"]

_STATUS_EVERY_S: Final = 10.0
_AWAY: Final = frozenset({"unplugged", "stalled"})


class Health:
    """Reports readiness and life as far as samples and the device prove them.

    Ready: the first sample was answered, or the device delivers. Alive, since the last report: a
    sample was answered, or the device gave something that was no sample (a quiet room), or it is
    known to be away and is being opened again, which a restart would not help. Everything is
    reported from the loop that answers samples, so one that hangs falls silent.
    """

    def __init__(self, notifier: Notifier, source: LiveInput) -> None:
        self._notifier = notifier
        self._source = source
        self._ready = False
        self._answered = False
        self._reported_s = self._status_s = time.monotonic()
        self._status = ""

    @property
    def ready(self) -> bool:
        """Whether readiness was reported."""
        return self._ready

    def answered(self) -> None:
        """A real sample was answered."""
        self._answered = True

    def report(self, status: str) -> None:
        """Tell the manager what it is due to hear; called again and again."""
        now = time.monotonic()
        if not self._ready and (self._answered or self._source.delivered_s is not None):
            self._ready = self._notifier.ready(status)
        self._feed(now)
        if status != self._status and now - self._status_s > _STATUS_EVERY_S:
            self._status, self._status_s = status, now
            self._notifier.status(status)

    def _feed(self, now: float) -> None:
        interval_s = self._notifier.watchdog_s
        # Three times as often as asked for: a report that is lost or late does no harm.
        if interval_s is None or not self._ready or now - self._reported_s < interval_s / 3.0:
            return
        if self._alive():
            self._notifier.watchdog()
            self._answered, self._reported_s = False, now

    def _alive(self) -> bool:
        delivered_s = self._source.delivered_s
        delivers = delivered_s is not None and delivered_s > self._reported_s
        away = bool(self._source.troubles & _AWAY)
        return self._answered or delivers or away or not self._source.live
