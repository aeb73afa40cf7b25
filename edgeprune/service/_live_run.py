"""One run of the service: input, network, lines, control socket and service manager together."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import numpy as np

from ._health import Health
from ._inputs import LiveInput
from ._lines import LineWriter, result_line
from ._notify import Notifier
from ._protocol import Request
from ._sample import LiveResult, LiveSample

__all__ = ["AnsweringService", "Limits", "LiveRun"]

_TICK_S: Final = 0.2


class AnsweringService(Protocol):
    """What a run needs of `Service`."""

    def run(
        self, samples: Iterable[LiveSample], on_result: Callable[[LiveResult], None], /
    ) -> None: ...
    def status(self) -> dict[str, Any]: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def rollback(self) -> None: ...
    def personalize_now(self) -> None: ...


@dataclass(frozen=True)
class Limits:
    """When a run ends by itself: after so many samples, after so many seconds; None for never."""

    samples: int | None = None
    seconds: float | None = None


class LiveRun:
    """Answers what the input gives until something ends it.

    ``run`` belongs to one thread; ``stop`` and ``handle`` are for any.

    Args:
        name: of the service, for those who ask.
        service: the network and what it learns.
        source: what it hears or sees.
        writer: of the lines.
        notifier: of the service manager.
        use: switches to another profile.
        limits: when to end without being asked.
        posted: lines that others, on any thread, want written soon.
    """

    def __init__(
        self,
        name: str,
        service: AnsweringService,
        source: LiveInput,
        writer: LineWriter,
        notifier: Notifier,
        *,
        use: Callable[[str], None],
        limits: Limits | None = None,
        posted: deque[dict[str, Any]] | None = None,
    ) -> None:
        self._name = name
        self._service = service
        self._source = source
        self._writer = writer
        self._notifier = notifier
        self._use = use
        self._limits = limits or Limits()
        self._health = Health(notifier, source)
        self._stopping = threading.Event()
        self._posted = deque() if posted is None else posted
        self._started_s = time.monotonic()
        self._started = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        self._answered = 0
        self._in_hand: LiveSample | None = None
        self._latest: LiveResult | None = None

    @property
    def answered(self) -> int:
        """How many samples were answered."""
        return self._answered

    def stop(self) -> None:
        """End the run when the sample in hand is answered."""
        self._writer.hurry()
        self._stopping.set()

    def run(self) -> None:
        """Answer samples until the input ends, a limit is reached, or `stop` is called.

        Raises:
            BrokenPipeError: who read the lines went away.
            EdgepruneError: the network cannot go on.
        """
        try:
            self._service.run(self._samples(), self._on_result)
            self._write_posted()
        finally:
            self._writer.hurry()
            self._notifier.stopping()

    def write_last(self) -> None:
        """Write what was told while everything was closed, for whoever still reads."""
        self._writer.hurry()
        with contextlib.suppress(BrokenPipeError):
            self._write_posted()

    def handle(self, request: Request) -> dict[str, Any]:
        """Do what a client of the control socket asks for; return how things stand then.

        Raises:
            EdgepruneError: the service will not; nothing was changed.
        """
        match request.command:
            case "pause":
                self._service.pause()
            case "resume":
                self._service.resume()
            case "rollback":
                self._service.rollback()
            case "use":
                self._use(request.profile or "")
            case "personalize":
                self._service.personalize_now()
            case "stop":
                self.stop()
        return self.status()

    def status(self) -> dict[str, Any]:
        """How things stand, as plain JSON values; numbers and names, never content."""
        source = self._source
        delivered_s = source.delivered_s
        silent_s = None if delivered_s is None else round(time.monotonic() - delivered_s, 3)
        return {
            "name": self._name,
            "pid": os.getpid(),
            "started": self._started,
            "uptime_s": round(time.monotonic() - self._started_s, 3),
            "stopping": self._stopping.is_set(),
            "answered": self._answered,
            "input": {
                "source": source.name,
                "kind": source.kind,
                "connections": source.connections,
                "troubles": sorted(source.troubles),
                "silent_s": silent_s,
                "wait_ms": self._waits(),
                **source.counts.to_dict(),
            },
            "service": self._service.status(),
        }

    def _waits(self) -> dict[str, float | None]:
        """How long the gate let a sound wait for what surrounds it, of late, in ms."""
        waits_ms = self._source.waits_ms
        if not waits_ms:
            return {"median": None, "p99": None}
        median, p99 = np.quantile(waits_ms, (0.5, 0.99)).tolist()
        return {"median": round(median, 3), "p99": round(p99, 3)}

    def _over(self) -> bool:
        limits = self._limits
        return (
            self._stopping.is_set()
            or (limits.samples is not None and self._answered >= limits.samples)
            or (limits.seconds is not None and time.monotonic() - self._started_s >= limits.seconds)
        )

    def _samples(self) -> Iterator[LiveSample]:
        """What the input gives; between two samples, everything else that is due."""
        while not self._over():
            sample = self._source.read(_TICK_S)
            if sample is not None:
                self._in_hand = sample
                yield sample
            elif self._source.ended:
                return
            elif self._writer.reader_gone:
                raise BrokenPipeError
            self._write_posted()
            self._health.report(self._summary())

    def _on_result(self, result: LiveResult) -> None:
        assert self._in_hand is not None
        self._writer.write(result_line(self._in_hand, result))
        self._latest = result
        self._answered += 1
        self._health.answered()

    def _write_posted(self) -> None:
        while self._posted:
            self._writer.write(self._posted.popleft())

    def _summary(self) -> str:
        """One line for the service manager."""
        troubles = ", ".join(sorted(self._source.troubles))
        trouble = f" ({troubles})" if troubles else ""
        latest = self._latest
        using = "" if latest is None else f"; profile {latest.profile}, {latest.state}"
        return f"{self._source.name}{trouble}{using}; {self._answered} samples answered"
