"""From the driver's blocks to mono chunks of one length at the model's rate."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._audio_clip import _import_soxr

__all__ = ["SoundStream"]

Samples = NDArray[np.float32]


class SoundStream:
    """Mixes down, resamples without clicks at the seams, and cuts chunks of equal length.

    Times: sample k of the output belongs to the moment k / ``to_rate_hz`` after the first sample
    that came in; the resampler delays when it is given out, not what it is. The driver's own word
    for "now" is the arrival of its last block.

    Args:
        from_rate_hz: rate of what comes in.
        to_rate_hz: rate of what goes out.
        chunk_samples: length of each chunk.

    Raises:
        MissingExtra: the rates differ and soxr is not installed.
    """

    def __init__(self, from_rate_hz: int, to_rate_hz: int, chunk_samples: int) -> None:
        self._from_rate_hz = from_rate_hz
        self._to_rate_hz = to_rate_hz
        self._chunk_samples = chunk_samples
        self._resampler: Any = None
        if from_rate_hz != to_rate_hz:
            soxr = _import_soxr(from_rate_hz, to_rate_hz)
            self._resampler = soxr.ResampleStream(
                from_rate_hz, to_rate_hz, 1, dtype="float32", quality="HQ"
            )
        self._pending: Samples = np.zeros(0, np.float32)
        self._frames_in = 0
        self._samples_out = 0
        self._latest_s = 0.0

    def push(self, block: Samples, arrived_s: float) -> list[tuple[Samples, float]]:
        """Add (frames, channels) that arrived at ``arrived_s``; return chunks and their times.

        Each chunk is float32 of shape (chunk_samples,) with the time of its first sample. The
        times never go back.
        """
        mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
        self._frames_in += len(block)
        if self._resampler is not None:
            mono = self._resampler.resample_chunk(np.ascontiguousarray(mono))
        self._pending = np.concatenate([self._pending, mono])
        chunks = []
        while len(self._pending) >= self._chunk_samples:
            chunk = self._pending[: self._chunk_samples].copy()
            self._pending = self._pending[self._chunk_samples :]
            chunks.append((chunk, self._time(arrived_s)))
            self._samples_out += self._chunk_samples
        return chunks

    def _time(self, arrived_s: float) -> float:
        age_s = self._frames_in / self._from_rate_hz - self._samples_out / self._to_rate_hz
        # A block that comes late is followed by one that seems early; time does not go back.
        self._latest_s = max(self._latest_s, arrived_s - age_s)
        return self._latest_s
