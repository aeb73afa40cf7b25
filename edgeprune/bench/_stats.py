"""Means over users, with intervals that say how much they would differ for other users."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Mean", "mean_interval", "t_quantile"]

# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom.
_QUANTILES = (
    *(12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004),
    *(2.262157, 2.228139, 2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905),
    *(2.109816, 2.100922, 2.093024, 2.085963, 2.079614, 2.073873, 2.068658, 2.063899),
    *(2.059539, 2.055529, 2.051831, 2.048407, 2.045230, 2.042272),
)
_NORMAL = 1.959963985


@dataclass(frozen=True)
class Mean:
    """A mean over users with its 95 % interval; `low` and `high` are None for a single user."""

    users: int
    mean: float
    low: float | None
    high: float | None


def t_quantile(degrees: int) -> float:
    """97.5 % quantile of Student's t."""
    if degrees <= len(_QUANTILES):
        return _QUANTILES[degrees - 1]
    # Cornish and Fisher's expansion about the normal quantile: exact to five digits from here on.
    z, n = _NORMAL, degrees
    first = (z**3 + z) / (4 * n)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
    return z + first + second + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)


def mean_interval(values: Sequence[float]) -> Mean:
    """Mean and 95 % interval by Student's t.

    ::

        mean_interval([0.1, 0.2, 0.3]) is 0.2, from -0.048 to 0.448
    """
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return Mean(count, mean, None, None)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = t_quantile(count - 1) * math.sqrt(variance / count)
    return Mean(count, mean, mean - half, mean + half)
