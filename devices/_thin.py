"""From a stream of pictures to those that show something new."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ._chunks import VideoFrame

__all__ = ["FrameCounts", "FrameThinner"]

_SIDE: Final = 16
_SAMPLED: Final = 4 * _SIDE
_SPOILT: Final = ("muted", "overdriven")


@dataclass(frozen=True)
class FrameCounts:
    """How many frames were ``kept``, and ``dropped`` by reason.

    Reasons: "near-duplicate", and "muted" and "overdriven" for pictures that show nothing.
    """

    kept: int
    dropped: Mapping[str, int]


class FrameThinner:
    """Passes frames over that look like the last one that was kept.

    Compared are grey pictures of 16 × 16, in shares of the full range. A frame is kept when they
    differ by more than ``mean_difference`` on average or by more than ``block_difference`` in one
    place (something small moved), and at the latest ``at_least_every_s`` after the last one.
    ``enabled=False`` keeps all but pictures that show nothing.

    Raises:
        ValueError: a limit is negative.
    """

    def __init__(
        self,
        *,
        enabled: bool = True,
        mean_difference: float = 0.02,
        block_difference: float = 0.15,
        at_least_every_s: float = 10.0,
    ) -> None:
        if min(mean_difference, block_difference, at_least_every_s) < 0.0:
            raise ValueError("limits must not be negative")
        self._enabled = enabled
        self._mean_difference = mean_difference
        self._block_difference = block_difference
        self._at_least_every_s = at_least_every_s
        self._last: NDArray[np.float32] | None = None
        self._last_s = 0.0
        self._kept = 0
        self._dropped: Counter[str] = Counter()

    @property
    def counts(self) -> FrameCounts:
        """What became of the frames so far."""
        return FrameCounts(self._kept, MappingProxyType(dict(self._dropped)))

    def frames(self, source: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
        """Yield the frames of a source that are kept."""
        return (frame for frame in source if self.keep(frame))

    def keep(self, frame: VideoFrame) -> bool:
        """Decide about the next frame of a source, and count it."""
        reason = self._reason_to_drop(frame)
        if reason is None:
            self._kept += 1
            return True
        self._dropped[reason] += 1
        return False

    def _reason_to_drop(self, frame: VideoFrame) -> str | None:
        spoilt = next((name for name in _SPOILT if name in frame.troubles), None)
        if spoilt is not None or not self._enabled:
            return spoilt
        small = _thumbnail(frame.rgb)
        recent = frame.timestamp_s - self._last_s < self._at_least_every_s
        if self._last is not None and recent and self._is_like(small, self._last):
            return "near-duplicate"
        self._last, self._last_s = small, frame.timestamp_s
        return None

    def _is_like(self, small: NDArray[np.float32], last: NDArray[np.float32]) -> bool:
        difference = np.abs(small - last)
        return bool(
            difference.mean() <= self._mean_difference
            and difference.max() <= self._block_difference
        )


def _thumbnail(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    # Every so many pixels first: the mean of sixteen is enough against noise, and cheap.
    down, across = (max(1, side // _SAMPLED) for side in rgb.shape[:2])
    sampled = Image.fromarray(np.ascontiguousarray(rgb[::down, ::across])).convert("L")
    small = sampled.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / np.float32(255.0)
