"""Streaming moments equal those of all the data at once, however the data come."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.runtime.statistics import CrossMoments, Moments, rows

FAST = settings(max_examples=60, deadline=None)
SPLITS = st.lists(st.integers(0, 60), max_size=8).map(sorted)
SEEDS = st.integers(0, 2**32 - 1)


def correlated(seed: int, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Sixty rows of four inputs, and of three targets that depend on them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, 4)) @ rng.normal(size=(4, 4)) + offset
    y = x @ rng.normal(size=(4, 3)) + rng.normal(size=(60, 3))
    return x.astype(np.float32), y.astype(np.float32)


def covariance(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    y, x = y.astype(np.float64), x.astype(np.float64)
    return (y - y.mean(0)).T @ (x - x.mean(0)) / len(x)


@FAST
@given(seed=SEEDS, splits=SPLITS)
def test_moments_do_not_depend_on_the_batches(seed, splits):
    x, _ = correlated(seed)
    moments = Moments(4)
    for part in np.split(x, splits):
        moments.update(part)
    wide = x.astype(np.float64)
    assert moments.count == 60
    np.testing.assert_allclose(moments.mean, wide.mean(0), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(moments.variance, wide.var(0), rtol=1e-10)
    np.testing.assert_allclose(moments.std, wide.std(0), rtol=1e-10)


@FAST
@given(seed=SEEDS, splits=SPLITS)
def test_cross_moments_do_not_depend_on_the_batches(seed, splits):
    x, y = correlated(seed)
    moments = CrossMoments(4, 3)
    for a, b in zip(np.split(x, splits), np.split(y, splits), strict=True):
        moments.update(a, b)
    assert moments.count == 60
    scale = np.sqrt(np.outer(y.var(0), x.var(0)))
    np.testing.assert_allclose(moments.mean_x, x.mean(0, dtype=np.float64), atol=1e-10)
    np.testing.assert_allclose(moments.mean_y, y.mean(0, dtype=np.float64), atol=1e-10)
    np.testing.assert_allclose(moments.xx, covariance(x, x), rtol=1e-4, atol=1e-5)
    assert (np.abs(moments.yx - covariance(y, x)) < 1e-5 * scale + 1e-6).all()


@FAST
@given(seed=SEEDS, splits=SPLITS, offset=st.sampled_from([-3e4, 1e3, 1e4]))
def test_a_large_offset_costs_no_digits(seed, splits, offset):
    """A mean of squares in float32 would lose everything here."""
    x, _ = correlated(seed)
    x = (x / x.std(0) + offset).astype(np.float32)
    moments, cross = Moments(4), CrossMoments(4, 4)
    for part in np.split(x, splits):
        moments.update(part)
        cross.update(part, part)
    wanted = covariance(x, x)
    np.testing.assert_allclose(moments.variance, np.diag(wanted), rtol=1e-9)
    np.testing.assert_allclose(cross.xx, wanted, atol=2e-4)
    np.testing.assert_allclose(cross.yx, wanted, atol=2e-4)


def test_a_long_stream_loses_no_digits():
    rng = np.random.default_rng(0)
    moments, cross = Moments(2), CrossMoments(2, 2)
    parts = [rng.normal([5, -3], [1, 0.01], (50, 2)).astype(np.float32) for _ in range(2000)]
    for part in parts:
        moments.update(part)
        cross.update(part, part)
    wide = np.concatenate(parts).astype(np.float64)
    np.testing.assert_allclose(moments.variance, wide.var(0), rtol=1e-9)
    np.testing.assert_allclose(np.diag(cross.xx), wide.var(0), rtol=1e-5)


def test_the_memory_is_constant():
    def floats(value: object) -> int:
        if isinstance(value, list | tuple):
            return sum(floats(part) for part in value)
        return int(np.size(value)) if isinstance(value, np.ndarray) else 0

    moments = CrossMoments(4, 3)
    x, y = correlated(0)
    matrices, block = floats(list(vars(moments).values())), floats([x, y])
    for _ in range(100):
        moments.update(x, y)
        # Rows wait until there are 1024 of them: never more than that and one update.
        assert floats(list(vars(moments).values())) <= matrices + 1024 * (4 + 3) + block
    assert moments.count == 100 * len(x)


def test_the_covariance_of_a_stream_with_itself_is_symmetric():
    x, _ = correlated(1)
    moments = CrossMoments(4, 4)
    moments.update(x, x)
    np.testing.assert_array_equal(moments.xx, moments.yx)
    np.testing.assert_allclose(moments.xx, moments.xx.T, rtol=1e-6)


def test_nothing_seen_is_nothing():
    moments, cross = Moments(3), CrossMoments(3, 2)
    moments.update(np.empty((0, 3), np.float32))
    cross.update(np.empty((0, 3), np.float32), np.empty((0, 2), np.float32))
    assert moments.count == cross.count == 0
    assert not moments.variance.any()
    assert not cross.xx.any()


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((2, 3), 1),
        ((2, 3), -1),
        ((2, 3, 5), 1),
        ((2, 3, 5, 4), 1),
        ((2, 5, 3), -1),
        ((2, 7, 5, 3), 3),
    ],
)
def test_rows_are_positions_and_columns_channels(shape, axis):
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    laid = rows(values, axis)
    assert laid.shape == (values.size // 3, 3)
    assert laid.flags.c_contiguous
    assert laid.dtype == np.float32
    for channel in range(3):
        wanted = np.take(values, channel, axis).ravel()
        np.testing.assert_array_equal(laid[:, channel], wanted)


@given(height=st.integers(1, 9), width=st.integers(1, 9), limit=st.integers(1, 30))
def test_a_limit_spreads_rows_over_each_sample(height, width, limit):
    values = np.arange(3 * 2 * height * width, dtype=np.float32).reshape(3, 2, height, width)
    laid = rows(values, 1, limit)
    count = min(limit, height * width)
    assert laid.shape == (3 * count, 2)
    whole = rows(values, 1).reshape(3, -1, 2)
    for sample, part in zip(whole, laid.reshape(3, count, 2), strict=True):
        places = [np.flatnonzero((sample == row).all(1))[0] for row in part]
        assert len(set(places)) == count
        if count > 1:
            assert (places[0], places[-1]) == (0, height * width - 1)
            gaps = np.diff(places)
            assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("targets", [None, 5, 300])
@pytest.mark.parametrize("single", [False, True])
def test_parts_and_products_are_those_of_the_whole(targets, single):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(700, 7)).astype(np.float32)
    y = None if targets is None else rng.normal(size=(700, targets)).astype(np.float32)
    moments = CrossMoments(7, targets, single=single)
    moments.update(x, y)
    some = np.array([True, False, True, True, False, False, True])
    np.testing.assert_array_equal(moments.xx_of(some), moments.xx[np.ix_(some, some)])
    np.testing.assert_array_equal(moments.yx_of(some), moments.yx[:, some])
    weights = rng.normal(size=(4, targets or 7))
    np.testing.assert_allclose(moments.answers(weights), weights @ moments.yx, atol=1e-9)
    assert moments.same == (targets is None)
    moments.xx_of(some)[:] = 0  # a new array each time
    assert moments.xx_of(some).any()
