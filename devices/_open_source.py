"""One word for any source, as a command line or a settings file names it."""

from __future__ import annotations

from pathlib import Path

from ._audio_file import SOUND_SUFFIXES
from ._camera import Camera, open_camera
from ._camera_names import is_network_address
from ._errors import SourceError
from ._events import OnEvent
from ._live import LiveTiming
from ._microphone import Microphone, open_microphone
from ._sound_file import SoundFile, open_sound_file
from ._video_file import VIDEO_SUFFIXES, VideoFile, open_video_file

__all__ = ["open_source"]


def open_source(
    text: str,
    *,
    sample_rate_hz: int | None = None,
    paced: bool = True,
    timing: LiveTiming | None = None,
    on_event: OnEvent | None = None,
    wait: bool = False,
) -> Microphone | Camera | SoundFile | VideoFile:
    """Open what ``text`` names.

    - ``mic`` or ``mic:NAME``: a microphone, the default one or by (a part of) its name;
    - ``camera`` or ``camera:NAME``: a camera, likewise;
    - ``http://…``, ``https://…``, ``rtsp://…``, ``rtsps://…``, ``/dev/video0``: a camera;
    - the path of a recording or of a video file, delivered in real time unless ``paced`` is off.

    The other arguments are those of `open_microphone` and `open_camera`.

    Raises:
        SourceError: it is none of these.
        DeviceUnavailable: there is no such device, or it cannot be opened.
        BadSample: the file is damaged.
        MissingExtra: a package is not installed.
        MissingLibrary: a library of the system is not installed.
    """
    kind, _, name = text.partition(":")
    if kind == "mic":
        return open_microphone(
            name or None,
            sample_rate_hz=sample_rate_hz,
            timing=timing,
            on_event=on_event,
            wait=wait,
        )
    if kind == "camera" or is_network_address(text) or text.startswith("/dev/"):
        camera = (name or None) if kind == "camera" else text
        return open_camera(camera, timing=timing, on_event=on_event, wait=wait)
    return _open_file(text, sample_rate_hz, paced)


def _open_file(text: str, sample_rate_hz: int | None, paced: bool) -> SoundFile | VideoFile:
    path = Path(text)
    if path.is_file() and path.suffix.lower() in SOUND_SUFFIXES:
        return open_sound_file(path, sample_rate_hz=sample_rate_hz, paced=paced)
    if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
        return open_video_file(path, paced=paced)
    raise SourceError(
        f"{text!r} names no source. Nothing was opened; give mic, mic:NAME, camera, camera:NAME, "
        "an address that begins with http:// or rtsp://, /dev/video0, or the path of a file "
        f"({', '.join((*SOUND_SUFFIXES, *VIDEO_SUFFIXES))})."
    )
