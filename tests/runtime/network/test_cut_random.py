"""Random graphs of all operators: masked and cut are one function, or units are honestly frozen."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeprune.exporters._export import prepare
from edgeprune.runtime.network._cut import all_kept, cut, masked
from edgeprune.runtime.network._graph import to_model
from edgeprune.runtime.network._layout import Layout, analyse
from edgeprune.runtime.network._session import Runner

from ...graphs.strategy import inputs_for, models
from .net import Array, removing

SHARES = (0.3, 0.7, 0.95, 1.0)
_relaxed = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


def _patterns(layout: Layout, seed: int) -> list[Array]:
    """Units at random, and whole producers at random."""
    rng = np.random.default_rng(seed)
    patterns = [removing(layout, share, rng) for share in SHARES]
    for share in (0.2, 0.5):
        keep = all_kept(layout)
        for dense in layout.dense:
            if rng.random() < share:
                keep[layout.resolved(dense.writes)] = False
        patterns.append(keep)
    return patterns


def assert_cut_equals_masked(model: onnx.ModelProto, seed: int) -> None:
    layout = analyse(prepare(model))
    for keep in _patterns(layout, seed):
        small = to_model(cut(layout, keep))
        onnx.checker.check_model(small, full_check=True)
        one, other = Runner(to_model(masked(layout, keep))), Runner(small)
        for batch in (1, 3):
            feeds = inputs_for(model, batch, seed)
            for wanted, got in zip(one(feeds), other(feeds), strict=True):
                assert_equal(wanted, got)


def assert_equal(wanted: Array, got: Array) -> None:
    assert wanted.shape == got.shape
    # Without anything left, some norms divide zero by zero.
    if np.isfinite(wanted).all() and wanted.size:
        assert np.abs(wanted - got).max() <= 1e-4 * max(np.abs(wanted).max(), 1e-2)


@settings(max_examples=100, deadline=None, suppress_health_check=_relaxed)
@given(models(), st.integers(0, 99))
def test_random_graphs(model: onnx.ModelProto, seed: int) -> None:
    assert_cut_equals_masked(model, seed)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=2000, deadline=None, suppress_health_check=_relaxed)
@given(models(), st.integers(0, 99))
def test_many_random_graphs(model: onnx.ModelProto, seed: int) -> None:
    assert_cut_equals_masked(model, seed)
