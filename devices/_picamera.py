"""Raspberry Pi's ribbon cameras: the one module that imports picamera2.

picamera2 comes with the system (``apt install python3-picamera2``) and not from PyPI: it must fit
the system's libcamera. A virtual environment sees it when it was made with
``--system-site-packages``. Turning the picture upright is libcamera's business: it knows how the
sensor is mounted.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import threading
import time
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ._errors import DeviceUnavailable, MissingLibrary

__all__ = ["ArrayFrame", "PicameraLink", "has_picamera", "list_picameras"]

APT_LINE: Final = "apt install python3-picamera2"
_DEFAULT_SIZE: Final = (640, 480)
_STEP: Final = 16


@dataclass(frozen=True, eq=False)
class ArrayFrame:
    """A picture that came as an array: uint8 (height, width, 3), red first."""

    array: NDArray[np.uint8]
    timestamp_s: float
    media_time_s: float | None = None

    def rgb(self) -> NDArray[np.uint8]:
        """Return the picture."""
        return self.array

    def thumbnail(self) -> NDArray[np.uint8]:
        """Return a small grey picture: every sixteenth pixel, green only."""
        return self.array[::_STEP, ::_STEP, 1]


def has_picamera() -> bool:
    """Whether picamera2 is installed; it is not imported."""
    with contextlib.suppress(ImportError, ValueError):
        return importlib.util.find_spec("picamera2") is not None
    return False


def _import_picamera() -> Any:
    try:
        return importlib.import_module("picamera2").Picamera2
    except ImportError as error:
        raise MissingLibrary("Using a ribbon camera", "picamera2", APT_LINE) from error


def list_picameras() -> list[str]:
    """Return the model of each camera, in libcamera's order; empty without picamera2."""
    if not has_picamera():
        return []
    with contextlib.suppress(Exception):  # libcamera without a camera raises various things
        return [str(info["Model"]) for info in _import_picamera().global_camera_info()]
    return []


class PicameraLink:
    """A ribbon camera while it is open.

    Raises:
        MissingLibrary: picamera2 is not installed.
        DeviceUnavailable: there is no such camera, or it is in use.
    """

    def __init__(self, number: int, *, size: tuple[int, int] | None, rate_hz: float | None) -> None:
        library = _import_picamera()
        try:
            self._camera = library(number)
        except Exception as error:
            raise DeviceUnavailable(f"it cannot be opened ({error})") from error
        try:
            controls = {"FrameRate": rate_hz} if rate_hz else {}
            # libcamera names the order in a register, not in memory: this one is R, G, B.
            main = {"size": size or _DEFAULT_SIZE, "format": "BGR888"}
            self._camera.configure(
                self._camera.create_video_configuration(main=main, controls=controls)
            )
            self._camera.start()
        except Exception as error:
            self.close()
            raise DeviceUnavailable(f"it cannot be started ({error})") from error
        self._job: Any = None
        self._done = threading.Event()

    def read(self, timeout_s: float) -> ArrayFrame | None:
        """Return the next picture; see `Link.read`."""
        if self._job is None:
            self._done.clear()
            self._job = self._camera.capture_array("main", signal_function=self._finished)
        if not self._done.wait(timeout_s):
            return None  # the request stays; the next call waits for it
        job, self._job = self._job, None
        try:
            array = job.get_result()
        except Exception as error:
            raise DeviceUnavailable(f"it gave no picture ({error})") from error
        return ArrayFrame(np.ascontiguousarray(array[:, :, :3]), time.monotonic())

    def close(self) -> None:
        """Let go of the camera; one that does not answer is left behind after a second."""
        # Both wait for the camera's own thread, which may be what hangs.
        closer = threading.Thread(target=self._shut, name="edgeprune picamera", daemon=True)
        closer.start()
        closer.join(1.0)

    def _finished(self, _job: Any) -> None:
        self._done.set()

    def _shut(self) -> None:
        with contextlib.suppress(Exception):
            self._camera.stop()
        with contextlib.suppress(Exception):
            self._camera.close()
