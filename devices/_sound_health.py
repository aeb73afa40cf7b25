"""What can be wrong with sound that does arrive: nothing in it, too much of it, too few of it.

Everything here is measured in the driver's own samples, before mixing and resampling could hide
it, and decided within 2 s.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ._sound_window import SILENCE_DBFS

__all__ = ["SoundHealth"]

Block = NDArray[np.float32]

# One step of 16 bits: what a dead microphone's converter still toggles.
_SILENT_RANGE: Final = 2.0 * 10.0 ** (SILENCE_DBFS / 20.0)
_MUTED_AFTER_S: Final = 1.5

_FULL_SCALE: Final = 0.998
_CLIP_WINDOW_S: Final = 1.0
_CLIPPING_SHARE: Final = 0.01
_CLEAN_SHARE: Final = 0.001

_RATE_WINDOW_S: Final = 1.2
_RATE_SPAN_S: Final = 1.0
# Sound servers hand over what they had buffered when a stream begins.
_SETTLING_S: Final = 0.3
_WRONG_RATE: Final = 0.05
_RIGHT_RATE: Final = 0.04
_RATE_CERTAIN_S: Final = 0.2
# A gap is a stall or a busy processor; a rate is measured on either side of it.
_GAP_S: Final = 0.3


class SoundHealth:
    """Watches the blocks of one device.

    After each `push`, `troubles` maps what is wrong now to a sentence about it.

    Args:
        device: the name to use in sentences.
        rate_hz: the rate that the device claims.
    """

    def __init__(self, device: str, rate_hz: int) -> None:
        self._device = device
        self.rate_hz = rate_hz
        self._silent_s = 0.0
        self._clipping = _Clipping(rate_hz)
        self._pace = _Pace(rate_hz)

    def push(self, block: Block, arrived_s: float) -> None:
        """Look at (frames, channels) that arrived at ``arrived_s``."""
        if len(block) == 0:
            return
        silent = float(np.ptp(block, axis=0).max()) <= _SILENT_RANGE
        self._silent_s = self._silent_s + len(block) / self.rate_hz if silent else 0.0
        self._clipping.push(block)
        self._pace.push(len(block), arrived_s)

    def reconnected(self) -> None:
        """The device was opened anew: what was wrong before is so until something else is seen."""
        self._pace.settle()

    def restart_pace(self) -> None:
        """Samples were lost: what was counted so far says nothing of the rate."""
        self._pace.restart()

    @property
    def troubles(self) -> dict[str, str]:
        """What is wrong now, and how to say it."""
        found = {}
        if self._silent_s >= _MUTED_AFTER_S:
            found["muted"] = (
                f"{self._device} delivers digital silence: it is muted, or its cable is loose."
            )
        if self._clipping.is_clipping:
            found["overdriven"] = (
                f"{self._device} is over-driven: {100 * self._clipping.share:.0f} % of the samples "
                "are clipped. Turn its gain down."
            )
        if self._pace.is_wrong:
            found["wrong-rate"] = (
                f"{self._device} delivers {self._pace.measured_hz:,.0f} samples a second and says "
                f"that it records at {self.rate_hz:,} Hz."
            )
        return found


class _Clipping:
    """The share of samples at full scale, of the worst channel, over the last second."""

    def __init__(self, rate_hz: int) -> None:
        self._room = int(_CLIP_WINDOW_S * rate_hz)
        self._blocks: deque[tuple[int, int]] = deque()
        self._frames = 0
        self._clipped = 0
        self.is_clipping = False

    @property
    def share(self) -> float:
        return self._clipped / max(1, self._frames)

    def push(self, block: Block) -> None:
        clipped = int((np.abs(block) >= _FULL_SCALE).sum(axis=0).max())
        self._blocks.append((len(block), clipped))
        self._frames += len(block)
        self._clipped += clipped
        while self._frames - self._blocks[0][0] >= self._room:
            frames, clipped = self._blocks.popleft()
            self._frames -= frames
            self._clipped -= clipped
        if self._frames >= self._room:
            limit = _CLEAN_SHARE if self.is_clipping else _CLIPPING_SHARE
            self.is_clipping = self.share >= limit


class _Pace:
    """How fast samples come: the slope of their count over their arrival, by least squares.

    Blocks come in bursts, so a plain quotient over a second is a few per cent off.
    """

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._arrivals: deque[tuple[float, int]] = deque()
        self._count = 0
        self._settled_s: float | None = None
        self._suspect_since_s: float | None = None
        self.measured_hz = float(rate_hz)
        self.is_wrong = False

    def settle(self) -> None:
        self.restart()
        self._settled_s = None

    def restart(self) -> None:
        self._arrivals.clear()
        self._suspect_since_s = None

    def push(self, frames: int, now_s: float) -> None:
        if self._arrivals and now_s - self._arrivals[-1][0] > _GAP_S:
            self.restart()
        if self._settled_s is None:
            self._settled_s = now_s + _SETTLING_S
        if now_s < self._settled_s:
            return
        self._count += frames
        self._arrivals.append((now_s, self._count))
        while now_s - self._arrivals[0][0] > _RATE_WINDOW_S:
            self._arrivals.popleft()
        if now_s - self._arrivals[0][0] >= _RATE_SPAN_S and len(self._arrivals) > 3:
            self._judge(now_s)

    def _judge(self, now_s: float) -> None:
        times, counts = np.array(self._arrivals).T
        times -= times.mean()
        self.measured_hz = float(times @ counts / (times @ times))
        off = abs(self.measured_hz / self._rate_hz - 1.0)
        if off <= (_RIGHT_RATE if self.is_wrong else _WRONG_RATE):
            self.is_wrong, self._suspect_since_s = False, None
        elif self._suspect_since_s is None:
            self._suspect_since_s = now_s
        elif now_s - self._suspect_since_s >= _RATE_CERTAIN_S:
            self.is_wrong = True
