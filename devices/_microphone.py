"""Microphones, by name, for as long as the program runs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Final, Protocol, cast

import numpy as np

from ._audio_clip import MAX_RATE_HZ, MIN_RATE_HZ
from ._chunks import AudioChunk
from ._drop_oldest import DropOldest
from ._events import OnEvent
from ._live import Link, LiveSource, LiveTiming
from ._portaudio import PortAudioLink, SoundBlock
from ._sound_health import SoundHealth
from ._sound_stream import SoundStream

__all__ = ["Microphone", "SoundLink", "open_microphone"]

_OVERFLOW_OVER_S: Final = 2.0


class SoundLink(Link[SoundBlock], Protocol):
    """A microphone while it is open."""

    device_name: str
    sample_rate_hz: int
    channels: int
    latency_s: float


class Microphone(LiveSource[AudioChunk, SoundBlock, AudioChunk]):
    """A microphone that is opened at its native rate and read as mono chunks of one length.

    Build it with `open_microphone`. The driver's blocks are mixed to mono, resampled by a
    streaming resampler and cut into chunks; a reader that falls behind by more than the queue
    holds loses the oldest, which ``dropped_samples`` counts and the event "overflow" says.
    """

    def __init__(
        self,
        name: str,
        *,
        connect: Callable[[], SoundLink],
        sample_rate_hz: int | None,
        chunk_s: float,
        queue_s: float,
        timing: LiveTiming,
        on_event: OnEvent | None,
    ) -> None:
        if not 0.001 <= chunk_s <= queue_s <= 600.0:
            raise ValueError(f"0.001 <= chunk_s <= queue_s <= 600, not {chunk_s:g}, {queue_s:g}")
        if sample_rate_hz is not None and not MIN_RATE_HZ <= sample_rate_hz <= MAX_RATE_HZ:
            raise ValueError(f"sample_rate_hz {sample_rate_hz} is not a usable one")
        queue = DropOldest[AudioChunk](round(queue_s / chunk_s))
        super().__init__(name, connect=connect, queue=queue, timing=timing, on_event=on_event)
        self._wanted_rate_hz = sample_rate_hz
        self._chunk_s = chunk_s
        self._link: SoundLink | None = None
        self._health: SoundHealth | None = None
        self._sequence = 0
        self._lost_before = 0.0
        self._lost_s = 0.0
        self._overflows = 0
        self._overflow_s = 0.0

    @property
    def sample_rate_hz(self) -> int | None:
        """Rate of the chunks; None until a device without a wanted rate was opened."""
        native = self._link.sample_rate_hz if self._link else None
        return self._wanted_rate_hz or native

    @property
    def native_rate_hz(self) -> int | None:
        """Rate at which the device was opened last; None before."""
        return self._link.sample_rate_hz if self._link else None

    @property
    def channels(self) -> int | None:
        """Channels that were mixed down; None before the device was opened."""
        return self._link.channels if self._link else None

    @property
    def device_name(self) -> str | None:
        """The device's whole name; None before it was opened."""
        return self._link.device_name if self._link else None

    @property
    def latency_s(self) -> float | None:
        """The driver's own statement of how old sound is when it arrives, in seconds."""
        return self._link.latency_s if self._link else None

    def _connected(self, link: Link[SoundBlock]) -> None:
        self._link = opened = cast(SoundLink, link)  # it is what `connect` returned
        rate_hz = self._wanted_rate_hz or opened.sample_rate_hz
        self._chunk_samples = max(1, round(self._chunk_s * rate_hz))
        self._stream = SoundStream(opened.sample_rate_hz, rate_hz, self._chunk_samples)
        if self._health is None or self._health.rate_hz != opened.sample_rate_hz:
            self._health = SoundHealth(self.name, opened.sample_rate_hz)
        self._health.reconnected()
        self._rate_hz = rate_hz
        self._lost_before = self._lost_s
        self._overflows = 0

    def _accept(self, block: SoundBlock) -> None:
        samples = block.samples
        if not np.isfinite(samples).all():  # one NaN would stay in the resampler for ever
            samples = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
        assert self._link is not None
        assert self._health is not None
        self._count_losses(block, self._link, self._health)
        self._health.push(samples, block.timestamp_s)
        self._tell(self._health.troubles)
        for chunk, timestamp_s in self._stream.push(samples, block.timestamp_s):
            self._queue_chunk(
                AudioChunk(
                    chunk,
                    self._rate_hz,
                    timestamp_s,
                    self._sequence,
                    round(self._lost_s * self._rate_hz),
                    self.connections,
                    self.troubles,
                )
            )

    def _queue_chunk(self, chunk: AudioChunk) -> None:
        self._sequence += 1
        if self._queue.put(chunk):
            self._overflowed("the program that reads it is too slow")

    def _count_losses(self, block: SoundBlock, link: SoundLink, health: SoundHealth) -> None:
        lost_s = self._lost_before + block.lost_frames / link.sample_rate_hz
        if lost_s > self._lost_s or block.overflows > self._overflows:
            health.restart_pace()
            self._overflowed("this computer is too busy to fetch them in time")
        self._lost_s, self._overflows = lost_s, block.overflows
        if time.monotonic() - self._overflow_s > _OVERFLOW_OVER_S:
            self._troubles.end("overflow", f"{self.name} loses no samples any more.")

    def _overflowed(self, why: str) -> None:
        self._overflow_s = time.monotonic()
        self._troubles.begin("overflow", f"Samples of {self.name} are lost: {why}.")

    def _tell(self, found: dict[str, str]) -> None:
        for trouble in ("muted", "overdriven", "wrong-rate"):
            if trouble in found:
                self._troubles.begin(trouble, found[trouble])
            else:
                self._troubles.end(trouble, f"{self.name} is no longer {trouble}.")

    def _finish(self, item: AudioChunk, dropped: int) -> AudioChunk:
        # The chunk was made before the reader fell behind; only now is known what it missed.
        missed = item.dropped_samples + dropped * len(item.samples)
        return dataclasses.replace(item, dropped_samples=missed)


