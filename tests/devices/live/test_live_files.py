"""Files as sources: every frame and every sample, in order, upright and in the right colours."""

from __future__ import annotations

import io
import threading
import time

import numpy as np
import pytest
from PIL import Image

from edgeprune.devices import (
    BadSample,
    SoundFile,
    VideoFile,
    open_sound_file,
    open_source,
    open_video_file,
    read_audio,
)
from edgeprune.devices import _pyav as pyav

from .mjpeg import number_of, numbered_frames

av = pytest.importorskip("av", reason='pip install "edgeprune[camera]"')

# Top left, top right, bottom left; the bottom right is black.
CORNERS = ((220, 20, 20), (20, 200, 20), (20, 20, 210))


def corners(height: int = 48, width: int = 64) -> np.ndarray:
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = CORNERS[0]
    picture[: height // 2, width // 2 :] = CORNERS[1]
    picture[height // 2 :, : width // 2] = CORNERS[2]
    return picture


def write_video(path, pictures, codec="libx264", pix_fmt="yuv420p", *, turn=None, rate=25):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if codec == "libx264":
            stream.options = {"crf": "12"}
        if turn is not None:
            stream.set_display_rotation(turn[0], hflip=turn[1])
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("turn", "shown"),
    [
        (None, lambda p: p),
        ((90, False), lambda p: np.rot90(p, 1)),  # FFmpeg's turn is counter-clockwise
        ((-90, False), lambda p: np.rot90(p, -1)),
        ((180, False), lambda p: np.rot90(p, 2)),
        ((0, True), lambda p: p[:, ::-1]),
        ((45, False), lambda p: p),  # no quarter turn: left as it is
    ],
)
def test_rotation_metadata_are_honoured(tmp_path, turn, shown):
    if turn is not None and not hasattr(av.video.stream.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV cannot write rotation metadata")
    path = write_video(tmp_path / "turned.mp4", [corners()] * 3, turn=turn)
    with open_video_file(path) as source:
        frames = list(source)
    want = shown(corners())
    assert [(f.height, f.width) for f in frames] == [want.shape[:2]] * 3
    middle = (slice(6, None, 12), slice(6, None, 12))  # away from the edges, which blur
    assert np.abs(frames[0].rgb[middle].astype(int) - want[middle]).max() < 12


def test_eight_ways_to_turn_and_mirror_a_picture():
    """The display matrix against its definition: (x, y) goes to (a·x + c·y, b·x + d·y)."""
    stored = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    for a, b, c, d in [
        (1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1),
        (0, 1, 1, 0), (0, 1, -1, 0), (0, -1, 1, 0), (0, -1, -1, 0),
    ]:  # fmt: skip
        matrix = np.array([a, b, 0, c, d, 0, 0, 0, 1], "<i4") * 65_536

        class Picture:
            side_data = {"DISPLAYMATRIX": matrix.tobytes()}  # noqa: RUF012

        shown = pyav._upright(stored, Picture)
        where = {}
        for y in range(2):
            for x in range(3):
                where[a * x + c * y, b * x + d * y] = stored[y, x]
        left, top = min(x for x, _ in where), min(y for _, y in where)
        for (x, y), value in where.items():
            assert (shown[y - top, x - left] == value).all()
        assert shown.flags.c_contiguous


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mkv", "ffv1", "bgr0"),
        ("a.avi", "mjpeg", "yuvj420p"),
        ("a.mov", "mpeg4", "yuv420p"),
    ],
)
def test_colours_are_right_in_every_pixel_format(tmp_path, name, codec, pix_fmt):
    path = write_video(tmp_path / name, [corners()] * 2, codec, pix_fmt)
    with open_video_file(path) as source:
        frame = source.read()
    assert frame is not None
    seen = [frame.rgb[6, 6], frame.rgb[6, -6], frame.rgb[-6, 6]]
    assert np.abs(np.array(seen, int) - np.array(CORNERS)).max() < 10


def test_every_frame_comes_once_and_in_order(tmp_path, data):
    pictures = [
        np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
        for jpeg in numbered_frames(data / "tiny-imagenet" / "test", 40)
    ]
    path = write_video(tmp_path / "numbered.mp4", pictures)
    with open_video_file(path) as source:
        frames = []
        for frame in source:
            frames.append(frame)
            time.sleep(0.001)  # a slow reader loses nothing of a file
    assert [number_of(frame.rgb) for frame in frames] == list(range(40))
    assert [frame.sequence for frame in frames] == list(range(40))
    assert np.diff([frame.media_time_s for frame in frames]) == pytest.approx(0.04)
    assert np.diff([frame.timestamp_s for frame in frames]) == pytest.approx(0.04)
    assert source.ended
    assert source.read() is None


