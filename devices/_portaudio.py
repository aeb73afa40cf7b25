"""Microphones through PortAudio, which runs in a small process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from ._device_names import choose
from ._errors import (
    DeviceError,
    DeviceNotFound,
    DeviceStalled,
    DeviceUnavailable,
    MissingExtra,
    MissingLibrary,
)
from ._portaudio_worker import HEADER

__all__ = ["MicrophoneInfo", "PortAudioLink", "SoundBlock", "list_microphones"]

APT_LINE: Final = "apt install libportaudio2"
_WORKER: Final = Path(__file__).with_name("_portaudio_worker.py")
# The ring between driver and callback. Blocks come four times as often; the rest is patience with
# a busy processor.
_DRIVER_BUFFER_S: Final = 0.1
_MOST_MESSAGES: Final = 256
_MOST_PAYLOAD: Final = 2**26
# Windows offers one microphone several times; these come first.
_HOST_ORDER: Final = ("Core Audio", "Windows WASAPI", "ALSA", "Windows DirectSound", "MME")


@dataclass(frozen=True)
class MicrophoneInfo:
    """A device that records, as the system names it; ``sample_rate_hz`` is its native rate."""

    name: str
    host_api: str
    channels: int
    sample_rate_hz: int
    is_default: bool


@dataclass(frozen=True, eq=False)
class SoundBlock:
    """What a driver delivered at once: float32 (frames, channels), and when it came.

    ``lost_frames`` and ``overflows`` count since the device was opened.
    """

    samples: NDArray[np.float32]
    timestamp_s: float
    lost_frames: int = 0
    overflows: int = 0


@dataclass(frozen=True)
class _Message:
    kind: bytes
    payload: bytes
    timestamp_s: float
    lost: int
    overflows: int


class _Worker:
    """The process that holds PortAudio, and the thread that reads what it says."""

    def __init__(self) -> None:
        debug = os.environ.get("EDGEPRUNE_DEBUG") == "1"
        self._process = subprocess.Popen(
            # -P: the folder of the worker must not shadow modules of the standard library.
            [sys.executable, "-P", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if debug else subprocess.DEVNULL,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # on Windows
            # A signal to all of a terminal's programs is the parent's to handle: a microphone that
            # dies of it would be told as a trouble of the device.
            process_group=None if sys.platform == "win32" else 0,
        )
        self._messages: queue.Queue[_Message | None] = queue.Queue(_MOST_MESSAGES)
        self._closing = False
        self._reader = threading.Thread(target=self._read, name="edgeprune audio", daemon=True)
        self._reader.start()

    def receive(self, timeout_s: float) -> _Message | None:
        """Return the next message, None after ``timeout_s``.

        Raises:
            DeviceUnavailable: the process has ended.
        """
        try:
            message = self._messages.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if message is None:
            raise DeviceUnavailable(self._epitaph())
        return message

    def receive_json(self, key: str, timeout_s: float) -> Any:
        """Return what stands under ``key`` in the JSON message that is due now."""
        message = self.receive(timeout_s)
        if message is None:
            raise DeviceStalled(f"PortAudio did not answer for {timeout_s:g} s")
        said = json.loads(message.payload)
        if "error" in said:
            raise _error_of(said)
        return said[key]

    def send(self, command: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # a dead process shows at the next `receive`
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()

    def close(self) -> None:
        """End the process: asked first, then killed."""
        self._closing = True
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            while (message := _next_message(self._process.stdout)) is not None:
                self._put(message)
        self._put(None)

    def _put(self, message: _Message | None) -> None:
        while not self._closing:
            with contextlib.suppress(queue.Full):
                return self._messages.put(message, timeout=0.1)
        return None

    def _epitaph(self) -> str:
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            code = 0
        how = f"was ended by signal {-code}" if code < 0 else f"ended (exit code {code})"
        return (
            f"PortAudio's process {how}; with SIGABRT (6) look for an error in ALSA's "
            "configuration. EDGEPRUNE_DEBUG=1 shows what it says"
        )


def _next_message(stream: IO[bytes]) -> _Message | None:
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    kind, size, timestamp_s, lost, overflows = HEADER.unpack(header)
    if size > _MOST_PAYLOAD:
        return None
    payload = stream.read(size)
    return _Message(kind, payload, timestamp_s, lost, overflows) if len(payload) == size else None


def _error_of(said: dict[str, Any]) -> DeviceError:
    if said["error"] == "package":
        return MissingExtra("Using a microphone", "sounddevice", "audio")
    if said["error"] == "library":
        return MissingLibrary("Using a microphone", "PortAudio", APT_LINE)
    return DeviceUnavailable(f"the microphone cannot be opened ({said['text']})")


def list_microphones(timeout_s: float = 10.0) -> tuple[MicrophoneInfo, ...]:
    """Ask the system for every device that records, the default one first.

    Raises:
        MissingExtra: sounddevice is not installed.
        MissingLibrary: PortAudio is not installed.
        DeviceUnavailable: the system's sound does not answer within ``timeout_s``.
    """
    worker = _Worker()
    try:
        devices = worker.receive_json("devices", timeout_s)
    finally:
        worker.close()
    infos = [
        MicrophoneInfo(
            name=device["name"],
            host_api=device["host_api"],
            channels=device["channels"],
            sample_rate_hz=round(device["rate_hz"]),
            is_default=device["default"],
        )
        for device in devices
    ]
    return tuple(sorted(infos, key=lambda info: (not info.is_default, _host_rank(info.host_api))))


class PortAudioLink:
    """A microphone while it is open.

    Raises:
        DeviceNotFound: no device of that name is there now.
        DeviceUnavailable: it cannot be opened.
        DeviceStalled: the system's sound does not answer within ``timeout_s``.
        MissingExtra: sounddevice is not installed.
        MissingLibrary: PortAudio is not installed.
    """

    def __init__(self, name: str | None, *, channels: int | None, timeout_s: float) -> None:
        self._worker = _Worker()
        try:
            device = _pick(name, self._worker.receive_json("devices", timeout_s))
            self._worker.send(
                {
                    "index": device["index"],
                    "rate_hz": device["rate_hz"],
                    "channels": _channel_counts(channels, device["channels"]),
                    "latency_s": _DRIVER_BUFFER_S,
                }
            )
            opened = self._worker.receive_json("opened", timeout_s)
        except BaseException:
            self._worker.close()
            raise
        self.device_name: str = device["name"]
        self.sample_rate_hz = round(opened["rate_hz"])
        self.channels: int = opened["channels"]
        self.latency_s: float = opened["latency_s"]

    def read(self, timeout_s: float) -> SoundBlock | None:
        """Return what came, None after ``timeout_s``; see `Link.read`."""
        message = self._worker.receive(timeout_s)
        if message is None:
            return None
        if message.kind != b"A":
            said = json.loads(message.payload)
            raise DeviceUnavailable(f"{self.device_name} is gone ({said.get('text')})")
        samples = np.frombuffer(message.payload, np.float32).reshape(-1, self.channels)
        return SoundBlock(samples, message.timestamp_s, message.lost, message.overflows)

    def close(self) -> None:
        """End the process that holds the device."""
        self._worker.close()


def _pick(name: str | None, devices: Sequence[dict[str, Any]]) -> dict[str, Any]:
    ranked = sorted(devices, key=lambda device: _host_rank(device["host_api"]))
    names = [device["name"] for device in ranked]
    if name is not None:
        return ranked[choose("microphone", name, names)]
    default = [device for device in ranked if device["default"]]
    default += [device for device in ranked if device["host_default"]]
    if not default:
        raise DeviceNotFound("microphone", None, names)
    return default[0]


def _host_rank(host_api: str) -> int:
    return _HOST_ORDER.index(host_api) if host_api in _HOST_ORDER else len(_HOST_ORDER)


def _channel_counts(wanted: int | None, most: int) -> list[int]:
    """Return the channel counts to try. Sound servers claim 32, which are copies of two."""
    if wanted is not None:
        return [wanted]
    return list(dict.fromkeys([min(most, 2), 1, most]))
