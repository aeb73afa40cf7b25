"""Sound that carries its own format, and the one place that touches soxr."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._errors import BadSample, MissingExtra

__all__ = ["MAX_RATE_HZ", "MIN_RATE_HZ", "AudioClip", "resample"]

MIN_RATE_HZ = 1_000
MAX_RATE_HZ = 384_000


@dataclass(frozen=True, eq=False)
class AudioClip:
    """A stretch of sound.

    ``samples`` is float32, full scale ±1, of shape (frames,) for mono or
    (frames, channels); ``sample_rate_hz`` is what it was recorded at.

    Raises:
        BadSample: the samples are not float32 of one of the two shapes, there is no
            frame or no channel, a value is not finite, or the rate is outside
            1,000..384,000 Hz.
    """

    samples: NDArray[np.float32]
    sample_rate_hz: int

    def __post_init__(self) -> None:
        _check_samples(self.samples)
        if not MIN_RATE_HZ <= self.sample_rate_hz <= MAX_RATE_HZ:
            raise BadSample(None, f"sample rate {self.sample_rate_hz} Hz is not a usable one")

    @property
    def channels(self) -> int:
        """Number of channels, at least 1."""
        return 1 if self.samples.ndim == 1 else self.samples.shape[1]

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.sample_rate_hz

    def mono(self) -> AudioClip:
        """Return the mean over the channels, float32 of shape (frames,)."""
        if self.samples.ndim == 1:
            return self
        return AudioClip(self.samples.mean(axis=1, dtype=np.float32), self.sample_rate_hz)

    def resampled(self, sample_rate_hz: int) -> AudioClip:
        """Return the clip at another rate, band-limited first so that nothing aliases.

        Raises:
            MissingExtra: the rates differ and soxr is not installed.
        """
        if sample_rate_hz == self.sample_rate_hz:
            return self
        return AudioClip(
            resample(self.samples, self.sample_rate_hz, sample_rate_hz), sample_rate_hz
        )


def resample(
    samples: NDArray[np.float32], from_rate_hz: int, to_rate_hz: int
) -> NDArray[np.float32]:
    """Resample a whole recording of shape (frames,) or (frames, channels) with soxr HQ.

    Returns float32, round(frames × to / from) frames give or take one, no delay.

    Raises:
        MissingExtra: soxr is not installed.
        BadSample: the recording is so short that no frame is left.
    """
    soxr = _import_soxr(from_rate_hz, to_rate_hz)
    out: NDArray[np.float32] = soxr.resample(samples, from_rate_hz, to_rate_hz, quality="HQ")
    if len(out) == 0:
        raise BadSample(None, f"only {len(samples)} frames, none left at {to_rate_hz} Hz")
    return out


def _import_soxr(from_rate_hz: int, to_rate_hz: int) -> Any:
    try:
        return importlib.import_module("soxr")
    except ImportError as error:
        raise MissingExtra(
            f"changing the sample rate from {from_rate_hz} to {to_rate_hz} Hz", "soxr"
        ) from error


def _check_samples(samples: object) -> None:
    if not isinstance(samples, np.ndarray) or samples.dtype != np.float32:
        raise BadSample(None, "sound must be a float32 array with full scale ±1")
    if samples.ndim not in (1, 2):
        raise BadSample(None, f"sound must be (frames,) or (frames, channels), not {samples.shape}")
    if samples.size == 0:
        raise BadSample(None, "zero length: there is no sound in it")
    if not np.isfinite(samples).all():
        raise BadSample(None, "some sample values are not finite (NaN or infinity)")
