"""Devices that vanish, stall, flap, overflow and lie: made up, so that every case is met."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeprune.devices import DeviceEvent, DeviceUnavailable, LiveTiming, MissingExtra
from edgeprune.devices import _live as live
from edgeprune.devices._drop_oldest import DropOldest
from edgeprune.devices._events import TroubleLog
from edgeprune.devices._microphone import Microphone
from edgeprune.devices._portaudio import SoundBlock

from .conftest import Heard, eventually

RATE = 8000
BLOCK = 80
QUICK = LiveTiming(open_timeout_s=0.4, stall_after_s=0.15, retry_first_s=0.01, retry_most_s=0.08)

Step = Callable[[], SoundBlock | None]


class FakeLink:
    """A microphone that does what a list of steps says; then it is silent."""

    device_name = "Fake"
    sample_rate_hz = RATE
    channels = 2
    latency_s = 0.01

    def __init__(self, steps: Iterator[str], counters: dict[str, int] | None = None) -> None:
        self._steps = steps
        self._counters = {} if counters is None else counters
        self._lost = 0
        self.closed = False

    def read(self, timeout_s: float) -> SoundBlock | None:
        step = next(self._steps, "silence")
        self._counters[step] = self._counters.get(step, 0) + 1
        if step == "silence":
            time.sleep(min(timeout_s, 0.01))
            return None
        if step == "gone":
            raise DeviceUnavailable("Fake is gone")
        if step == "bug":
            raise ZeroDivisionError("a driver's bug")
        if step == "lost":
            self._lost += 4000
        value = np.nan if step == "nan" else 0.1
        samples = np.full((BLOCK, 2), value, np.float32)
        samples[::2] *= -1
        return SoundBlock(samples, time.monotonic(), self._lost, self._lost // 4000)

    def close(self) -> None:
        self.closed = True


def microphone(
    connect: Callable[[], FakeLink], heard: Heard | None = None, timing: LiveTiming = QUICK
) -> Microphone:
    return Microphone(
        "Fake",
        connect=connect,
        sample_rate_hz=RATE,
        chunk_s=BLOCK / RATE,
        queue_s=1000 * BLOCK / RATE,
        timing=timing,
        on_event=heard or Heard(),
    )


def forever(step: str) -> Iterator[str]:
    while True:
        yield step
        time.sleep(0.001)


@pytest.mark.usefixtures("nothing_left")
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.lists(st.sampled_from(["sound", "sound", "nan", "lost", "silence", "bug"]), max_size=8),
        min_size=1,
        max_size=5,
    )
)
def test_whatever_a_device_does_the_reader_gets_its_sound_in_order(lives):
    lives = [[*steps, "gone"] for steps in lives]
    given_lives = iter(lives)
    links = []

    def connect() -> FakeLink:
        steps = next(given_lives, None)
        links.append(FakeLink(iter(steps) if steps else forever("sound")))
        return links[-1]

    def dead_after(steps: list[str]) -> int:
        """How many blocks come before the device breaks."""
        alive = steps[: min(steps.index(end) for end in ("bug", "gone") if end in steps)]
        return sum(step != "silence" for step in alive)

    with microphone(connect).start(wait=True) as source:
        chunks = []
        while not chunks or source.connections <= sum(map(bool, map(dead_after, lives))):
            chunk = source.read(5.0)
            assert chunk is not None
            chunks.append(chunk)
    assert [chunk.sequence for chunk in chunks] == list(range(len(chunks)))
    assert all(np.isfinite(chunk.samples).all() for chunk in chunks)
    connections = [chunk.connection for chunk in chunks]
    assert connections == sorted(connections)
    expected = [blocks for blocks in map(dead_after, lives) if blocks]
    assert [connections.count(n + 1) for n in range(len(expected))] == expected
    lost = [chunk.dropped_samples for chunk in chunks]
    assert lost == sorted(lost)
    assert all(link.closed for link in links)


@pytest.mark.usefixtures("nothing_left")
def test_five_hundred_reconnections_leave_nothing_behind(heard):
    timing = LiveTiming(
        open_timeout_s=1.0, stall_after_s=0.5, retry_first_s=1e-4, retry_most_s=1e-3
    )
    with microphone(lambda: FakeLink(iter(["sound", "gone"])), heard, timing).start(wait=False) as (
        source
    ):
        eventually(lambda: source.connections > 500, 60.0)
    assert heard.said.count(("unplugged", True)) >= 500
    assert len(source.events) == 100


def test_an_outage_is_said_once_however_many_attempts_fail(heard):
    attempts = 0

    def connect() -> FakeLink:
        nonlocal attempts
        attempts += 1
        if 1 < attempts < 8:
            raise DeviceUnavailable("busy")
        return FakeLink(iter(["sound", "gone"]) if attempts == 1 else forever("sound"))

    with microphone(connect, heard).start(wait=False) as source:
        heard.wait_for("unplugged", False)
        assert source.troubles == frozenset()
    assert heard.said == [("unplugged", True), ("unplugged", False)]
    assert heard.events[1].lasted_s > 0.0
    assert "Fake" in heard.events[0].message


def test_the_wait_between_attempts_grows_and_is_bounded():
    tried: list[float] = []

    def connect() -> FakeLink:
        tried.append(time.monotonic())
        raise DeviceUnavailable("absent")

    timing = LiveTiming(retry_first_s=0.02, retry_most_s=0.1)
    with microphone(connect, timing=timing).start(wait=True):
        eventually(lambda: len(tried) >= 7)
    waits = np.diff(tried)[:6]
    assert (waits >= np.array([0.02, 0.04, 0.08, 0.1, 0.1, 0.1]) - 1e-3).all()


def test_a_device_that_ran_for_a_while_is_tried_again_at_once(monkeypatch):
    monkeypatch.setattr(live, "_PROVEN_S", 0.05)
    attempts: list[float] = []
    lost: list[float] = []

    def connect() -> FakeLink:
        attempts.append(time.monotonic())
        if len(attempts) < 6:
            raise DeviceUnavailable("absent")
        return FakeLink(iter(["sound", "silence", "silence"] * 10 + ["gone"]))

    timing = LiveTiming(stall_after_s=5.0, retry_first_s=0.01, retry_most_s=30.0)
    with microphone(connect, timing=timing).start(wait=True) as source:
        eventually(lambda: source.connections == 1)
        eventually(lambda: bool(source.troubles))
        lost.append(time.monotonic())
        eventually(lambda: source.connections == 2)
    # Without the reset the wait would by now have grown to 0.32 s.
    assert attempts[6] - lost[0] < 0.2


@pytest.mark.usefixtures("nothing_left")
def test_a_link_that_falls_silent_counts_as_stalled_and_is_opened_again(heard):
    lives = iter([iter(["sound"] * 3), forever("sound")])
    counters: dict[str, int] = {}
    with microphone(lambda: FakeLink(next(lives), counters), heard).start(wait=False) as source:
        heard.wait_for("stalled", False)
        eventually(lambda: source.connections == 2)
    assert heard.said == [("stalled", True), ("stalled", False)]


def test_a_stall_that_turns_into_an_absence_is_one_outage(heard):
    attempts = 0

    def connect() -> FakeLink:
        nonlocal attempts
        attempts += 1
        if 1 < attempts < 5:
            raise DeviceUnavailable("absent")
        return FakeLink(iter(["sound"]) if attempts == 1 else forever("sound"))

    with microphone(connect, heard).start(wait=False):
        heard.wait_for("stalled", False)
    assert heard.said == [("stalled", True), ("stalled", False)]


def test_a_link_that_never_delivers_is_given_the_time_for_opening(heard):
    begun = time.monotonic()
    with microphone(lambda: FakeLink(iter([])), heard).start(wait=False) as source:
        said = heard.wait_for("stalled", True)
        assert said - begun >= QUICK.stall_after_s - 0.01
        assert source.connections == 0
        assert source.read(0.05) is None


def test_the_first_failure_is_raised_and_told_nobody_else(heard):
    def connect() -> FakeLink:
        raise DeviceUnavailable("Fake is busy")

    with pytest.raises(DeviceUnavailable, match=r"Fake is busy\. Nothing was opened"):
        microphone(connect, heard).start(wait=False)
    assert heard.events == []


def test_a_missing_package_is_raised_even_by_those_who_wait(heard):
    def connect() -> FakeLink:
        raise MissingExtra("Using a microphone", "sounddevice")

    with pytest.raises(MissingExtra):
        microphone(connect, heard).start(wait=True)


@pytest.mark.usefixtures("nothing_left")
def test_an_on_event_that_fails_or_closes_the_source_harms_nothing(caplog):
    sources: list[Microphone] = []
    told: list[DeviceEvent] = []

    def on_event(event: DeviceEvent) -> None:
        told.append(event)
        sources[0].close()
        raise RuntimeError("the user's own bug")

    link = FakeLink(iter(["sound"] * 2))
    source = microphone(lambda: link)
    source._troubles = TroubleLog("Fake", on_event)
    sources.append(source)
    source.start(wait=False)
    eventually(lambda: link.closed and bool(caplog.records))
    (logged,) = caplog.records
    assert logged.getMessage() == "edgeprune: on_event failed; the device goes on"
    assert str(logged.exc_info[1]) == "the user's own bug"
    assert len(told) == 1  # a source that is closed has nothing more to tell
    assert source.ended
    while source.read(timeout_s=0) is not None:
        pass  # what was heard before can still be read
    assert source.read() is None


def test_without_on_event_each_trouble_is_one_line_of_the_log(caplog):
    log = TroubleLog("Fake")
    for _ in range(3):
        log.begin("unplugged", "Fake is gone.")
    log.end("unplugged", "Fake is back.")
    log.end("unplugged", "Fake is back.")
    assert [record.getMessage() for record in caplog.records] == [
        "edgeprune: Fake is gone.",
        "edgeprune: Fake is back.",
    ]


def test_what_comes_and_goes_with_the_sound_is_not_told_for_ever():
    now = 0.0
    heard = Heard()
    log = TroubleLog("Fake", heard, clock=lambda: now)
    for _ in range(50):
        log.begin("muted", "Muted.")
        assert log.active == {"muted"}
        log.end("muted", "Not muted.")
        now += 1.0
    assert len(heard.events) == 10
    assert "for a minute" in heard.events[8].message
    now += 60.0
    log.begin("muted", "Muted.")
    assert heard.events[-1].message == "Muted."
    for nth in range(50):
        log.begin("unplugged", str(nth))
        log.end("unplugged", str(nth))
    assert heard.said.count(("unplugged", True)) == 50


@pytest.mark.parametrize(
    "bad", [{"stall_after_s": 0.0}, {"retry_first_s": 9.0}, {"open_timeout_s": float("nan")}]
)
def test_senseless_times_are_refused(bad):
    with pytest.raises(ValueError, match="s="):
        LiveTiming(**bad)


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 5))
def test_the_queue_keeps_the_newest_and_counts_the_rest(puts, capacity):
    queue = DropOldest[int](capacity)
    model: list[int] = []
    dropped = 0
    for number, is_put in enumerate(puts):
        if is_put:
            model.append(number)
            assert queue.put(number) == (len(model) > capacity)
            if len(model) > capacity:
                model.pop(0)
                dropped += 1
        else:
            got = queue.get(0.0)
            assert got == ((model.pop(0), dropped) if model else None)
    queue.close(discard=False)
    assert not queue.put(-1)
    assert [queue.get(None) for _ in model] == [(number, dropped) for number in model]
    assert queue.closed
    assert queue.get(None) is None


def test_closing_the_queue_wakes_every_reader():
    queue = DropOldest[int](1)
    got: list[object] = []
    readers = [threading.Thread(target=lambda: got.append(queue.get(None))) for _ in range(3)]
    for reader in readers:
        reader.start()
    queue.close(discard=True)
    for reader in readers:
        reader.join(5.0)
    assert got == [None] * 3
