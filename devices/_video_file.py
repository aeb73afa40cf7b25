"""A video file as a source: every frame, in order."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, Final

from ._chunks import VideoFrame
from ._errors import BadSample, DeviceUnavailable
from ._pace import Pace
from ._pyav import AvFrame, Converters, decoded, import_av, open_container
from ._source import Source

__all__ = ["VIDEO_SUFFIXES", "VideoFile", "open_video_file"]

_END: Final = object()
VIDEO_SUFFIXES: Final = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")


class VideoFile(Source[VideoFrame]):
    """Every frame of a video file, in order; build it with `open_video_file`.

    Frames that are damaged are counted in ``dropped_frames``.
    """

    live = False

    def __init__(self, path: Path, *, paced: bool) -> None:
        if not path.is_file():
            raise BadSample(path, "no such file")
        try:
            # "file:" keeps a name with a colon from being taken for a protocol, and a playlist
            # that calls itself a video must not reach for the network.
            options = {"protocol_whitelist": "file"}
            self._container = open_container(f"file:{path}", None, options, None)
        except DeviceUnavailable as error:
            raise BadSample(path, f"not a video that can be read ({error})") from error
        self.name = str(path)
        self._pictures = decoded(self._container)
        self._convert = Converters()
        self._pace = Pace(paced)
        self._ready: AvFrame | None = None
        self._first_s: float | None = None
        self._sequence = 0
        self._damaged = 0
        self._finished = False
        self._lock = threading.Lock()

    @property
    def ended(self) -> bool:
        """Whether the file was read to its end, or closed."""
        return self._pace.closed or self._finished

    def read(self, timeout_s: float | None = None) -> VideoFrame | None:
        """Return the next frame; see `Source.read`."""
        with self._lock:
            frame = self._ready or self._next()
            if frame is None:
                self._shut()
                return None
            self._ready = frame
            if not self._pace.wait(self._due_s(frame), timeout_s):
                return None
            self._ready = None
            return self._finish(frame)

    def close(self) -> None:
        """End the iteration and close the file."""
        self._pace.close()
        with self._lock:
            self._shut()

    def _next(self) -> AvFrame | None:
        while not self.ended:
            picture = self._decode()
            if picture is _END:
                return None
            if picture is not None:
                return AvFrame(picture, time.monotonic(), picture.time, self._convert)
            self._damaged += 1
        return None

    def _decode(self) -> Any:
        try:
            return next(self._pictures, _END)
        except import_av().error.FFmpegError:  # what cannot even be cut into packets ends the file
            self._damaged += 1
            return _END

    def _due_s(self, frame: AvFrame) -> float:
        if self._first_s is None:
            self._first_s = frame.media_time_s or 0.0
        return max(0.0, (frame.media_time_s or 0.0) - self._first_s)

    def _finish(self, frame: AvFrame) -> VideoFrame:
        timed = frame.media_time_s is not None
        shown = VideoFrame(
            frame.rgb(),
            self._pace.time(self._due_s(frame)) if timed else frame.timestamp_s,
            self._sequence,
            frame.media_time_s,
            self._damaged,
        )
        self._sequence += 1
        return shown

    def _shut(self) -> None:
        if not self._finished:
            self._finished = True
            self._pictures = iter(())
            self._container.close()


def open_video_file(path: str | Path, *, paced: bool = False) -> VideoFile:
    """Open a video file as a source of frames, for tests and for playing a camera.

    Args:
        path: a file of any kind that FFmpeg reads.
        paced: deliver in real time, as a camera would (nothing is skipped when the reader is
            slow); else as fast as it is read.

    Raises:
        BadSample: the file is missing, damaged or holds no picture.
        MissingExtra: PyAV is not installed.
    """
    return VideoFile(Path(path), paced=paced)
