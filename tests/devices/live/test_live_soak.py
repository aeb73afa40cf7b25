"""Hundreds of reconnections: nothing grows. Slow; run with ``pytest -m slow -s``."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from edgeprune.devices import LiveTiming, Segmenter, open_camera, open_microphone

from .conftest import Heard
from .mjpeg import MjpegServer, numbered_frames

TIMES = 500
WARM = 50
MOST_GROWTH_MB = 5.0
QUICK = LiveTiming(retry_first_s=0.01, retry_most_s=0.05)


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def report(what: str, sizes: list[float]) -> None:
    print(f"\n{what}: {len(sizes)} reconnections, resident memory {sizes[0]:.1f} MB at first, "
          f"{sizes[WARM]:.1f} MB after {WARM}, {sizes[-1]:.1f} MB at the end")  # fmt: skip
    assert sizes[-1] - sizes[WARM] < MOST_GROWTH_MB


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_left")
def test_a_microphone_whose_process_dies_five_hundred_times(pulse):
    heard = Heard()
    sizes = []
    segmenter = Segmenter(sample_rate_hz=16_000, window_s=1.0)
    with open_microphone("pulse", sample_rate_hz=16_000, timing=QUICK, on_event=heard) as source:
        for nth in range(1, TIMES + 1):
            while (chunk := source.read(10.0)) is not None and chunk.connection < nth:
                segmenter.push(chunk)
            assert chunk is not None
            os.kill(source._link._worker._process.pid, signal.SIGKILL)
            heard.wait_for("unplugged", True, nth=nth)
            sizes.append(resident_mb())
    report("microphone", sizes)
    assert heard.said.count(("unplugged", True)) == TIMES


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_left")
def test_a_camera_that_is_restarted_five_hundred_times(data):
    pytest.importorskip("av", reason='pip install "edgeprune[camera]"')
    server = MjpegServer(numbered_frames(data / "tiny-imagenet" / "test", 20), rate_hz=100.0)
    server.start()
    heard = Heard()
    sizes = []
    with open_camera(server.url, timing=QUICK, on_event=heard) as source:
        for nth in range(1, TIMES + 1):
            while (frame := source.read(10.0)) is not None and frame.connection < nth:
                pass
            assert frame is not None
            server.kill()
            heard.wait_for("unplugged", True, nth=nth)
            server.sent_s.clear()
            server.start()
            sizes.append(resident_mb())
    server.kill()
    report("camera", sizes)
