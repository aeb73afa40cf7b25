"""The service over and over: replugged, restarted, reconnected. Nothing is lost, nothing grows."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ..devices.live.mjpeg import MjpegServer, numbered_frames
from ..devices.live.sound_server import Pulse
from ..live.conftest import Run
from ..live.running import DEMO, MODEL, Running, Usage
from .test_live_speech import stream, wait_until_open

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

TIMES = 20
RECONNECTS = int(os.environ.get("EDGEPRUNE_RECONNECTS", "500"))
MOST_GROWTH_MB = 5.0


class Talker:
    """Plays the demo's words again and again, whatever becomes of the speaker."""

    def __init__(self, pulse: Pulse, path: Path) -> None:
        stream(path, [(file, None) for file in sorted((DEMO / "adapt").glob("*.wav"))])
        self._pulse, self._path = pulse, path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._talk)
        self._thread.start()

    def _talk(self) -> None:
        words = ["paplay", "--device=speaker", str(self._path)]
        environment = {**os.environ, **self._pulse.environment}
        while not self._stop.wait(0.05):
            player = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
            while player.poll() is None and not self._stop.wait(0.05):
                pass
            player.kill()
            player.wait()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def talker(pulse: Pulse, home: Path) -> Iterator[Talker]:
    talker = Talker(pulse, home / "words.wav")
    yield talker
    talker.stop()


def ask(running: Running, name: str = "digits") -> dict[str, Any]:
    status: dict[str, Any] = running.ctl("--name", name, "status", "--json")
    return status


@pytest.mark.usefixtures("talker")
def test_replugged_and_restarted_twenty_times(run, pulse):
    words = (MODEL, "--source", "mic:pulse", "--wait", "--learn-after", "60", "--events")
    running = run(*words, environment=pulse.environment)
    wait_until_open(running, "digits")
    silences = []
    for _ in range(TIMES):
        answered = len(running.results)
        running.wait_for_results(answered + 2)
        began = time.monotonic()
        with outage(running, pulse.plug_in):
            pulse.unplug()
        silences.append(time.monotonic() - began)
    status = ask(running)
    assert status["pid"] == running.process.pid
    assert status["input"]["connections"] >= TIMES + 1
    counts = status["service"]["counts"]
    print(f"\nreplugged {TIMES} times: {counts['samples']} samples; from the pull to sound again "
          f"median {np.median(silences):.2f} s, worst {max(silences):.2f} s")  # fmt: skip
    running.wait_for(lambda: running.results[-1]["state"] == "personalized", 240.0)
    generation = running.results[-1]["generation"]
    assert running.stop() == 0
    _restart(run, words, pulse, len(running.results), generation)


@contextlib.contextmanager
def outage(running: Running, mend: Callable[[], object] = lambda: None) -> Iterator[None]:
    """The block breaks the device; wait until that was told, mend it, wait until it is over.

    A computer that is held up may see one outage more, or a stall where the device was gone.
    """

    def told(began: bool) -> int:
        events = [line for line in running.lines if line["type"] == "event"]
        return sum(one["kind"] in ("unplugged", "stalled") and one["began"] == began
                   for one in events)  # fmt: skip

    before = told(True)
    yield
    running.wait_for(lambda: told(True) > before, 30.0)
    mend()
    running.wait_for(lambda: told(False) == told(True), 30.0)


def _restart(
    run: Run, words: tuple[object, ...], pulse: Pulse, samples: int, generation: int
) -> None:
    """Counts go on to the sample, and what was learnt answers from the first sample on."""
    ready = []
    for times in range(1, TIMES + 1):
        began = time.monotonic()
        running = run(*words, environment=pulse.environment)
        running.wait_for_results(2)
        ready.append(time.monotonic() - began)
        status = ask(running)
        assert running.results[0]["state"] == "personalized"
        assert running.results[0]["generation"] >= generation
        assert status["service"]["counts"]["starts"] == times + 1
        assert running.stop() == 0
        samples += len(running.results)
        generation = max(generation, running.results[-1]["generation"])
    last = run(*words, environment=pulse.environment)
    last.wait_for_results(1)
    counted = ask(last)["service"]["counts"]["samples"]
    assert last.stop() == 0
    print(f"restarted {TIMES} times: {samples} samples before the last start, {counted} counted "
          f"during it; second answer {np.median(ready):.1f} s after the start")  # fmt: skip
    assert samples < counted <= samples + len(last.results)


def _grown(what: str, sizes: list[Usage]) -> None:
    """Print and judge: nothing grows after the first tenth."""
    tenth = max(1, len(sizes) // 10)
    early, late = sizes[tenth : 2 * tenth], sizes[-tenth:]
    memory = [float(np.median([size.memory_mb for size in part])) for part in (early, late)]
    files = [max(size.files for size in part) for part in (early, late)]
    threads = [max(size.threads for size in part) for part in (early, late)]
    quarters = [np.median([one.memory_mb for one in part]) for part in _quarters(sizes)]
    print(f"\n{what}: {len(sizes)} reconnections; memory {memory[0]:.1f} to {memory[1]:.1f} MB "
          f"(by quarters {np.round(quarters, 1)}), "
          f"files {files[0]} to {files[1]}, threads {threads[0]} to {threads[1]}")  # fmt: skip
    assert memory[1] - memory[0] < MOST_GROWTH_MB
    assert files[1] <= files[0]
    assert threads[1] <= threads[0]


def _quarters(sizes: list[Usage]) -> list[list[Usage]]:
    edges = [len(sizes) * quarter // 4 for quarter in range(5)]
    return [sizes[begin:end] for begin, end in itertools.pairwise(edges)]


def _children(pid: int) -> list[int]:
    tasks = (Path("/proc") / str(pid) / "task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


@pytest.mark.usefixtures("talker")
def test_a_service_whose_microphone_dies_five_hundred_times(run, pulse):
    words = (MODEL, "--source", "mic:pulse", "--wait", "--no-learn", "--events")
    running = run(*words, environment=pulse.environment)
    wait_until_open(running, "digits")
    sizes = []
    for _ in range(RECONNECTS):
        time.sleep(1.1)  # a device that ran for a second is opened again at once
        (worker,) = _children(running.process.pid)
        with outage(running):
            os.kill(worker, signal.SIGKILL)
        sizes.append(Usage.of(running.process.pid))
    assert ask(running)["input"]["connections"] > RECONNECTS
    assert running.stop() == 0
    print(f"\n{len(running.results)} words answered meanwhile")
    _grown("service with a microphone", sizes)


def test_a_service_whose_camera_is_restarted_five_hundred_times(run, pictures, data):
    pytest.importorskip("av", reason='pip install "edgeprune[camera]"')
    server = MjpegServer(numbered_frames(data / "tiny-imagenet" / "test", 20), rate_hz=10.0)
    server.start()
    words = ("--source", server.url, "--no-learn", "--events", "--name", "eye")
    running = run(pictures.model, *words)
    wait_until_open(running, "eye")
    sizes = []
    try:
        for _ in range(RECONNECTS):
            time.sleep(1.1)
            with outage(running, server.start):
                server.kill()
            sizes.append(Usage.of(running.process.pid))
        assert ask(running, "eye")["input"]["connections"] > RECONNECTS
        assert running.stop() == 0
    finally:
        server.kill()
    print(f"\n{len(running.results)} pictures answered meanwhile")
    _grown("service with a camera", sizes)
