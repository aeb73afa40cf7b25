"""A recording as a source: the same chunks as a microphone's."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from ._audio_file import read_audio
from ._chunks import AudioChunk
from ._pace import Pace
from ._source import Source

__all__ = ["SoundFile", "open_sound_file"]


class SoundFile(Source[AudioChunk]):
    """A recording in chunks of one length; build it with `open_sound_file`.

    Every sample is delivered: the last chunk is filled up with zeros.
    """

    live = False

    def __init__(
        self, path: Path, *, sample_rate_hz: int | None, chunk_s: float, paced: bool
    ) -> None:
        if not 0.001 <= chunk_s <= 600.0:
            raise ValueError(f"chunk_s must be within 0.001..600, not {chunk_s:g}")
        clip = read_audio(path).mono()
        if sample_rate_hz is not None:
            clip = clip.resampled(sample_rate_hz)
        self.name = str(path)
        self.sample_rate_hz = clip.sample_rate_hz
        self._length = max(1, round(chunk_s * clip.sample_rate_hz))
        self._samples = np.pad(clip.samples, (0, -len(clip.samples) % self._length))
        self._pace = Pace(paced)
        self._sequence = 0
        self._lock = threading.Lock()

    @property
    def ended(self) -> bool:
        """Whether the file was read to its end, or closed."""
        return self._pace.closed or self._sequence * self._length >= len(self._samples)

    def read(self, timeout_s: float | None = None) -> AudioChunk | None:
        """Return the next chunk; see `Source.read`."""
        with self._lock:
            start = self._sequence * self._length
            due_s = start / self.sample_rate_hz
            if self.ended or not self._pace.wait(due_s, timeout_s):
                return None
            samples = self._samples[start : start + self._length]
            chunk = AudioChunk(samples, self.sample_rate_hz, self._pace.time(due_s), self._sequence)
            self._sequence += 1
            return chunk

    def close(self) -> None:
        """End the iteration."""
        self._pace.close()


def open_sound_file(
    path: str | Path,
    *,
    sample_rate_hz: int | None = None,
    chunk_s: float = 0.032,
    paced: bool = False,
) -> SoundFile:
    """Open a recording as a source of mono chunks, for tests and for playing a device.

    Args:
        path: a WAV, FLAC or OGG file of at most ten minutes.
        sample_rate_hz: rate of the chunks; None for that of the file.
        chunk_s: length of a chunk in seconds.
        paced: deliver in real time, as a microphone would; else as fast as it is read.

    Raises:
        BadSample: the file is missing, damaged, silent or too long.
        MissingExtra: its format needs soundfile, or its rate soxr, and it is not installed.
        ValueError: ``chunk_s`` is out of range.
    """
    return SoundFile(Path(path), sample_rate_hz=sample_rate_hz, chunk_s=chunk_s, paced=paced)
