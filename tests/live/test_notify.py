"""What a service manager hears, on real datagram sockets."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeprune.service import _health as health
from edgeprune.service._health import Health
from edgeprune.service._inputs import InputCounts, LiveInput
from edgeprune.service._notify import Notifier

from .running import DEMO, MODEL, Patience


class Manager:
    """systemd's end: a datagram socket, by a path or abstract."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(0.2)

    def hear(self, timeout_s: float = 0.2) -> list[str]:
        """Everything that came, and comes within the time."""
        heard, until = [], time.monotonic() + timeout_s
        while time.monotonic() < until:
            try:
                heard.append(self.socket.recv(4096).decode())
            except TimeoutError:
                continue
        return heard

    def environment(self, watchdog_s: float | None = None) -> dict[str, str]:
        found = {"NOTIFY_SOCKET": self.address}
        return found | ({} if watchdog_s is None else {"WATCHDOG_USEC": str(int(watchdog_s * 1e6))})


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, home: Path) -> Iterator[Manager]:
    if request.param == "abstract" and not sys.platform.startswith("linux"):
        pytest.skip("abstract sockets are Linux's")
    address = str(home / "notify") if request.param == "path" else f"@edgeprune-{os.getpid()}"
    manager = Manager(address)
    yield manager
    manager.socket.close()


def test_messages(manager):
    environment = {**manager.environment(2.0), "WATCHDOG_PID": str(os.getpid()), "HOME": "/"}
    notifier = Notifier.from_environment(environment)
    assert environment == {"HOME": "/"}  # a child cannot speak for it
    assert notifier.active
    assert notifier.watchdog_s == 2.0
    notifier.ready("hears\nthe  microphone")
    notifier.status("7 samples")
    notifier.watchdog()
    notifier.stopping()
    notifier.close()
    notifier.ready("never")
    assert manager.hear() == [
        "READY=1\nSTATUS=hears the microphone",
        "STATUS=7 samples",
        "WATCHDOG=1",
        "STOPPING=1",
    ]


@pytest.mark.parametrize(
    ("environment", "active", "watchdog_s"),
    [
        ({}, False, None),
        ({"WATCHDOG_USEC": "1000000"}, False, None),
        ({"NOTIFY_SOCKET": "relative", "WATCHDOG_USEC": "1000000"}, False, None),
        ({"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "1000000"}, False, None),
        ({"NOTIFY_SOCKET": "@"}, False, None),
        ({"NOTIFY_SOCKET": "/nowhere"}, True, None),
        ({"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "x"}, True, None),
        ({"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "0"}, True, None),
        ({"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "500000"}, True, 0.5),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}, True, None),
    ],
)
def test_whatever_the_environment_says_the_service_goes_on(environment, active, watchdog_s):
    notifier = Notifier.from_environment(environment)
    assert notifier.active == active
    assert notifier.watchdog_s == watchdog_s
    notifier.ready("nobody hears")
    notifier.close()


def test_a_manager_that_does_not_read_is_not_waited_for(manager):
    notifier = Notifier(manager.address)
    began = time.monotonic()
    for _ in range(1000):
        notifier.watchdog()
    assert time.monotonic() - began < 5.0
    assert not notifier.ready("said again when there is room")
    assert set(manager.hear()) == {"WATCHDOG=1"}
    assert notifier.ready("said again")
    assert manager.hear() == ["READY=1\nSTATUS=said again"]
    notifier.close()


class Device(LiveInput):
    """An input whose state the test decides."""

    name, kind, live = "mic:Test", "microphone", True

    def __init__(self) -> None:
        self.last_s: float | None = None
        self.wrong: frozenset[str] = frozenset()

    def read(self, timeout_s: float | None = None) -> None:
        return None

    @property
    def ended(self) -> bool:
        return False

    @property
    def delivered_s(self) -> float | None:
        return self.last_s

    @property
    def counts(self) -> InputCounts:
        return InputCounts()

    @property
    def troubles(self) -> frozenset[str]:
        return self.wrong

    def close(self) -> None:
        pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [1000.0]

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return now[0]

    monkeypatch.setattr(health, "time", Clock)

    def forward(seconds: float) -> None:
        now[0] += seconds

    return forward


def test_ready_and_alive_only_as_far_as_samples_prove_it(manager, clock):
    device = Device()
    notifier = Notifier(manager.address, 3.0)
    state = Health(notifier, device)
    state.report("opening")
    clock(2.0)
    state.report("opening")
    assert manager.hear() == []  # nothing was delivered: neither ready nor alive
    device.last_s = 1001.9
    state.report("hears")
    assert manager.hear() == ["READY=1\nSTATUS=hears", "WATCHDOG=1"]
    assert state.ready
    clock(0.5)
    device.last_s = 1002.4
    state.report("hears")
    assert manager.hear() == []  # not due
    clock(0.6)
    state.report("hears")
    assert manager.hear() == ["WATCHDOG=1"]  # quiet, and live
    clock(1.1)
    state.report("hears")
    assert manager.hear() == []  # nothing came since
    state.answered()
    state.report("hears")
    assert manager.hear() == ["WATCHDOG=1"]
    clock(1.1)
    device.wrong = frozenset({"muted"})
    state.report("hears")
    assert manager.hear() == []
    device.wrong = frozenset({"unplugged"})  # known, and being mended
    state.report("hears")
    assert manager.hear() == ["WATCHDOG=1"]
    clock(9.0)
    device.wrong = frozenset()
    state.report("7 samples")
    assert manager.hear() == ["STATUS=7 samples"]
    notifier.close()


def test_a_real_process_tells_its_manager(run, manager):
    running = run(MODEL, "--source", DEMO / "adapt", environment=manager.environment(0.6))
    heard, patience = list[str](), Patience(60.0)
    while heard.count("WATCHDOG=1") < 4:
        assert patience.lasts(), heard
        heard += manager.hear()
    assert running.stop() == 0
    heard += manager.hear()
    ready = next(number for number, text in enumerate(heard) if text.startswith("READY=1"))
    assert heard[:ready] == [f"STATUS=opening {DEMO / 'adapt'}"]
    assert f"STATUS={DEMO / 'adapt'}; profile default, dense; 1 samples answered" in heard[ready]
    assert heard[-1] == "STOPPING=1"
