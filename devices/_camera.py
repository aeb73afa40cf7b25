"""Cameras, by name or address, for as long as the program runs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ._camera_names import CameraInfo, find_camera
from ._chunks import VideoFrame
from ._drop_oldest import DropOldest
from ._errors import DeviceNotFound, DeviceStalled, DeviceUnavailable
from ._events import OnEvent
from ._frame_health import FrameHealth
from ._live import Link, LiveSource, LiveTiming
from ._picamera import PicameraLink
from ._pyav import AvLink

__all__ = ["Camera", "LiveFrame", "open_camera"]

_log = logging.getLogger("edgeprune.devices")

# What a network camera may be asked over: nothing that reads files of this machine.
_PROTOCOLS: Final = "http,https,httpproxy,tcp,tls,rtsp,rtsps,rtp,rtcp,udp,crypto"
_OPTIONS: Final[dict[str, dict[str, str]]] = {
    "network": {"protocol_whitelist": _PROTOCOLS, "fflags": "+nobuffer", "rtsp_transport": "tcp"},
    "v4l2": {},
    "avfoundation": {"framerate": "30"},  # its own default, 29.97, is refused by most cameras
    "dshow": {},
}


class LiveFrame(Protocol):
    """A picture that was delivered and that perhaps nobody will look at."""

    @property
    def timestamp_s(self) -> float:
        """When it had arrived, on the clock of `time.monotonic`."""
        ...

    @property
    def media_time_s(self) -> float | None:
        """The time that the stream gives it."""
        ...

    def rgb(self) -> NDArray[np.uint8]:
        """Return the upright picture, uint8 (height, width, 3), red first."""
        ...

    def thumbnail(self) -> NDArray[np.uint8]:
        """Return a small grey picture, uint8 (height, width)."""
        ...


@dataclass(frozen=True, eq=False)
class _Waiting:
    frame: LiveFrame
    sequence: int
    connection: int
    troubles: frozenset[str]


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Errors of a driver do not say of which camera they are."""
    try:
        yield
    except DeviceNotFound:
        raise
    except DeviceStalled as error:
        raise DeviceStalled(f"camera {name}: {error}") from error
    except DeviceUnavailable as error:
        raise DeviceUnavailable(f"camera {name}: {error}") from error


class _NamedLink:
    """A camera while it is open; its errors name it."""

    def __init__(self, link: Link[LiveFrame], name: str) -> None:
        self._link, self._name = link, name

    def read(self, timeout_s: float) -> LiveFrame | None:
        with _named(self._name):
            return self._link.read(timeout_s)

    def close(self) -> None:
        self._link.close()


class Camera(LiveSource[VideoFrame, LiveFrame, _Waiting]):
    """A camera whose latest picture is the one that is read.

    Build it with `open_camera`. Every picture is decoded as it comes, so that a slow reader never
    lags behind the world; only those that are read are converted.
    """

    def __init__(
        self,
        name: str,
        *,
        connect: Callable[[], Link[LiveFrame]],
        timing: LiveTiming,
        on_event: OnEvent | None,
    ) -> None:
        super().__init__(
            name,
            connect=connect,
            queue=DropOldest[_Waiting](1),
            timing=timing,
            on_event=on_event,
        )
        self._health = FrameHealth(name)
        self._sequence = 0

    def _accept(self, block: LiveFrame) -> None:
        if self._health.is_due(block.timestamp_s):
            self._health.push(block.thumbnail(), block.timestamp_s)
            found = self._health.troubles
            for trouble in ("muted", "overdriven"):
                if trouble in found:
                    self._troubles.begin(trouble, found[trouble])
                else:
                    self._troubles.end(trouble, f"{self.name} shows something again.")
        self._queue.put(_Waiting(block, self._sequence, self.connections, self.troubles))
        self._sequence += 1

    def _finish(self, item: _Waiting, dropped: int) -> VideoFrame | None:
        try:
            rgb = item.frame.rgb()
        except Exception:  # a picture that cannot be converted is passed over like a damaged one
            _log.debug("edgeprune: %s: a frame was passed over", self.name, exc_info=True)
            return None
        return VideoFrame(
            rgb,
            item.frame.timestamp_s,
            item.sequence,
            item.frame.media_time_s,
            dropped,
            item.connection,
            item.troubles,
        )


def open_camera(
    name: str | None = None,
    *,
    size: tuple[int, int] | None = None,
    rate_hz: float | None = None,
    options: Mapping[str, str] | None = None,
    timing: LiveTiming | None = None,
    on_event: OnEvent | None = None,
    wait: bool = False,
) -> Camera:
    """Open a camera and keep it open, whatever happens to it.

    Args:
        name: a camera's name or a part of it (see ``edgeprune devices list``); an address
            ``http://`` (MJPEG), ``https://``, ``rtsp://`` or ``rtsps://``, with user and password
            if it needs them; ``/dev/video0``; ``picamera2`` or ``picamera2:1``; None for the first
            camera of the system. A name is looked up anew at every reconnection.
        size: (width, height) to ask the camera for; None for its own choice. A network camera is
            not asked.
        rate_hz: pictures a second to ask for; None for its own choice.
        options: FFmpeg's options for this kind of input, over ours.
        timing: how long things may take.
        on_event: told of every trouble, from the camera's thread; it must return soon. None: one
            line each to the logger ``edgeprune.devices``.
        wait: do not fail when the camera is absent; wait for it in the background.

    Raises:
        DeviceNotFound: there is no such camera, or the name fits several.
        DeviceUnavailable: it cannot be opened.
        DeviceStalled: it was opened and gave nothing in time.
        MissingExtra: PyAV is not installed.
        MissingLibrary: picamera2 is asked for and not installed.
    """
    timing = timing or LiveTiming()
    asked = dict(options or {})

    def connect() -> Link[LiveFrame]:
        info = find_camera(name)
        with _named(info.name):
            return _NamedLink(_link(info, size, rate_hz, asked, timing), info.name)

    shown = find_camera(name).name if name is not None and "://" in name else name
    camera = Camera(
        shown or "the default camera", connect=connect, timing=timing, on_event=on_event
    )
    return camera.start(wait=wait)


def _link(
    info: CameraInfo,
    size: tuple[int, int] | None,
    rate_hz: float | None,
    asked: Mapping[str, str],
    timing: LiveTiming,
) -> Link[LiveFrame]:
    if info.kind == "picamera2":
        number = int(info.address.partition(":")[2] or 0)
        return PicameraLink(number, size=size, rate_hz=rate_hz)
    options = dict(_OPTIONS[info.kind])
    if info.kind != "network":
        if size is not None:
            options["video_size"] = f"{size[0]}x{size[1]}"
        if rate_hz is not None:
            options["framerate"] = f"{rate_hz:g}"
    options.update(asked)
    return AvLink(
        info.address,
        None if info.kind == "network" else info.kind,
        options,
        open_timeout_s=timing.open_timeout_s,
        read_timeout_s=timing.stall_after_s,
    )
