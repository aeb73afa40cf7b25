"""What listens to devices, a real sound server, and a guard against the network."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeprune.devices import DeviceEvent

from .sound_server import pulse, pulse_server

__all__ = ["pulse", "pulse_server"]


@pytest.fixture(autouse=True)
def only_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may reach beyond loopback."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1"):
            raise AssertionError(f"a test tried to reach {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """The test leaves no thread, no child process and no open file behind."""
    before = threading.active_count(), _open_files(), _children()
    yield
    until = time.monotonic() + 5.0
    while time.monotonic() < until:
        now = threading.active_count(), _open_files(), _children()
        if all(one <= other for one, other in zip(now, before, strict=True)):
            return
        time.sleep(0.05)
    pytest.fail(f"threads, files and processes before and after: {before}, {now}")


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0


def _children() -> int:
    if sys.platform != "linux":
        return 0
    children = 0
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has just ended
            children += len((task / "children").read_text().split())
    return children


class Heard:
    """An on_event that remembers, and can be waited for."""

    def __init__(self) -> None:
        self.events: list[DeviceEvent] = []
        self._changed = threading.Condition()

    def __call__(self, event: DeviceEvent) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    @property
    def said(self) -> list[tuple[str, bool]]:
        return [(event.trouble, event.began) for event in self.events]

    def wait_for(
        self, trouble: str, began: bool, *, nth: int = 1, timeout_s: float = 15.0
    ) -> float:
        """Return when it was said; fail when it is not."""

        def times() -> list[float]:
            wanted = (trouble, began)
            return [e.timestamp_s for e in self.events if (e.trouble, e.began) == wanted]

        with self._changed:
            assert self._changed.wait_for(lambda: len(times()) >= nth, timeout_s), self.said
            return times()[nth - 1]


@pytest.fixture
def heard() -> Heard:
    return Heard()


class Stopwatch:
    """Compares times with limits, and forgives what this machine took for itself.

    A second thread sleeps a hundredth of a second at a time; by how much its sleeps were too long
    is how long other programs held the processors.
    """

    def __init__(self) -> None:
        self._stolen_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def within(self, took_s: float, limit_s: float) -> bool:
        return took_s < limit_s + self._stolen_s

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.is_set():
            before = time.monotonic()
            time.sleep(0.01)
            over = time.monotonic() - before - 0.01
            self._stolen_s += over if over > 0.02 else 0.0


@pytest.fixture
def stopwatch() -> Iterator[Stopwatch]:
    watch = Stopwatch()
    yield watch
    watch.stop()


def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait until something holds; fail when it never does."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "it never came to hold"
        time.sleep(0.01)
