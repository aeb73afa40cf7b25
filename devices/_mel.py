"""Mel scales, filterbank, window and framed power spectrum, in plain numpy.

The two mel scales are those that training code uses: "htk", 2595·log10(1 + f/700)
(torchaudio's default), and "slaney", linear below 1 kHz and logarithmic above
(librosa's default).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["filterbank", "hann_periodic", "spectrum"]

Array = NDArray[np.float64]

_SLANEY_HZ_PER_MEL = 200.0 / 3.0
_SLANEY_BREAK_HZ = 1000.0
_SLANEY_BREAK_MEL = _SLANEY_BREAK_HZ / _SLANEY_HZ_PER_MEL
_SLANEY_LOG_STEP = np.log(6.4) / 27.0


def _hz_to_mel(hz: Array, scale: str) -> Array:
    if scale == "htk":
        return 2595.0 * np.log10(1.0 + hz / 700.0)
    above = np.log(np.maximum(hz, _SLANEY_BREAK_HZ) / _SLANEY_BREAK_HZ) / _SLANEY_LOG_STEP
    return np.where(hz < _SLANEY_BREAK_HZ, hz / _SLANEY_HZ_PER_MEL, _SLANEY_BREAK_MEL + above)


def _mel_to_hz(mel: Array, scale: str) -> Array:
    if scale == "htk":
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    above = np.maximum(mel - _SLANEY_BREAK_MEL, 0.0) * _SLANEY_LOG_STEP
    return np.where(
        mel < _SLANEY_BREAK_MEL, mel * _SLANEY_HZ_PER_MEL, _SLANEY_BREAK_HZ * np.exp(above)
    )


@lru_cache(maxsize=16)
def filterbank(
    *,
    sample_rate_hz: int,
    fft_samples: int,
    bands: int,
    low_hz: float,
    high_hz: float,
    scale: str,
    norm: str,
) -> Array:
    """Return triangular filters, float64 of shape (fft_samples // 2 + 1, bands), read-only.

    With ``norm`` "slaney" each filter has unit area (2 / its width in Hz); with "none"
    each peaks at 1. A band narrower than the spacing of the FFT bins may hold only zeros.
    """
    bins_hz = np.arange(fft_samples // 2 + 1) * (sample_rate_hz / fft_samples)
    ends = _hz_to_mel(np.array([low_hz, high_hz]), scale)
    edges_hz = _mel_to_hz(np.linspace(ends[0], ends[1], bands + 2), scale)
    left, peak, right = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    rising = (bins_hz[:, None] - left) / (peak - left)
    falling = (right - bins_hz[:, None]) / (right - peak)
    weights = np.maximum(0.0, np.minimum(rising, falling))
    if norm == "slaney":
        weights *= 2.0 / (right - left)
    weights.flags.writeable = False
    return weights


@lru_cache(maxsize=16)
def hann_periodic(window_samples: int, fft_samples: int) -> Array:
    """Return a periodic Hann window centred in ``fft_samples`` zeros, float64, read-only."""
    phase = 2.0 * np.pi * np.arange(window_samples) / window_samples
    before = (fft_samples - window_samples) // 2
    window = np.pad(0.5 - 0.5 * np.cos(phase), (before, fft_samples - window_samples - before))
    window.flags.writeable = False
    return window


def spectrum(samples: Array, window: Array, hop_samples: int, power: int) -> Array:
    """Return |STFT|**power of (samples,) as float64 of shape (frames, bins)."""
    framed = np.lib.stride_tricks.sliding_window_view(samples, len(window))[::hop_samples]
    bins = np.fft.rfft(framed * window, axis=1)
    squared: Array = bins.real**2 + bins.imag**2
    return squared if power == 2 else np.sqrt(squared)