def test_a_paced_video_takes_its_time_and_can_be_stopped(tmp_path):
    path = write_video(tmp_path / "a.mp4", [corners()] * 50, rate=10)
    with open_video_file(path, paced=True) as source:
        begun = time.monotonic()
        assert source.read() is not None
        assert source.read(0.01) is None
        assert not source.ended
        second = source.read()
        assert second is not None
        assert second.sequence == 1
        assert time.monotonic() - begun >= 0.09
        threading.Timer(0.15, source.close).start()
        rest = list(source)
    assert len(rest) < 20
    assert source.ended


def test_videos_that_cannot_be_read(tmp_path):
    with pytest.raises(BadSample, match="no such file"):
        open_video_file(tmp_path / "gone.mp4")
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    with pytest.raises(BadSample, match="not a video that can be read"):
        open_video_file(text)
    noise = np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), np.uint8)
    whole = write_video(tmp_path / "whole.mkv", list(noise), "mpeg4").read_bytes()
    torn = tmp_path / "torn.mkv"
    torn.write_bytes(whole[: len(whole) // 2])
    with open_video_file(torn) as source:
        assert 5 < len(list(source)) < 30
    spoilt = bytearray(whole)
    spoilt[len(whole) // 3 : len(whole) // 3 + 200] = b"\xff" * 200
    torn.write_bytes(spoilt)
    with open_video_file(torn) as source:
        assert 5 < len(list(source)) <= 30


def test_a_file_name_is_never_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_video(tmp_path / "a.mkv", [corners()], "mpeg4").rename(tmp_path / "concat:b.mkv")
    with open_video_file(path.name) as source:
        assert source.read() is not None


def test_a_device_format_is_read_without_blocking():
    """FFmpeg's test pattern is an input device to it, opened as a webcam is."""
    container = pyav.open_container(
        "testsrc=size=64x48:rate=25", "lavfi", {"fflags": pyav._NON_BLOCKING}, (5.0, 1.0)
    )
    assert container.flags & 4
    assert next(pyav.decoded(container)).width == 64
    container.close()


def test_a_camera_without_a_frame_ready_is_asked_again(monkeypatch):
    class Hesitant:
        """Raises as a non-blocking device does when no frame is ready: here every other time."""

        def __init__(self):
            self.container = av.open("testsrc=size=64x48:rate=25", format="lavfi")
            self.streams = self.container.streams
            self.asked = 0
            self.silent = False

        def demux(self, stream):
            while True:
                self.asked += 1
                if self.silent or self.asked % 2:
                    raise av.error.BlockingIOError(11, "Resource temporarily unavailable")
                yield next(self.container.demux(stream))

        def close(self):
            self.container.close()

    hesitant = Hesitant()
    monkeypatch.setattr(pyav, "open_container", lambda *_: hesitant)
    link = pyav.AvLink("x", "v4l2", {}, open_timeout_s=1.0, read_timeout_s=1.0)
    for _ in range(3):
        frame = link.read(1.0)
        assert frame is not None
        assert frame.rgb().shape == (48, 64, 3)
        assert frame.thumbnail().shape == (32, 32)
    hesitant.silent = True
    assert link.read(0.05) is None
    link.close()


def test_a_recording_comes_in_chunks_without_loss(data):
    path = sorted((data / "fsdd").glob("*_7.wav"))[0]
    clip = read_audio(path)
    with open_sound_file(path, chunk_s=0.02) as source:
        chunks = list(source)
    joined = np.concatenate([chunk.samples for chunk in chunks])
    assert {len(chunk.samples) for chunk in chunks} == {160}
    np.testing.assert_array_equal(joined[: len(clip.samples)], clip.samples)
    assert not joined[len(clip.samples) :].any()
    assert np.diff([chunk.timestamp_s for chunk in chunks]) == pytest.approx(0.02)
    assert source.ended


def test_a_recording_at_another_rate_and_in_real_time(data):
    path = sorted((data / "fsdd").glob("*_7.wav"))[0]
    begun = time.monotonic()
    with open_sound_file(path, sample_rate_hz=16_000, chunk_s=0.1, paced=True) as source:
        chunks = list(source)
    assert time.monotonic() - begun >= 0.1 * (len(chunks) - 1) - 0.01
    assert chunks[0].sample_rate_hz == 16_000
    with open_sound_file(path, chunk_s=0.1, paced=True) as source:
        assert source.read(1.0) is not None
        threading.Timer(0.02, source.close).start()
        assert list(source) == []


def test_one_word_opens_any_file(data, tmp_path):
    path = sorted((data / "fsdd").glob("*_7.wav"))[0]
    assert isinstance(open_source(str(path)), SoundFile)
    video = write_video(tmp_path / "a.mp4", [corners()])
    with open_source(str(video), paced=False) as source:
        assert isinstance(source, VideoFile)


@pytest.mark.parametrize("chunk_s", [0.0, 1e4])
def test_senseless_chunks_are_refused(data, chunk_s):
    path = sorted((data / "fsdd").glob("*_7.wav"))[0]
    with pytest.raises(ValueError, match="chunk_s"):
        open_sound_file(path, chunk_s=chunk_s)
