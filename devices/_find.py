"""One name among all devices."""

from __future__ import annotations

from ._camera_names import CameraInfo, find_camera, is_network_address
from ._device_names import choose
from ._errors import DeviceError, DeviceNotFound
from ._portaudio import MicrophoneInfo, list_microphones

__all__ = ["find_device"]


def find_device(name: str, kind: str | None = None) -> MicrophoneInfo | CameraInfo:
    """Return the microphone or camera that ``name`` means, as `open_microphone` and `open_camera`.

    ``kind`` "microphone" or "camera" leaves the other out; needed where both share a name.

    Raises:
        DeviceNotFound: nothing is called so, or several devices are.
        MissingExtra: nothing is called so among what could be looked for; a package is missing.
        MissingLibrary: likewise, a library of the system.
        DeviceUnavailable: likewise, the system's sound does not answer.
    """
    if kind != "microphone" and (is_network_address(name) or name.startswith("/dev/")):
        return find_camera(name)
    found: list[MicrophoneInfo | CameraInfo] = []
    failures: list[DeviceError] = []
    for one, look in (("microphone", _microphone), ("camera", find_camera)):
        if kind in (None, one):
            try:
                found.append(look(name))
            except DeviceError as error:
                failures.append(error)
    if len(found) == 2:
        names = [f"microphone {found[0].name}", f"camera {found[1].name}"]
        raise DeviceNotFound("device", name, names, several=True)
    if found:
        return found[0]
    raise _best(name, failures)


def _microphone(name: str) -> MicrophoneInfo:
    microphones = list_microphones()
    return microphones[choose("microphone", name, [info.name for info in microphones])]


def _best(name: str, failures: list[DeviceError]) -> DeviceError:
    """Return what helps most: an ambiguity, then what could not be looked for, then all names."""
    not_found = [error for error in failures if isinstance(error, DeviceNotFound)]
    others = [error for error in failures if not isinstance(error, DeviceNotFound)]
    several = [error for error in not_found if error.several]
    if several or others or len(failures) == 1:
        return (several + others + failures)[0]
    known = [known for error in not_found for known in error.known]
    return DeviceNotFound("microphone or camera", name, known)
