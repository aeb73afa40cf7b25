"""The samples that wait to be learnt from: a bounded number, recent ones favoured, in memory only.

Biased reservoir sampling (Aggarwal, "On biased reservoir sampling in the presence of stream
evolution", VLDB 2006, section 2.1): once it is full, a new sample is let in with a fixed
probability and takes the place of a random one. What is kept then ages exponentially.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Kept", "Reservoir"]

_FEWEST = 10


@dataclass(frozen=True, eq=False)
class Kept:
    """A sample in the reservoir; float16 where that holds it, else float32."""

    sequence: int
    timestamp_s: float
    array: NDArray[np.floating]


class Reservoir:
    """A bounded choice of a stream's samples.

    Args:
        budget_bytes: most memory for arrays.
        most: most samples.
        horizon: samples after which the chance of still being kept has fallen to 1/e.
        seed: of the random choices.
    """

    def __init__(self, *, budget_bytes: int, most: int, horizon: int, seed: int = 0) -> None:
        self._budget = budget_bytes
        self._most = most
        self._horizon = horizon
        self._random = np.random.default_rng(seed)
        self._kept: list[Kept] = []
        self._largest_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def capacity(self, array: NDArray[np.floating]) -> int:
        """How many samples like this one fit, at least ten."""
        largest = self._largest_bytes or _half(array).nbytes
        return int(np.clip(self._budget // max(largest, 1), _FEWEST, self._most))

    @property
    def size_bytes(self) -> int:
        """What the samples kept take."""
        return sum(kept.array.nbytes for kept in self._kept)

    def offer(self, sequence: int, timestamp_s: float, array: NDArray[np.float32]) -> bool:
        """Take a sample in or pass it over; True if it was taken. The array is copied."""
        capacity = self.capacity(array)
        full = len(self._kept) >= capacity
        if full and self._random.random() >= capacity / max(self._horizon, capacity):
            return False
        kept = Kept(sequence, timestamp_s, _half(array))
        self._largest_bytes = max(self._largest_bytes, kept.array.nbytes)
        if full:
            self._kept[int(self._random.integers(capacity))] = kept
        else:
            self._kept.append(kept)
        del self._kept[self.capacity(array) :]  # only where a larger one came late
        return True

    def forget(self, *, before: int | None = None) -> None:
        """Drop all samples, or those with a lower sequence number than `before`."""
        self._kept = [] if before is None else [k for k in self._kept if k.sequence >= before]

    def in_order(self) -> Sequence[Kept]:
        """The samples kept, oldest first. Later changes of the reservoir do not change it."""
        return sorted(self._kept, key=lambda kept: kept.sequence)


def _half(array: NDArray[np.floating]) -> NDArray[np.floating]:
    """A copy in half precision: finer than the 8 bits of a camera, and half the memory."""
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    return half if bool(np.isfinite(half).all()) else array.astype(np.float32)
