"""What the network is given of sources: pictures, times, counts, ends."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from edgeprune.devices import (
    DeviceUnavailable,
    FrameThinner,
    ImagePreprocess,
    LogMelPreprocess,
    MissingLibrary,
    SourceError,
    VideoFrame,
    WaveformPreprocess,
    open_folder,
    open_video_file,
)
from edgeprune.service._inputs import InputOptions
from edgeprune.service._open_input import open_input
from edgeprune.service._picture_input import PictureInput

from .running import DEMO

SEES = ImagePreprocess(height=24, width=24, mean=(127.0,), std=(64.0,))
HEARS = WaveformPreprocess(sample_rate_hz=8000, duration_s=1.0)
FAST = InputOptions(pace="fast")
SOUNDS = DEMO / "adapt"


def corners() -> np.ndarray:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32] = (220, 20, 20), (20, 200, 20), 255
    return picture


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Thirty frames of a turned camera: ten alike, ten alike, ten all different."""
    pytest.importorskip("av", reason='pip install "edgeprune[camera]"')
    from ..devices.live.test_live_files import write_video

    moving = [np.roll(corners(), 5 * step, axis=1) for step in range(10)]
    pictures = [corners()] * 10 + [255 - corners()] * 10 + moving
    return write_video(tmp_path / "film.mp4", pictures, turn=(90, False))


def test_every_picture_of_a_film_is_answered_and_what_is_new_teaches(film):
    with open_input(str(film), SEES, FAST) as samples, open_video_file(film) as frames:
        live = list(samples)
        assert [sample.sequence for sample in live] == list(range(30))
        for sample, frame in zip(live, frames, strict=True):
            assert frame.rgb.shape == (64, 48, 3)  # upright
            assert sample.array.tobytes() == SEES(frame.rgb).tobytes()
    taught = [sample.sequence for sample in live if sample.teaches]
    assert taught[:2] == [0, 10]
    assert len(taught) > 5
    counts = samples.counts
    assert (counts.samples, counts.teaching) == (30, len(taught))
    assert counts.held_back == {"near-duplicate": 30 - len(taught)}
    red = live[0].array[0] - live[0].array[2]  # turned by a quarter to the left, not blue for red
    assert red[23 - 3, 3] > 1.0


def test_without_thinning_everything_teaches(film):
    options = InputOptions(pace="fast", thin=False)
    with open_input(str(film), SEES, options) as samples:
        assert all(sample.teaches for sample in samples)
    assert samples.counts.held_back == {}


class Frames:
    """A camera that is too fast for its reader, and goes black."""

    name, live = "camera", True

    def __init__(self) -> None:
        self.ended = False
        self._frames = [
            VideoFrame(corners(), 1.0, 0),
            VideoFrame(255 - corners(), 2.0, 7, dropped_frames=6),
            VideoFrame(0 * corners(), 3.0, 8, dropped_frames=6, troubles=frozenset({"muted"})),
        ]

    def read(self, timeout_s: float | None = None) -> VideoFrame | None:
        self.ended = len(self._frames) == 1
        return self._frames.pop(0) if self._frames else None

    def close(self) -> None:
        self.ended = True


def test_what_was_passed_over_is_counted_and_what_shows_nothing_does_not_teach():
    samples = PictureInput(Frames(), SEES, FrameThinner(), "camera")  # type: ignore[arg-type]
    assert samples.delivered_s is None
    found = list(samples)
    assert [(one.sequence, one.timestamp_s, one.teaches) for one in found] == [
        (0, 1.0, True),
        (7, 2.0, True),
        (8, 3.0, False),
    ]
    counts = samples.counts
    assert counts.to_dict() | {"passed_over": 6, "held_back": {"muted": 1}} == counts.to_dict()
    assert samples.delivered_s is not None


