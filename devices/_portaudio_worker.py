"""The one module that imports sounddevice. It runs as a process of its own, started by path.

Why a process: PortAudio aborts its process over a damaged ALSA configuration, learns of new
devices only when it is initialised anew, and may hang while it closes a device that was pulled
out (python-sounddevice #126, #382, #627). A small child can die, be asked again or be killed, and
its audio callback never waits for the work of the parent. It needs neither numpy nor edgeprune.

Protocol. stdin: one line of JSON that says what to open; its end stops everything. stdout: messages
of a header (`HEADER`: kind, payload bytes, seconds on the clock of time.monotonic, frames lost so
far, overflows so far) and a payload: kind ``J`` JSON (first the devices, then what was opened, or
an error), kind ``A`` interleaved float32 samples.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import struct
import sys
import threading
import time
from typing import Any, BinaryIO, Final

__all__ = ["HEADER", "main"]

HEADER: Final = struct.Struct("<cIdQQ")
_QUEUED_S: Final = 2.0
# Where a device refuses the rate that it calls its own (PortAudio error -9997).
_OTHER_RATES_HZ: Final = (48_000.0, 44_100.0, 16_000.0, 32_000.0, 8_000.0)


class _Recorder:
    """Copies what the driver delivers into a bounded queue; counts what finds no room."""

    def __init__(self, rate_hz: float) -> None:
        self._room = int(_QUEUED_S * rate_hz)
        # Two counters with one writer each: a shared one would need a lock in the callback.
        self._taken = 0
        self._sent = 0
        self._lost = 0
        self._overflows = 0
        self._blocks: queue.SimpleQueue[tuple[bytes, int, float, int, int] | None]
        self._blocks = queue.SimpleQueue()

    def __call__(self, data: Any, frames: int, _times: Any, status: Any) -> None:
        """PortAudio's callback: it only copies."""
        now = time.monotonic()
        if status.input_overflow:
            self._overflows += 1
        if self._taken - self._sent + frames > self._room:
            self._lost += frames
            return
        self._taken += frames
        self._blocks.put((bytes(data), frames, now, self._lost, self._overflows))

    def finished(self) -> None:
        """PortAudio's word that the stream has ended: the device is gone."""
        self._blocks.put(None)

    def send(self, out: BinaryIO) -> None:
        """Pass blocks on until the stream ends."""
        while (block := self._blocks.get()) is not None:
            data, frames, now, lost, overflows = block
            out.write(HEADER.pack(b"A", len(data), now, lost, overflows) + data)
            out.flush()
            self._sent += frames


def main() -> None:
    """Serve one parent until its end of stdin closes."""
    # Ctrl-C reaches the whole process group; the parent decides what becomes of us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # some host libraries print on stdout
    try:
        _serve(out)
    except BrokenPipeError:
        pass
    except Exception as error:
        with contextlib.suppress(OSError):
            _say(out, {"error": "device", "text": f"{type(error).__name__}: {error}"})
    finally:
        os._exit(0)  # without PortAudio's own clean-up, which may hang on a device pulled out


def _serve(out: BinaryIO) -> None:
    try:
        import sounddevice
    except ImportError as error:
        return _say(out, {"error": "package", "text": str(error)})
    except OSError as error:
        return _say(out, {"error": "library", "text": str(error)})
    _say(out, {"devices": _inputs(sounddevice)})
    wanted = json.loads(sys.stdin.buffer.readline() or "{}")
    if not wanted:
        return None
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    stream, recorder, channels = _open(sounddevice, **wanted)
    opened = {"rate_hz": stream.samplerate, "channels": channels, "latency_s": stream.latency}
    _say(out, {"opened": opened})
    stream.start()
    recorder.send(out)
    return _say(out, {"error": "device", "text": "the driver ended the stream"})


def _inputs(sounddevice: Any) -> list[dict[str, Any]]:
    """Return every device that records, the default one marked."""
    hosts = sounddevice.query_hostapis()
    found = []
    for index, device in enumerate(sounddevice.query_devices()):
        if device["max_input_channels"] > 0:
            host = hosts[device["hostapi"]]
            found.append(
                {
                    "index": index,
                    "name": device["name"],
                    "host_api": host["name"],
                    "channels": device["max_input_channels"],
                    "rate_hz": device["default_samplerate"],
                    "default": index == sounddevice.default.device[0],
                    "host_default": index == host["default_input_device"],
                }
            )
    return found


def _open(
    sounddevice: Any, index: int, rate_hz: float, channels: list[int], latency_s: float
) -> tuple[Any, _Recorder, int]:
    """Open the device at its own rate with the first channel count that it takes."""
    refusal = None
    for rate in (rate_hz, *(other for other in _OTHER_RATES_HZ if other != rate_hz)):
        for count in channels:
            recorder = _Recorder(rate)
            try:
                stream = sounddevice.RawInputStream(
                    device=index,
                    samplerate=rate,
                    channels=count,
                    dtype="float32",
                    latency=latency_s,
                    callback=recorder,
                    finished_callback=recorder.finished,
                )
                return stream, recorder, count
            except sounddevice.PortAudioError as error:
                refusal = refusal or error
    raise refusal or OSError("no channel count to open it with")


def _leave_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


def _say(out: BinaryIO, message: dict[str, Any]) -> None:
    payload = json.dumps(message).encode()
    out.write(HEADER.pack(b"J", len(payload), time.monotonic(), 0, 0) + payload)
    out.flush()


if __name__ == "__main__":
    main()
