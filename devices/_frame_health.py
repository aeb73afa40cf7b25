"""What can be wrong with pictures that do arrive: nothing but black, nothing but white."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["FrameHealth"]

_EVERY_S: Final = 0.2
_AFTER_S: Final = 1.5
# Black of video that keeps to 16..235 is 16; a covered lens still shows the sensor's noise.
_BLACK: Final = 20
_WHITE: Final = 250
_SHARE: Final = 0.98


class FrameHealth:
    """Watches small grey pictures; after `push`, `troubles` says what is wrong now."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._looked_s = -np.inf
        self._since: dict[str, float] = {}
        self._now = 0.0

    def is_due(self, now: float) -> bool:
        """Whether it is time for another look: a few a second are enough."""
        return now - self._looked_s >= _EVERY_S

    def push(self, thumbnail: NDArray[np.uint8], now: float) -> None:
        """Look at uint8 (height, width) that arrived at ``now``."""
        self._looked_s = self._now = now
        shares = {
            "muted": np.mean(thumbnail <= _BLACK),
            "overdriven": np.mean(thumbnail >= _WHITE),
        }
        for trouble, share in shares.items():
            if share >= _SHARE:
                self._since.setdefault(trouble, now)
            else:
                self._since.pop(trouble, None)

    @property
    def troubles(self) -> dict[str, str]:
        """What is wrong now, and how to say it."""
        sentences = {
            "muted": f"{self._device} shows nothing but black: its lens is covered, or it is dark.",
            "overdriven": f"{self._device} shows nothing but white: it is blinded.",
        }
        return {
            trouble: sentences[trouble]
            for trouble, since in self._since.items()
            if self._now - since >= _AFTER_S
        }