def open_microphone(
    name: str | None = None,
    *,
    sample_rate_hz: int | None = None,
    channels: int | None = None,
    chunk_s: float = 0.032,
    queue_s: float = 2.0,
    timing: LiveTiming | None = None,
    on_event: OnEvent | None = None,
    wait: bool = False,
) -> Microphone:
    """Open a microphone and keep it open, whatever happens to it.

    Args:
        name: the device's name or a part of it (see ``edgeprune devices list``), None for the
            system's default. It is looked up anew at every reconnection, so it survives another
            numbering of the devices.
        sample_rate_hz: rate of the chunks; None for the device's native rate. The device is always
            opened at its native rate.
        channels: how many channels to open and mix down; None for at most two, which is what
            sound servers that claim 32 really have.
        chunk_s: length of a chunk in seconds.
        queue_s: how far a reader may fall behind before the oldest chunks are dropped.
        timing: how long things may take.
        on_event: told of every trouble, from the device's thread; it must return soon. None: one
            line each to the logger ``edgeprune.devices``.
        wait: do not fail when the device is absent; wait for it in the background.

    Raises:
        DeviceNotFound: no device of that name is there, or the name fits several.
        DeviceUnavailable: the device cannot be opened.
        MissingExtra: sounddevice is not installed, or soxr and the rates differ.
        MissingLibrary: PortAudio is not installed: ``apt install libportaudio2``.
        ValueError: a length or a rate is out of range.
    """
    timing = timing or LiveTiming()

    def connect() -> SoundLink:
        return PortAudioLink(name, channels=channels, timeout_s=timing.open_timeout_s)

    microphone = Microphone(
        name or "the default microphone",
        connect=connect,
        sample_rate_hz=sample_rate_hz,
        chunk_s=chunk_s,
        queue_s=queue_s,
        timing=timing,
        on_event=on_event,
    )
    return microphone.start(wait=wait)
