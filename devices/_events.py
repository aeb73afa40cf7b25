"""What goes wrong with a device and when it is over: each said once, when it begins and ends."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

__all__ = ["TROUBLES", "DeviceEvent", "OnEvent", "TroubleLog"]

TROUBLES: Final = ("unplugged", "stalled", "muted", "overdriven", "wrong-rate", "overflow")
# These two come and go with the sound itself (a headset that mutes between words, a loud speaker),
# so they are told at most this often within a minute.
_CHATTY: Final = frozenset({"muted", "overdriven", "overflow"})
_MOST_A_MINUTE: Final = 5
_KEPT: Final = 100

_log = logging.getLogger("edgeprune.devices")


@dataclass(frozen=True)
class DeviceEvent:
    """A trouble began or ended.

    ``trouble`` is one of "unplugged" (gone, or it cannot be opened), "stalled" (open, and nothing
    comes), "muted" (sound: digital silence; camera: nothing but black), "overdriven" (sound:
    clipping; camera: nothing but white), "wrong-rate" (samples do not come as fast as the device
    says) and "overflow" (samples were lost). ``began`` is False when it is over;
    ``lasted_s`` is then how long it took. ``timestamp_s`` is on the clock of `time.monotonic`.
    ``message`` is a whole sentence for the user.
    """

    device: str
    trouble: str
    began: bool
    message: str
    timestamp_s: float
    lasted_s: float = 0.0


OnEvent: TypeAlias = Callable[[DeviceEvent], None]


class TroubleLog:
    """Turns conditions that hold for a while into one event at each end.

    Events go to ``on_event`` from the thread that found them; without it each becomes one line of
    the logger ``edgeprune.devices``. An ``on_event`` that raises is logged and changes nothing.
    """

    def __init__(
        self,
        device: str,
        on_event: OnEvent | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._device = device
        self._on_event = on_event or _to_log
        self._clock = clock
        self._since: dict[str, float] = {}
        self._told: set[str] = set()
        self._recent: dict[str, deque[float]] = {}
        self._history: deque[DeviceEvent] = deque(maxlen=_KEPT)
        self._lock = threading.Lock()

    @property
    def active(self) -> frozenset[str]:
        """The troubles that hold now."""
        with self._lock:
            return frozenset(self._since)

    @property
    def history(self) -> tuple[DeviceEvent, ...]:
        """The last hundred events, oldest first."""
        with self._lock:
            return tuple(self._history)

    def begin(self, trouble: str, message: str) -> None:
        """Say that ``trouble`` holds; nothing happens if that was said before."""
        now = self._clock()
        with self._lock:
            if trouble in self._since:
                return
            self._since[trouble] = now
            room = self._room(trouble, now)
            if room == 0:
                return
            self._told.add(trouble)
        if room == 1 and trouble in _CHATTY:
            message += " It comes and goes: for a minute nothing more is said of it."
        self._tell(DeviceEvent(self._device, trouble, True, message, now))

    def end(self, trouble: str, message: str) -> None:
        """Say that ``trouble`` is over; nothing happens if it did not hold."""
        now = self._clock()
        with self._lock:
            since = self._since.pop(trouble, None)
            told = trouble in self._told
            self._told.discard(trouble)
        if since is not None and told:
            self._tell(DeviceEvent(self._device, trouble, False, message, now, now - since))

    def _room(self, trouble: str, now: float) -> int:
        """Return how many more beginnings of ``trouble`` may be told, this one included."""
        if trouble not in _CHATTY:
            return _MOST_A_MINUTE
        recent = self._recent.setdefault(trouble, deque())
        while recent and now - recent[0] > 60.0:
            recent.popleft()
        room = _MOST_A_MINUTE - len(recent)
        if room > 0:
            recent.append(now)
        return room

    def _tell(self, event: DeviceEvent) -> None:
        with self._lock:
            self._history.append(event)
        try:
            self._on_event(event)
        except Exception:
            _log.exception("edgeprune: on_event failed; the device goes on")


def _to_log(event: DeviceEvent) -> None:
    _log.warning("edgeprune: %s", event.message)
