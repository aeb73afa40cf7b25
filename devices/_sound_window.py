"""From a recording of any length to exactly the number of samples that a model wants."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ._audio_clip import AudioClip
from ._errors import BadSample

__all__ = ["FITS", "LOUDNESS", "SILENCE_DBFS", "crop", "level", "mono_at", "pad"]

FITS: Final = ("start", "center", "energy")
LOUDNESS: Final = ("none", "peak", "rms")
SILENCE_DBFS: Final = -90.0
_SILENCE = 10.0 ** (SILENCE_DBFS / 20.0)

Samples = NDArray[np.float32]


def mono_at(sound: AudioClip | NDArray[np.floating], sample_rate_hz: int) -> Samples:
    """Return ``sound`` as mono float32 at the wanted rate.

    A bare array is taken to be mono, of shape (frames,), at that rate already.
    """
    if isinstance(sound, AudioClip):
        return sound.mono().resampled(sample_rate_hz).samples
    if not isinstance(sound, np.ndarray) or not np.issubdtype(sound.dtype, np.floating):
        raise BadSample(None, "sound must be an AudioClip or a floating-point array, scale ±1")
    if sound.ndim != 1:
        raise BadSample(None, f"an array of sound must be (frames,), got {sound.shape}")
    return AudioClip(sound.astype(np.float32, copy=False), sample_rate_hz).samples


def crop(samples: Samples, length: int, fit: str) -> Samples:
    """Return at most ``length`` samples of a recording, chosen as ``fit`` says."""
    excess = len(samples) - length
    if excess <= 0:
        return samples
    start = {"start": 0, "center": excess // 2}.get(fit)
    if start is None:
        start = round(_energy_center(samples) - length / 2)
    start = min(max(start, 0), excess)
    return samples[start : start + length]


def pad(samples: Samples, length: int, fit: str) -> Samples:
    """Return ``samples`` with zeros up to ``length``: at the end, or on both sides."""
    missing = length - len(samples)
    if missing <= 0:
        return samples
    before = 0 if fit == "start" else missing // 2
    return np.pad(samples, (before, missing - before))


def level(samples: Samples, loudness: str, level_dbfs: float) -> Samples:
    """Scale to a peak or RMS of ``level_dbfs``; what is silent stays as it is."""
    if loudness == "none":
        return samples
    wide = samples.astype(np.float64)
    peak = float(np.abs(wide).max())
    if peak < _SILENCE:
        # Otherwise an unplugged microphone's last bit would be blown up to full scale.
        return samples
    now = peak if loudness == "peak" else float(np.sqrt(np.mean(wide * wide)))
    gain: float = 10.0 ** (level_dbfs / 20.0) / now
    return (wide * gain).astype(np.float32)


def _energy_center(samples: Samples) -> float:
    """Return the position (in samples) of the centre of mass of the signal's energy."""
    wide = samples.astype(np.float64)
    # A microphone's constant offset carries energy but says nothing about where the word is.
    energy = (wide - wide.mean()) ** 2
    total = float(energy.sum())
    if total == 0.0:
        return len(samples) / 2
    return float(energy @ (np.arange(len(samples)) + 0.5)) / total
