"""The lines of JSON that `edgeprune run` prints, and who writes them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import threading
import time
from datetime import UTC, datetime
from typing import IO, Any, Final

from ..devices import DeviceEvent
from ._events import ServiceEvent
from ._sample import LiveResult, LiveSample

__all__ = ["LINE_VERSION", "LineWriter", "event_line", "result_line"]

LINE_VERSION: Final = 1
_PIPE_BYTES: Final = 4096  # what a pipe that can be written to takes without waiting
_POLL_S: Final = 0.2
_LAST_S: Final = 1.0


def result_line(sample: LiveSample, result: LiveResult) -> dict[str, Any]:
    """The answer to a sample, as docs/service.md describes it."""
    return {
        "type": "result",
        "version": LINE_VERSION,
        "time": _wall_clock(result.timestamp_s),
        "timestamp_s": round(result.timestamp_s, 6),
        "sequence": result.sequence,
        "source": sample.source,
        "label": result.label,
        "index": result.index,
        "probability": round(result.confidence, 6),
        "top": [{"label": label, "probability": round(share, 6)} for label, share in result.top],
        "profile": result.profile,
        "generation": result.generation,
        "state": result.state,
        "teaches": sample.teaches,
        "latency_ms": round(result.latency_ms, 3),
        "age_ms": round(1000.0 * (time.monotonic() - result.timestamp_s), 3),
    }


def event_line(event: DeviceEvent | ServiceEvent) -> dict[str, Any]:
    """What happened to a device or to the network, as docs/service.md describes it."""
    line: dict[str, Any] = {
        "type": "event",
        "version": LINE_VERSION,
        "time": _wall_clock(event.timestamp_s),
        "timestamp_s": round(event.timestamp_s, 6),
    }
    if isinstance(event, ServiceEvent):
        return line | {
            "origin": "service",
            "kind": event.kind,
            "profile": event.profile,
            "message": event.message,
            "details": dict(event.details),
        }
    return line | {
        "origin": "device",
        "kind": event.trouble,
        "device": event.device,
        "message": event.message,
        "began": event.began,
        "lasted_s": round(event.lasted_s, 3),
    }


def _wall_clock(timestamp_s: float) -> str:
    """A moment of `time.monotonic` as UTC, to the millisecond."""
    moment = datetime.fromtimestamp(time.time() - (time.monotonic() - timestamp_s), UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class LineWriter:
    """Writes lines at once, from any thread, and never waits for ever.

    A pipe whose reader is slow is waited for, until somebody says `hurry`: from then on for a
    second at most, so that a reader that hangs cannot keep the service from ending.

    Args:
        stream: an open text stream; where it has a descriptor, that is written to directly.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._until_s = float("inf")
        stream.flush()
        try:
            self._descriptor: int | None = stream.fileno()
        except (OSError, ValueError):  # a stand-in without one
            self._descriptor = None

    def write(self, line: dict[str, Any]) -> None:
        """Write one line of JSON.

        Raises:
            BrokenPipeError: the reader went away.
        """
        text = json.dumps(line, ensure_ascii=False, allow_nan=False, default=str) + "\n"
        with self._lock:
            if self._descriptor is None:
                self._stream.write(text)
                self._stream.flush()
            else:
                self._send(self._descriptor, text.encode(errors="backslashreplace"))

    @property
    def reader_gone(self) -> bool:
        """Whether nobody can read any more what is written; found out without writing."""
        if self._descriptor is None:
            return False
        poll = select.poll()
        poll.register(self._descriptor, 0)
        return any(events & (select.POLLERR | select.POLLNVAL) for _, events in poll.poll(0))

    def say(self, text: str) -> None:
        """Write one line of text, or drop it: for notes, which nobody may have to wait for."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            if self._descriptor is None:
                self._stream.write(f"{text}\n")
                self._stream.flush()
            elif select.select([], [self._descriptor], [], _POLL_S)[1]:
                os.write(self._descriptor, f"{text}\n".encode(errors="backslashreplace"))

    def hurry(self) -> None:
        """Wait no longer than a second for a slow reader."""
        self._until_s = time.monotonic() + _LAST_S

    def _send(self, descriptor: int, data: bytes) -> None:
        for start in range(0, len(data), _PIPE_BYTES):
            if not self._writable(descriptor):
                return
            part = data[start : start + _PIPE_BYTES]
            while part:
                part = part[os.write(descriptor, part) :]

    def _writable(self, descriptor: int) -> bool:
        """Wait until a write would not block; False when it is too late for that."""
        while not select.select([], [descriptor], [], _POLL_S)[1]:
            if time.monotonic() > self._until_s:
                return False
        return True
