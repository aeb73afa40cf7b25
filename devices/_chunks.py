"""What live sources deliver: small pieces of sound and single pictures that describe themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ._audio_clip import AudioClip
from ._errors import BadSample

__all__ = ["AudioChunk", "VideoFrame"]


@dataclass(frozen=True, eq=False)
class AudioChunk:
    """A short stretch of sound from a running source.

    ``samples`` is float32 of shape (frames,) for mono or (frames, channels), full scale ±1, at
    ``sample_rate_hz``. ``timestamp_s`` is when the first of them arrived from the driver, on the
    clock of `time.monotonic`; the sound itself is older by the source's ``latency_s``. Files are
    timed as if they were played.

    ``sequence`` counts the chunks that the device made, from 0: a gap is a loss, and
    ``dropped_samples`` says how many samples (of one channel, at ``sample_rate_hz``) were lost
    before this chunk since the source was opened. ``connection`` counts how often the device was
    opened, from 1; between two connections time has passed. ``troubles`` names what was wrong with
    the input then ("muted", "overdriven", "wrong-rate"): such chunks are no sample of the user.

    Raises:
        BadSample: the samples are not float32 of one of the two shapes.
    """

    samples: NDArray[np.float32]
    sample_rate_hz: int
    timestamp_s: float
    sequence: int
    dropped_samples: int = 0
    connection: int = 1
    troubles: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.samples.dtype != np.float32 or self.samples.ndim not in (1, 2):
            raise BadSample(
                None, "a chunk of sound must be float32 of shape (frames,) or (frames, channels)"
            )

    @property
    def channels(self) -> int:
        """Number of channels, at least 1."""
        return 1 if self.samples.ndim == 1 else self.samples.shape[1]

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.sample_rate_hz

    @property
    def clip(self) -> AudioClip:
        """The sound alone, as preprocessing takes it."""
        return AudioClip(self.samples, self.sample_rate_hz)


@dataclass(frozen=True, eq=False)
class VideoFrame:
    """One upright picture from a running source.

    ``rgb`` is uint8 of shape (height, width, 3), in the order red, green, blue, turned as the
    source's rotation metadata ask for. ``timestamp_s`` is when it had arrived and was decoded, on
    the clock of `time.monotonic`; files are timed as if they were played. ``media_time_s`` is the
    time that the stream itself gives it, None where it gives none.

    ``sequence`` counts the pictures that the source delivered, from 0; ``dropped_frames`` says how
    many of them were passed over before this one because the reader was busy. ``connection`` and
    ``troubles`` ("muted": nothing but black; "overdriven": nothing but white) as in `AudioChunk`.

    Raises:
        BadSample: the array is not uint8 of shape (height, width, 3).
    """

    rgb: NDArray[np.uint8]
    timestamp_s: float
    sequence: int
    media_time_s: float | None = None
    dropped_frames: int = 0
    connection: int = 1
    troubles: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.rgb.dtype != np.uint8 or self.rgb.ndim != 3 or self.rgb.shape[2] != 3:
            raise BadSample(None, "a frame must be uint8 of shape (height, width, 3)")

    @property
    def width(self) -> int:
        """Pixels across."""
        return int(self.rgb.shape[1])

    @property
    def height(self) -> int:
        """Pixels down."""
        return int(self.rgb.shape[0])
