"""Which classes turn up of late: what a network that was relaxed to dense may use at once.

The prior of `edgeprune.runtime.prior` over a short window, pulled towards the uniform one as far as
the window is short. It is used only where few of the classes turn up: of a user who says all of ten
words, twenty samples give a prior that is noise.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..runtime.prior import effective_classes, estimate_prior

__all__ = ["RunningPrior"]

Float64 = NDArray[np.float64]
_WINDOW = 100
_FEWEST = 20
_EVERY = 10
_ITERATIONS = 20
_UNIFORM = 10.0  # samples that the uniform prior is worth; 30 was no different
_FEW = 0.3  # share of the classes


class RunningPrior:
    """Follows the class prior over the last hundred samples.

    Args:
        bias: what the camera or the room puts on all logits, float64 ``(classes,)``.
        logits: of the network as trained, of samples already seen, each ``(classes,)``.
    """

    def __init__(self, bias: Float64, logits: Iterable[NDArray[np.floating]] = ()) -> None:
        self.bias = bias
        self._prior: Float64 | None = None
        self._window: deque[Float64] = deque((one - bias for one in logits), maxlen=_WINDOW)
        self._since = 0
        self.shift: Float64 | None = None
        self._estimate()

    def add(self, logits: NDArray[np.floating]) -> bool:
        """Take in one sample's logits; True if ``shift``, to be added to logits, is a new one."""
        self._window.append(logits - self.bias)
        self._since += 1
        if self._since < _EVERY:
            return False
        return self._estimate()

    def _estimate(self) -> bool:
        samples = len(self._window)
        if samples < _FEWEST:
            return False
        self._since = 0
        # From the last estimate on: a few rounds cost milliseconds, between two samples.
        self._prior = estimate_prior(
            np.stack(self._window), start=self._prior, iterations=_ITERATIONS
        )
        classes = len(self.bias)
        if effective_classes(self._prior) > _FEW * classes:
            self.shift, self._prior = None, None
            return True
        smooth = (samples * self._prior * classes + _UNIFORM) / (samples + _UNIFORM)
        self.shift = np.log(smooth) - self.bias
        return True
