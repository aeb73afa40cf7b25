"""Streaming moments in constant memory.

Batches are merged by Chan, Golub and LeVeque (1979), the pairwise form of Welford's update, in
float64, so that a long stream loses no digits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CrossMoments", "Moments", "rows"]

Float64 = NDArray[np.float64]


def rows(values: NDArray[Any], channel_axis: int, limit: int | None = None) -> NDArray[np.float32]:
    """Lay an activation out as rows of channels.

    Args:
        values: activations, shape ``(batch, …)``, float32.
        channel_axis: the axis that holds the channels.
        limit: at most about so many rows of each sample, evenly spread over its positions.

    Returns:
        float32, shape ``(batch × positions, channels)``, C-contiguous.
    """
    moved = np.moveaxis(values, channel_axis, -1)
    flat = moved.reshape(moved.shape[0], -1, moved.shape[-1])
    if limit is not None and flat.shape[1] > limit:
        # A stride that shares no factor with the row length walks over all columns of an image.
        chosen = np.linspace(0, flat.shape[1] - 1, limit).astype(np.int64)
        flat = flat[:, chosen]
    return np.ascontiguousarray(flat.reshape(-1, flat.shape[-1]), dtype=np.float32)


class Moments:
    """Mean and variance of each channel of a stream of rows."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean: Float64 = np.zeros(channels)
        self._m2: Float64 = np.zeros(channels)

    def update(self, values: NDArray[Any]) -> None:
        """Merge rows of shape ``(n, channels)``."""
        n = len(values)
        if n == 0:
            return
        wide = values.astype(np.float64)
        mean = wide.mean(0)
        total = self.count + n
        delta = mean - self.mean
        self._m2 += ((wide - mean) ** 2).sum(0) + delta**2 * (self.count * n / total)
        self.mean += delta * (n / total)
        self.count = total

    @property
    def variance(self) -> Float64:
        """Population variance, shape ``(channels,)``."""
        return self._m2 / max(self.count, 1)

    @property
    def std(self) -> Float64:
        """Population standard deviation, shape ``(channels,)``."""
        return np.sqrt(self.variance)


class CrossMoments:
    """Joint second moments of a target stream and an input stream that are seen side by side.

    After the updates `xx` is the covariance of the input and `yx` the covariance of target and
    input; everything that a linear least-squares fit of the target on the input needs.
    """

    def __init__(self, inputs: int, targets: int) -> None:
        self.count = 0
        self.mean_x: Float64 = np.zeros(inputs)
        self.mean_y: Float64 = np.zeros(targets)
        self._xx: Float64 = np.zeros((inputs, inputs))
        self._yx: Float64 = np.zeros((targets, inputs))

    def update(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> None:
        """Merge rows ``x`` of shape ``(n, inputs)`` and ``y`` of shape ``(n, targets)``."""
        n = len(x)
        if n == 0:
            return
        mean_x, mean_y = x.mean(0, dtype=np.float64), y.mean(0, dtype=np.float64)
        total = self.count + n
        # Products of one centred batch fit float32; their sum over the stream would not.
        centred = x - mean_x.astype(np.float32)
        weight = self.count * n / total
        delta_x, delta_y = mean_x - self.mean_x, mean_y - self.mean_y
        self._xx += centred.T @ centred
        self._xx += np.outer(delta_x * weight, delta_x)
        self._yx += (y - mean_y.astype(np.float32)).T @ centred
        self._yx += np.outer(delta_y * weight, delta_x)
        self.mean_x += delta_x * (n / total)
        self.mean_y += delta_y * (n / total)
        self.count = total

    @property
    def xx(self) -> Float64:
        """Covariance of the input, shape ``(inputs, inputs)``."""
        return self._xx / max(self.count, 1)

    @property
    def yx(self) -> Float64:
        """Covariance of target and input, shape ``(targets, inputs)``."""
        return self._yx / max(self.count, 1)
