"""Streaming moments in constant memory.

Batches are merged by Chan, Golub and LeVeque (1979), the pairwise form of Welford's update, in
float64, so that a long stream loses no digits.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CrossMoments", "Moments", "rows"]

Float64 = NDArray[np.float64]
_ROWS_AT_ONCE = 512
_TARGETS_AT_ONCE = 256


def rows(values: NDArray[Any], channel_axis: int, limit: int | None = None) -> NDArray[np.float32]:
    """Lay an activation out as rows of channels.

    Args:
        values: activations, shape ``(batch, …)``, float32.
        channel_axis: the axis that holds the channels.
        limit: at most about so many rows of each sample, evenly spread over its positions.

    Returns:
        float32, shape ``(batch × positions, channels)``, C-contiguous.
    """
    if channel_axis == 1:  # by far the most frequent, and called thousands of times
        flat = values.reshape(*values.shape[:2], -1).transpose(0, 2, 1)
    else:
        moved = np.moveaxis(values, channel_axis, -1)
        flat = moved.reshape(moved.shape[0], -1, moved.shape[-1])
    if limit is not None and flat.shape[1] > limit:
        # A stride that shares no factor with the row length walks over all columns of an image.
        flat = flat[:, _evenly(flat.shape[1], limit)]
    return np.ascontiguousarray(flat.reshape(-1, flat.shape[-1]), dtype=np.float32)


@cache
def _evenly(count: int, limit: int) -> NDArray[np.int64]:
    return np.linspace(0, count - 1, limit).astype(np.int64)


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
    input; everything that a linear least-squares fit of the target on the input needs. Rows are
    gathered until they are worth a matrix product: each merge touches whole matrices.

    Args:
        inputs: channels of the input.
        targets: channels of the target; None where the target is the input itself, so that `yx` is
            `xx` and takes no memory of its own.
        single: add up in float32: half the memory, and digits enough for some ten thousand rows:
            they are added in few blocks, whose products are in float32 anyway.
        emphasis: what the rows of one sample have in common counts as if it were so many times as
            large, so that an error in it weighs the square of that.
    """

    def __init__(
        self,
        inputs: int,
        targets: int | None = None,
        *,
        single: bool = False,
        emphasis: float = 1.0,
    ) -> None:
        self._count = 0
        self._emphasis = emphasis
        self._same = same = targets is None
        self._mean_x: Float64 = np.zeros(inputs)
        self._mean_y: Float64 = self._mean_x if same else np.zeros(targets or 0)
        kind = np.float32 if single else np.float64
        self._xx: NDArray[Any] = np.zeros((inputs, inputs), kind)
        self._yx: NDArray[Any] = self._xx if same else np.zeros((targets or 0, inputs), kind)
        self._waiting: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
        self._rows_waiting = 0
        self._at_once = max(_ROWS_AT_ONCE, inputs)  # adding a matrix costs as much as some rows

    def update(
        self,
        x: NDArray[np.float32],
        y: NDArray[np.float32] | None = None,
        samples: int = 1,
    ) -> None:
        """Take in rows ``x``, ``(n, inputs)``, and their targets ``y``, ``(n, targets)``.

        They are of so many `samples`, as many rows of each one after the other.
        """
        if not len(x):
            return
        x = _emphasised(x, samples, self._emphasis)
        target = x if y is None or self._same else _emphasised(y, samples, self._emphasis)
        self._waiting.append((x, target))
        self._rows_waiting += len(x)
        if self._rows_waiting >= self._at_once:
            self.merge()

    def merge(self) -> None:
        """Take in the rows that wait."""
        if not self._waiting:
            return
        x = np.concatenate([pair[0] for pair in self._waiting])
        y = x if self._same else np.concatenate([pair[1] for pair in self._waiting])
        self._waiting, self._rows_waiting = [], 0
        n, total = len(x), self._count + len(x)
        mean_x = x.mean(0, dtype=np.float64)
        mean_y = mean_x if self._same else y.mean(0, dtype=np.float64)
        # The step between the means is one more row: its square is what Chan's merge adds.
        root = np.sqrt(self._count * n / total)
        centred_x = _centred(x, mean_x, root * (mean_x - self._mean_x))
        # Products of one centred batch fit float32; their sum over the stream would not.
        self._xx += centred_x.T @ centred_x
        if not self._same:
            centred_y = _centred(y, mean_y, root * (mean_y - self._mean_y))
            self._yx += centred_y.T @ centred_x
            self._mean_y += (mean_y - self._mean_y) * (n / total)
        self._mean_x += (mean_x - self._mean_x) * (n / total)
        self._count = total

    @property
    def count(self) -> int:
        """Rows seen."""
        return self._count + self._rows_waiting

    @property
    def mean_x(self) -> Float64:
        """Mean of the input, shape ``(inputs,)``."""
        self.merge()
        return self._mean_x / self._emphasis

    @property
    def mean_y(self) -> Float64:
        """Mean of the target, shape ``(targets,)``."""
        self.merge()
        return self._mean_y / self._emphasis

    @property
    def xx(self) -> Float64:
        """Covariance of the input, shape ``(inputs, inputs)``; a new array each time."""
        self.merge()
        return _mean_of(self._xx, self._count)

    @property
    def same(self) -> bool:
        """Whether the target is the input itself."""
        return self._same

    def xx_of(self, some: NDArray[np.bool_]) -> Float64:
        """The part of `xx` that holds some of the inputs, ``(some, some)``; a new array."""
        self.merge()
        return _mean_of(self._xx[np.ix_(some, some)], self._count)

    def yx_of(self, some: NDArray[np.bool_]) -> Float64:
        """The part of `yx` that holds some of the inputs, ``(targets, some)``; a new array."""
        self.merge()
        return _mean_of(self._yx[:, some], self._count)

    def answers(self, weights: Float64) -> Float64:
        """``weights @ yx``, ``(n, inputs)``, without all of `yx` in float64."""
        self.merge()
        total = np.zeros((len(weights), self._yx.shape[1]))
        for start in range(0, len(self._yx), _TARGETS_AT_ONCE):
            some = slice(start, start + _TARGETS_AT_ONCE)
            total += weights[:, some] @ _mean_of(self._yx[some], self._count)
        return total

    @property
    def mean_variance(self) -> float:
        """Mean over the channels of the input's variance."""
        self.merge()
        return float(np.trace(self._xx, dtype=np.float64)) / max(self._count * len(self._xx), 1)

    @property
    def yx(self) -> Float64:
        """Covariance of target and input, shape ``(targets, inputs)``."""
        self.merge()
        return _mean_of(self._yx, self._count)


def _emphasised(values: NDArray[np.float32], samples: int, emphasis: float) -> NDArray[np.float32]:
    """Rows whose mean over a sample is so many times as large, and all else as it is."""
    if emphasis == 1.0:
        return values
    by_sample = values.reshape(samples, -1, values.shape[1])
    common = by_sample.mean(1, keepdims=True)
    emphasised = by_sample + np.float32(emphasis - 1.0) * common
    return np.asarray(emphasised, np.float32).reshape(values.shape)


def _mean_of(total: NDArray[Any], count: int) -> Float64:
    return np.asarray(np.divide(total, max(count, 1), dtype=np.float64))


def _centred(
    values: NDArray[np.float32], mean: Float64, another_row: Float64
) -> NDArray[np.float32]:
    """Rows about their mean, and another row below them.

    In float32 without loss: values near their mean subtract exactly, and what rounding the mean
    adds to a product is its square.
    """
    centred = np.empty((len(values) + 1, values.shape[1]), np.float32)
    np.subtract(values, mean.astype(np.float32), out=centred[:-1])
    centred[-1] = another_row
    return centred
