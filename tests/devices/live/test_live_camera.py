"""Cameras through PyAV: a network camera on loopback that stalls, dies and comes back."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from edgeprune.devices import (
    DeviceNotFound,
    DeviceStalled,
    DeviceUnavailable,
    LiveTiming,
    MissingExtra,
    open_camera,
)

from .conftest import Heard, Stopwatch
from .mjpeg import MjpegServer, number_of, numbered_frames
from .rtsp import RtspServer

pytest.importorskip("av", reason='pip install "edgeprune[camera]"')

FAST = LiveTiming(retry_first_s=0.1, retry_most_s=0.4)
FRAMES = 1000


@pytest.fixture(scope="session")
def frames(data) -> list[bytes]:
    return numbered_frames(data / "tiny-imagenet" / "test", FRAMES)


@pytest.fixture
def server(frames: list[bytes]) -> Iterator[MjpegServer]:
    server = MjpegServer(frames)
    server.start()
    yield server
    server.kill()


def solid(*rgb: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 48), rgb).save(out, "JPEG", quality=95, subsampling=0)
    return out.getvalue()


def test_frames_come_in_order_and_every_drop_is_counted(server):
    with open_camera(server.url) as source:
        first = source.read(5.0)
        assert first is not None
        offset = number_of(first.rgb) - first.sequence
        last = first
        for _ in range(60):
            frame = source.read(5.0)
            assert frame is not None
            assert number_of(frame.rgb) == frame.sequence + offset
            assert frame.sequence > last.sequence
            assert frame.timestamp_s > last.timestamp_s
            last = frame
        assert last.sequence - first.sequence - 60 == last.dropped_frames - first.dropped_frames
        assert (last.width, last.height, last.connection) == (128, 128, 1)
        assert last.troubles == frozenset()


def test_a_slow_reader_sees_the_latest_frame_and_never_lags(server, stopwatch):
    delays, gaps = [], []
    with open_camera(server.url) as source:
        last = source.read(5.0)
        assert last is not None
        for _ in range(12):
            time.sleep(0.12)  # six frames pass meanwhile
            frame = source.read(5.0)
            assert frame is not None
            delays.append(time.monotonic() - server.sent_s[number_of(frame.rgb)])
            gaps.append(frame.sequence - last.sequence)
            last = frame
        assert last.dropped_frames > 30
    print(f"\nslow reader: age of the frame in hand {1000 * np.median(delays):.0f} ms (median)")
    assert np.median(gaps) > 3
    # It does not grow: the last are as fresh as the first.
    assert stopwatch.within(np.median(delays[-4:]), np.median(delays[:4]) + 0.1)


def test_a_fast_reader_gets_every_frame(server):
    server.rate_hz = 25.0
    with open_camera(server.url) as source:
        got = [frame for frame in (source.read(5.0) for _ in range(30)) if frame is not None]
        ages = [time.monotonic() - server.sent_s[number_of(got[-1].rgb)]]
    sequences = np.diff([frame.sequence for frame in got])
    assert (sequences == 1).mean() > 0.8
    print(f"\nage of the last frame in hand {1000 * ages[0]:.1f} ms")


@pytest.mark.parametrize("rgb", [(220, 30, 30), (30, 200, 40), (20, 40, 210), (230, 220, 20)])
def test_colours_are_red_green_blue(rgb):
    server = MjpegServer([solid(*rgb)])
    server.start()
    try:
        with open_camera(server.url) as source:
            frame = source.read(5.0)
    finally:
        server.kill()
    assert frame is not None
    assert frame.rgb.shape == (48, 64, 3)
    assert np.abs(frame.rgb.reshape(-1, 3).astype(int).mean(axis=0) - rgb).max() < 4


@pytest.mark.usefixtures("nothing_left")
def test_a_camera_that_speaks_rtsp(frames, heard: Heard):
    pictures = [np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) for jpeg in frames[:100]]
    server = RtspServer(pictures)
    begun = time.monotonic()
    with open_camera(server.url, timing=FAST, on_event=heard) as source:
        first = source.read(5.0)
        assert first is not None
        offset = number_of(first.rgb) - first.sequence
        print(f"\nRTSP: first picture after {1000 * (time.monotonic() - begun):.0f} ms")
        for _ in range(30):
            frame = source.read(5.0)
            assert frame is not None
            assert number_of(frame.rgb) == (frame.sequence + offset) % 100
        assert frame.rgb.shape == (128, 128, 3)
        server.close()
        heard.wait_for("unplugged", True)
    assert source.connections == 1


@pytest.mark.usefixtures("nothing_left")
def test_a_stalled_stream_is_noticed_said_once_and_recovered(server, heard, stopwatch):
    with open_camera(server.url, timing=FAST, on_event=heard) as source:
        assert source.read(5.0) is not None
        stalled = time.monotonic()
        server.stalled.set()
        noticed = heard.wait_for("stalled", True) - stalled
        print(f"\nstalled stream noticed after {noticed:.2f} s")
        assert stopwatch.within(noticed, 2.0)
        time.sleep(0.5)
        server.stalled.clear()
        heard.wait_for("stalled", False)
        while (frame := source.read(5.0)) is not None and frame.connection == 1:
            pass
        assert frame is not None
    assert heard.said == [("stalled", True), ("stalled", False)]
    assert all(server.url in event.message for event in heard.events)


def kill_and_restart(server: MjpegServer, times: int, heard: Heard) -> list[tuple[float, float]]:
    took = []
    with open_camera(server.url, timing=FAST, on_event=heard) as source:
        assert source.read(5.0) is not None
        for nth in range(1, times + 1):
            killed = time.monotonic()
            server.kill()
            noticed = heard.wait_for("unplugged", True, nth=nth) - killed
            time.sleep(0.2)
            restarted = time.monotonic()
            server.start()
            back = heard.wait_for("unplugged", False, nth=nth) - restarted
            took.append((noticed, back))
            while (frame := source.read(5.0)) is not None and frame.connection <= nth:
                pass
            assert frame is not None
        assert source.connections == times + 1
    return took


def assert_restarts(server: MjpegServer, times: int, heard: Heard, stopwatch: Stopwatch) -> None:
    took = np.array(kill_and_restart(server, times, heard))
    print(
        f"\nkilled {times} times: noticed after {1000 * took[:, 0].mean():.0f} ms (worst "
        f"{1000 * took[:, 0].max():.0f}), pictures again {1000 * took[:, 1].mean():.0f} ms "
        f"after the return (worst {1000 * took[:, 1].max():.0f})"
    )
    assert stopwatch.within(took[:, 0].max(), 2.0)
    assert len(heard.events) == 2 * times


@pytest.mark.usefixtures("nothing_left")
def test_killed_and_restarted_three_times(server, heard, stopwatch):
    assert_restarts(server, 3, heard, stopwatch)


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_left")
def test_killed_and_restarted_a_hundred_times(server, heard, stopwatch):
    assert_restarts(server, 100, heard, stopwatch)


def test_damaged_pictures_are_passed_over(frames):
    torn = [frames[0], frames[1][:200], b"not a picture at all", frames[3]]
    server = MjpegServer(torn)
    server.start()
    try:
        with open_camera(server.url, on_event=Heard()) as source:
            numbers = {
                number_of(frame.rgb)
                for frame in (source.read(5.0) for _ in range(12))
                if frame is not None
            }
    finally:
        server.kill()
    assert {0, 3} & numbers


def test_a_camera_that_refuses_says_why_and_never_the_password(server):
    server.refuse = 403
    address = server.url.replace("http://", "http://user:secret@").replace(".mjpg", ".mjpg?key=x1")
    with pytest.raises(DeviceUnavailable, match="403") as caught:
        open_camera(address)
    assert "secret" not in str(caught.value)
    assert "x1" not in str(caught.value)
    assert caught.value.exit_code == 4


def test_a_camera_that_never_answers_times_out(server, stopwatch):
    server.stalled.set()
    begun = time.monotonic()
    with pytest.raises(DeviceStalled, match="did not answer in time"):
        open_camera(server.url, timing=LiveTiming(open_timeout_s=0.7))
    assert stopwatch.within(time.monotonic() - begun, 3.0)


def test_nobody_listens(server):
    server.kill()
    with pytest.raises(DeviceUnavailable, match="refused"):
        open_camera(server.url)


@pytest.mark.usefixtures("nothing_left")
def test_closing_while_it_waits_and_from_another_thread(server):
    source = open_camera(server.url)
    threading.Timer(0.3, source.close).start()
    assert len(list(source)) > 3
    assert source.ended
    server.kill()
    late = open_camera(server.url, wait=True, on_event=Heard())
    assert late.read(0.3) is None
    late.close()
    assert late.ended


def test_black_and_white_pictures_are_noticed_and_get_better(frames, heard, stopwatch):
    server = MjpegServer([solid(0, 0, 0)])
    server.start()
    try:
        with open_camera(server.url, on_event=heard) as source:
            heard.wait_for("muted", True)
            frame = source.read(5.0)
            assert frame is not None
            assert "muted" in source.troubles
            server.frames = [solid(255, 255, 255)]
            white = time.monotonic()
            assert stopwatch.within(heard.wait_for("overdriven", True) - white, 2.0)
            server.frames = frames
            heard.wait_for("overdriven", False)
    finally:
        server.kill()
    assert heard.said == [
        ("muted", True),
        ("muted", False),
        ("overdriven", True),
        ("overdriven", False),
    ]


def test_what_is_no_camera_is_refused_by_name():
    with pytest.raises(DeviceNotFound):
        open_camera("No Such Camera 9000")
    with pytest.raises(DeviceNotFound):
        open_camera("file:///etc/passwd")
    with pytest.raises(DeviceUnavailable, match="No such file"):
        open_camera("/dev/video98765")


def test_without_pyav_the_line_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(MissingExtra, match='pip install "edgeprune\\[camera\\]"'):
        open_camera("http://127.0.0.1:9/")
