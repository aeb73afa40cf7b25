"""The last seconds of a stream, addressed by the number of the sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["SoundBuffer"]

Samples = NDArray[np.float32]


class SoundBuffer:
    """Keeps the last ``length`` samples or a little more; what lies outside reads as zeros."""

    def __init__(self, rate_hz: int, length: int) -> None:
        self._rate_hz = rate_hz
        self._length = length
        self._samples: Samples = np.zeros(0, np.float32)
        self._time_s = 0.0
        self._time_at = 0
        self.end = 0

    def push(self, samples: Samples, timestamp_s: float) -> None:
        """Add (frames,), the first of which belongs to ``timestamp_s``."""
        self._time_s, self._time_at = timestamp_s, self.end
        self.end += len(samples)
        self._samples = np.concatenate([self._samples, samples])[-self._length :]

    def clear(self) -> None:
        """Forget the sound; the numbers go on."""
        self._samples = self._samples[:0]

    def get(self, begin: int, end: int) -> Samples:
        """Return a copy of the samples numbered ``begin`` to ``end``."""
        oldest = self.end - len(self._samples)
        out = np.zeros(end - begin, np.float32)
        first, last = max(begin, oldest), min(end, self.end)
        if first < last:
            out[first - begin : last - begin] = self._samples[first - oldest : last - oldest]
        return out

    def time(self, number: int) -> float:
        """Return the time of a sample."""
        return self._time_s + (number - self._time_at) / self._rate_hz

    def energy_center(self, begin: int, end: int) -> int:
        """Return the number of the sample that the energy lies around."""
        wide = self.get(begin, end).astype(np.float64)
        energy = (wide - wide.mean()) ** 2
        total = float(energy.sum())
        if total == 0.0:
            return (begin + end) // 2
        return begin + round(float(energy @ np.arange(len(energy))) / total)
