"""Is somebody making a sound? Levels against a noise floor that follows the room."""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["FRAME_S", "EnergyGate"]

FRAME_S: Final = 0.01
_SMOOTHED_FRAMES: Final = 5
# The floor is the quietest moment of the last seconds: between words there is always one, and a
# fan that is switched on is the floor when they have passed.
_FLOOR_PARTS: Final = 6
_FLOOR_PART_S: Final = 0.5
_LOWEST_FLOOR_DBFS: Final = -80.0
# A floor that is as loud as speech is speech that has not paused yet.
_HIGHEST_FLOOR_DBFS: Final = -20.0


class EnergyGate:
    """Decides for frames of 10 ms whether they stand out from the background.

    A frame is active from ``on_db`` above the noise floor on, and once active stays so down to
    ``off_db`` above it. Frames below ``lowest_dbfs`` are never active.
    """

    def __init__(
        self, *, on_db: float = 9.0, off_db: float = 6.0, lowest_dbfs: float = -60.0
    ) -> None:
        self._on_db = on_db
        self._off_db = off_db
        self._lowest_dbfs = lowest_dbfs
        self._recent: deque[float] = deque(maxlen=_SMOOTHED_FRAMES)
        self._part = np.inf
        self._part_frames = 0
        self._parts: deque[float] = deque(maxlen=_FLOOR_PARTS)
        self._active = False

    @property
    def floor_dbfs(self) -> float:
        """The noise floor, RMS in dB below full scale."""
        floor = min([*self._parts, self._part])
        return float(np.clip(floor, _LOWEST_FLOOR_DBFS, _HIGHEST_FLOOR_DBFS))

    def push(self, frame: NDArray[np.float32]) -> bool:
        """Judge (samples,) of 10 ms."""
        level = level_dbfs(frame)
        self._follow(level)
        margin = self._off_db if self._active else self._on_db
        self._active = level >= max(self.floor_dbfs + margin, self._lowest_dbfs)
        return self._active

    def _follow(self, level: float) -> None:
        self._recent.append(level)
        if len(self._recent) == _SMOOTHED_FRAMES:
            self._part = min(self._part, sum(self._recent) / _SMOOTHED_FRAMES)
        self._part_frames += 1
        if self._part_frames * FRAME_S >= _FLOOR_PART_S:
            self._parts.append(self._part)
            self._part, self._part_frames = np.inf, 0


def level_dbfs(samples: NDArray[np.float32]) -> float:
    """Return the RMS around the mean in dB below full scale, −120 for silence."""
    return 20.0 * float(np.log10(max(1e-6, float(np.std(samples, dtype=np.float64)))))
