"""Which cameras there are, and which one a name or an address means."""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from ._device_names import choose
from ._errors import DeviceNotFound
from ._picamera import list_picameras
from ._pyav import list_av_devices
from ._v4l2 import list_v4l2

__all__ = ["CameraInfo", "find_camera", "is_network_address", "list_cameras", "without_password"]

_NETWORK: Final = ("http", "https", "rtsp", "rtsps")
_SYSTEM_KIND: Final = ("avfoundation", "") if sys.platform == "darwin" else ("dshow", "video=")
_PICAMERA: Final = re.compile(r"picamera2(?::(\d+))?$")


@dataclass(frozen=True)
class CameraInfo:
    """A camera, as the system names it.

    ``kind`` is "v4l2" (Linux), "avfoundation" (macOS), "dshow" (Windows), "picamera2" (Raspberry
    Pi) or "network"; ``address`` is what that kind opens. `name` holds no password, an address of
    the network may.
    """

    name: str
    kind: str
    address: str


def list_cameras() -> tuple[CameraInfo, ...]:
    """Ask the system for every camera, the one taken by default first.

    Network cameras are not looked for. Cameras of the same name get their address added to it.

    Raises:
        MissingExtra: on macOS and Windows, PyAV is not installed.
    """
    found = [
        CameraInfo(model, "picamera2", f"picamera2:{number}")
        for number, model in enumerate(list_picameras())
    ]
    found += _of_the_system()
    names = Counter(info.name for info in found)
    return tuple(
        CameraInfo(f"{info.name} ({info.address})", info.kind, info.address)
        if names[info.name] > 1
        else info
        for info in found
    )


def _of_the_system() -> list[CameraInfo]:
    if sys.platform.startswith("linux"):
        return [CameraInfo(name, "v4l2", path) for name, path in list_v4l2()]
    kind, prefix = _SYSTEM_KIND
    return [
        CameraInfo(description or name, kind, prefix + name)
        for name, description in list_av_devices(kind)
    ]


def find_camera(wanted: str | None) -> CameraInfo:
    """Return the camera that ``wanted`` means.

    That is: an address http, https, rtsp or rtsps; ``/dev/video0`` or another path below /dev;
    ``picamera2`` or ``picamera2:1``; the name of a camera or a part of it; None for the first.

    Raises:
        DeviceNotFound: there is no such camera, or a part of a name fits several.
        MissingExtra: on macOS and Windows, PyAV is not installed.
    """
    if wanted is not None:
        if is_network_address(wanted):
            return CameraInfo(without_password(wanted), "network", wanted)
        if wanted.startswith("/dev/"):
            return CameraInfo(wanted, "v4l2", wanted)
        if _PICAMERA.match(wanted):
            return CameraInfo(wanted, "picamera2", wanted)
    cameras = list_cameras()
    if wanted is None:
        if not cameras:
            raise DeviceNotFound("camera", None, ())
        return cameras[0]
    if not cameras and not sys.platform.startswith("linux"):
        return _unlisted(wanted)
    return cameras[choose("camera", wanted, [info.name for info in cameras])]


def _unlisted(wanted: str) -> CameraInfo:
    """Take a name at its word: an older PyAV cannot list, and the system knows the name."""
    kind, prefix = _SYSTEM_KIND
    return CameraInfo(wanted, kind, prefix + wanted)


def is_network_address(text: str) -> bool:
    """Whether ``text`` is an address of a network camera."""
    return "://" in text and urlsplit(text).scheme.lower() in _NETWORK


def without_password(address: str) -> str:
    """Return an address without user and password, and without a query, which may hold a token."""
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"
