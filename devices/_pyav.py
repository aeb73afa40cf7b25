"""The one module that imports PyAV: cameras of every system, network streams, video files."""

from __future__ import annotations

import contextlib
import errno
import importlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ._errors import DeviceStalled, DeviceUnavailable, MissingExtra

__all__ = [
    "AvFrame",
    "AvLink",
    "Converters",
    "decoded",
    "import_av",
    "list_av_devices",
    "open_container",
]

Rgb = NDArray[np.uint8]

# Devices are read without blocking, as ffmpeg itself does: a webcam that hangs cannot be
# interrupted otherwise.
_DEVICE_FORMATS: Final = ("v4l2", "avfoundation", "dshow")
_NON_BLOCKING: Final = "+4"  # AVFMT_FLAG_NONBLOCK, which has no name among the options
_NAP_S: Final = 0.005
_THUMBNAIL: Final = 32
_LOW_DELAY: Final = 0x0008_0000  # AV_CODEC_FLAG_LOW_DELAY


def import_av() -> Any:
    """Return the package.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise MissingExtra("Using a camera or a video", "av", "camera") from error


def list_av_devices(format_name: str) -> list[tuple[str, str]]:
    """Return (name, description) of the cameras that ``format_name`` knows, the default first.

    Empty where this PyAV cannot tell.
    """
    enumerate_devices = getattr(import_av(), "enumerate_input_devices", None)
    if enumerate_devices is None:
        return []
    with contextlib.suppress(Exception):  # a driver that cannot list raises one of many things
        found = [device for device in enumerate_devices(format_name) if _is_video(device)]
        found.sort(key=lambda device: not device.is_default)
        return [(device.name, device.description) for device in found]
    return []


def _is_video(device: Any) -> bool:
    return not device.media_types or "video" in device.media_types


class Converter:
    """Converts the pictures of one stream to one format, by one thread and with one scaler.

    A scaler of each picture's own, which is PyAV's way otherwise, starts threads for each, costs
    30 MB and gives memory back when it likes.
    """

    def __init__(self, format_name: str, side: int | None = None) -> None:
        self._scaler = import_av().video.reformatter.VideoReformatter()
        self._wanted = (side, side, format_name)
        self._lock = threading.Lock()

    def __call__(self, picture: Any) -> Rgb:
        """Return the pixels of ``picture``, scaled to ``side`` × ``side`` if that was given."""
        with self._lock:
            try:
                converted = self._scaler.reformat(picture, *self._wanted, threads=1)
            except TypeError:  # an older PyAV has no such argument
                converted = self._scaler.reformat(picture, *self._wanted)
        pixels: Rgb = converted.to_ndarray()
        return pixels


class Converters:
    """What one stream needs: its reader wants colours while its watcher wants a thumbnail."""

    def __init__(self) -> None:
        self.rgb = Converter("rgb24")
        self.grey = Converter("gray", _THUMBNAIL)


@dataclass(frozen=True, eq=False)
class AvFrame:
    """A decoded picture that is turned and converted only when somebody looks at it."""

    picture: Any
    timestamp_s: float
    media_time_s: float | None
    convert: Converters

    def rgb(self) -> Rgb:
        """Return the upright picture, uint8 (height, width, 3), red first."""
        return _upright(self.convert.rgb(self.picture), self.picture)

    def thumbnail(self) -> Rgb:
        """Return a small grey picture, uint8 (32, 32), not turned."""
        return self.convert.grey(self.picture)


def _upright(rgb: Rgb, picture: Any) -> Rgb:
    """Turn and mirror as the display matrix of the frame asks.

    The matrix sends stored (x, y) to shown (a·x + c·y, b·x + d·y), with y pointing down, up to a
    shift. Only quarter turns and mirrors are honoured; others are left as they are.
    """
    side_data = picture.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return rgb
    a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(side_data), "<i4")[:5])
    if a == d == 0 and b and c:
        rgb = rgb.transpose(1, 0, 2)
        flip_down, flip_across = b < 0, c < 0
    elif b == c == 0 and a and d:
        flip_down, flip_across = d < 0, a < 0
    else:
        return rgb
    rgb = rgb[::-1] if flip_down else rgb
    return np.ascontiguousarray(rgb[:, ::-1] if flip_across else rgb)


def open_container(
    address: str,
    format_name: str | None,
    options: Mapping[str, str],
    timeouts_s: tuple[float, float] | None,
) -> Any:
    """Open an input that holds a picture stream; timeouts are for opening and for one read.

    Without timeouts it is a file: decoded as fast as it goes, and not with the least delay.

    Raises:
        MissingExtra: PyAV is not installed.
        DeviceStalled: the time for opening passed.
        DeviceUnavailable: it cannot be opened, or there is no picture in it.
    """
    av = import_av()
    options = dict(options)
    if format_name in _DEVICE_FORMATS:
        options.setdefault("fflags", _NON_BLOCKING)
    until = time.monotonic() + (timeouts_s[0] if timeouts_s else 0.0)
    while True:
        try:
            container = av.open(address, format=format_name, options=options, timeout=timeouts_s)
            break
        except BlockingIOError as error:  # macOS says so until the first frame is there
            if time.monotonic() > until:
                raise DeviceStalled("it was opened and gives no picture") from error
            time.sleep(_NAP_S)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise _unavailable(av, error) from error
    if not container.streams.video:
        container.close()
        raise DeviceUnavailable("there is no picture in it, only sound or data")
    _prepare(container.streams.video[0], live=timeouts_s is not None)
    return container


def _unavailable(av: Any, error: Exception) -> DeviceUnavailable:
    """Say what FFmpeg says, without its address: passwords stand in addresses."""
    if isinstance(error, av.error.ExitError):
        return DeviceStalled("it did not answer in time")
    text = getattr(error, "strerror", None) or type(error).__name__
    hints = {
        errno.EACCES: "; the user needs the group video: sudo usermod -aG video $USER",
        errno.EBUSY: "; another program uses it",
    }
    return DeviceUnavailable(text + hints.get(getattr(error, "errno", None) or 0, ""))


def decoded(container: Any) -> Iterator[Any]:
    """Yield decoded pictures; damaged packets yield None instead. Ends with the stream."""
    av = import_av()
    for packet in container.demux(container.streams.video[0]):
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            yield None


def _prepare(stream: Any, *, live: bool) -> None:
    """Set the decoder up, once, before its first picture."""
    if not live:
        stream.thread_type = "AUTO"
        return
    stream.thread_type = "NONE"  # threads over frames would hold some back
    with contextlib.suppress(AttributeError, TypeError):
        stream.codec_context.flags = int(stream.codec_context.flags) | _LOW_DELAY


class AvLink:
    """A camera while it is open.

    Raises:
        MissingExtra: PyAV is not installed.
        DeviceStalled: it did not answer within ``open_timeout_s``.
        DeviceUnavailable: it cannot be opened.
    """

    def __init__(
        self,
        address: str,
        format_name: str | None,
        options: Mapping[str, str],
        *,
        open_timeout_s: float,
        read_timeout_s: float,
    ) -> None:
        self._av = import_av()
        timeouts_s = (open_timeout_s, read_timeout_s)
        self._container = open_container(address, format_name, options, timeouts_s)
        self._pictures = decoded(self._container)
        self._convert = Converters()

    def read(self, timeout_s: float) -> AvFrame | None:
        """Return the next picture; see `Link.read`."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            try:
                picture = next(self._pictures)
            except BlockingIOError:
                time.sleep(_NAP_S)
                self._pictures = decoded(self._container)
            except StopIteration:
                raise DeviceUnavailable("its stream has ended") from None
            except (self._av.error.FFmpegError, OSError) as error:
                raise _unavailable(self._av, error) from error
            else:
                if picture is not None:
                    return AvFrame(picture, time.monotonic(), picture.time, self._convert)
        return None

    def close(self) -> None:
        """Let go of the camera."""
        self._pictures = iter(())
        self._container.close()
