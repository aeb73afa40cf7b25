"""Random graphs through the whole of edgeprune: exported, masked, compacted; equal, or refused."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, given, settings

import edgeprune
from edgeprune.exporters import export_onnx

from ..graphs.strategy import models

_PATIENT = list(HealthCheck)


def assert_masked_equals_compacted(model: onnx.ModelProto) -> None:
    """Export proves that the neutral artifact is the model; `verify` does the rest."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.onnx"
        report = export_onnx(model, path)
        assert report.worst_error_random <= 1e-4
        verdict = edgeprune.verify(path, masks=3)
    # A mask may be dead in a random graph (a softmax over one value); a difference may not be.
    assert not [failure for failure in verdict.failures if "differ" in failure]
    assert (verdict.masked_error or 0.0) <= 1e-4


@settings(max_examples=40, deadline=None, suppress_health_check=_PATIENT)
@given(models())
def test_random_graphs(model: onnx.ModelProto) -> None:
    assert_masked_equals_compacted(model)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@settings(max_examples=2000, deadline=None, suppress_health_check=_PATIENT)
@given(models())
def test_many_random_graphs(model: onnx.ModelProto) -> None:
    assert_masked_equals_compacted(model)