def test_a_folder_is_a_sample_a_file():
    preprocess = LogMelPreprocess(sample_rate_hz=8000, duration_s=1.0, window_samples=256,
                                  fft_samples=256, hop_samples=128, bands=20)  # fmt: skip
    folder = open_folder(SOUNDS, preprocess)
    with open_input(str(SOUNDS), preprocess, FAST) as samples:
        live = list(samples)
        assert samples.ended
        assert samples.read(0.0) is None
    assert [sample.source for sample in live] == [str(path) for path in folder.paths]
    assert all(one.array.tobytes() == folder[i].array.tobytes() for i, one in enumerate(live[:9]))
    assert samples.counts.samples == len(folder) == 120


def test_real_time_takes_its_time_and_can_be_closed_from_another_thread():
    samples = open_input(str(SOUNDS), HEARS)
    began = time.monotonic()
    assert samples.read(0.1) is None
    assert not samples.ended
    first = samples.read(5.0)
    assert first is not None
    assert 1.0 <= time.monotonic() - began < 3.0
    assert abs(time.monotonic() - first.timestamp_s) < 0.5
    threading.Timer(0.2, samples.close).start()
    assert list(samples) == []
    assert samples.ended
    assert time.monotonic() - began < 4.0


def test_a_recording_read_in_small_steps_ends(tmp_path):
    with open_input(str(SOUNDS / "take_0001.wav"), HEARS, FAST) as samples:
        found = []
        while not samples.ended:
            sample = samples.read(0.001)
            if sample is not None:
                found.append(sample)
        assert samples.read(0.0) is None
        assert len(found) == samples.counts.samples
        assert found[0].array.shape == (1, 8000)
        assert samples.delivered_s is not None


@pytest.mark.parametrize(
    ("text", "preprocess", "reason"),
    [
        ("mic", SEES, "wants pictures, and mic delivers sound"),
        ("mic:USB", SEES, "--source camera"),
        ("camera:Web", HEARS, "wants sound, and camera:Web delivers pictures"),
        ("http://127.0.0.1:9/", HEARS, "--source mic"),
        ("/dev/video0", HEARS, "delivers pictures"),
        (str(SOUNDS / "take_0001.wav"), SEES, "delivers sound"),
        (str(SOUNDS), SEES, "No sample was found"),
        ("nothing", SEES, "names no source"),
        (str(SOUNDS), WaveformPreprocess(sample_rate_hz=8000, duration_s=1.0), None),
        ("mic", WaveformPreprocess(sample_rate_hz=8000, duration_s=100.0), "0.05 to 60 s only"),
    ],
)
def test_the_wrong_kind_of_source_is_told(text, preprocess, reason):
    if reason is None:
        open_input(text, preprocess).close()
        return
    with pytest.raises(SourceError, match=reason):
        open_input(text, preprocess)


def test_a_camera_that_is_not_there():
    pytest.importorskip("av", reason='pip install "edgeprune[camera]"')
    with pytest.raises(DeviceUnavailable):
        open_input("http://127.0.0.1:9/", SEES)
    with open_input("http://127.0.0.1:9/", SEES, InputOptions(wait=True)) as samples:
        assert samples.read(0.2) is None
        assert not samples.ended
        assert samples.delivered_s is None
        until = time.monotonic() + 10.0
        while samples.troubles != {"unplugged"} and time.monotonic() < until:
            time.sleep(0.05)
        assert samples.troubles == {"unplugged"}


def test_the_voice_gate(monkeypatch):
    from edgeprune import _voice as voice

    options = InputOptions(pace="fast", voice=True)
    path = str(SOUNDS / "take_0001.wav")
    monkeypatch.setattr(voice, "_installed", lambda: (_ for _ in ()).throw(
        MissingLibrary("The voice gate", "the model of silero-vad", "pip install")))  # fmt: skip
    with pytest.raises(MissingLibrary):
        open_input(path, HEARS, options)

    class Deaf:
        sample_rate_hz = 8000

        def __call__(self, samples: np.ndarray) -> float:
            return 0.1

    monkeypatch.setattr(voice, "SileroVoice", Deaf)
    with open_input(path, HEARS, options) as samples:
        assert list(samples) == []
        assert samples.counts.dropped == {"no voice": 1}
