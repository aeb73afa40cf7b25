"""Linux's own list of cameras, read without any library."""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path
from typing import Final

__all__ = ["list_v4l2"]

_SYSFS: Final = Path("/sys/class/video4linux")
# struct v4l2_capability: driver[16], card[32], bus_info[32], version, capabilities, device_caps.
_QUERYCAP: Final = struct.Struct("=16s32s32sIII12x")
_VIDIOC_QUERYCAP: Final = 0x8068_5600
_CAPTURE: Final = 0x1 | 0x1000  # single- and multi-planar
_HAS_DEVICE_CAPS: Final = 0x8000_0000


def list_v4l2(sysfs: Path = _SYSFS, dev: Path = Path("/dev")) -> list[tuple[str, str]]:
    """Return (name, path) of every device that captures pictures, by number.

    A webcam has several nodes, of which one delivers pictures and another their metadata; the
    kernel is asked which. Where it may not be asked, the node is listed.
    """
    found = []
    for node in sorted(sysfs.glob("video*"), key=lambda node: int(node.name[5:] or 0)):
        path = dev / node.name
        with contextlib.suppress(OSError):
            name = (node / "name").read_text("utf-8", "replace").strip()
            if _captures(path):
                found.append((name or node.name, str(path)))
    return found


def _captures(path: Path) -> bool:
    import fcntl

    try:
        handle = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        return path.exists()
    try:
        answer = fcntl.ioctl(handle, _VIDIOC_QUERYCAP, bytes(_QUERYCAP.size))
    except OSError:
        return False
    finally:
        os.close(handle)
    *_, capabilities, device_caps = _QUERYCAP.unpack(answer)
    return bool((device_caps if capabilities & _HAS_DEVICE_CAPS else capabilities) & _CAPTURE)
