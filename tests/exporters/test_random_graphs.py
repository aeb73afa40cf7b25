"""Random graphs through the whole of edgeprune: exported, masked, compacted; equal, or refused."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings

import edgeprune
from edgeprune.exporters import export_onnx
from edgeprune.runtime import _narrow
from edgeprune.runtime._graph import Graph
from edgeprune.runtime._ort import run
from edgeprune.runtime.artifact import Artifact

from ..graphs.strategy import inputs_for, models

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


def assert_what_is_masked_can_be_left_out(model: onnx.ModelProto) -> int:
    """A session without the masked units of all groups; return how many groups can be narrowed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.onnx"
        export_onnx(model, path)
        artifact = Artifact.open(path)
        graph, info = Graph(artifact), artifact.info
        if not info.single:
            return 0
        rng, masks = np.random.default_rng(0), {}
        for group in info.prunable:
            masks[group.name] = rng.random(group.units) > 0.7
            masks[group.name][rng.integers(group.units)] = True
        tensors = dict(artifact.tensors) | dict(artifact.neutral_masks)
        tensors |= {info.group_by_name[n].mask: m.astype(np.float32) for n, m in masks.items()}
        ends, given_samples = ([graph.input], [graph.output]), inputs_for(model, 3, 0)
        masked = run(graph.session(*ends, tensors, 1), None, given_samples)[0]
        without = run(graph.session(*ends, tensors, 1, masks=masks), None, given_samples)[0]
        np.testing.assert_allclose(without, masked, rtol=1e-3, atol=1e-4)
        return len(graph.narrow_paths)


@settings(max_examples=40, deadline=None, suppress_health_check=_PATIENT)
@given(models())
def test_what_is_masked_can_be_left_out(model: onnx.ModelProto) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_narrow, "_MULTIPLE", 1)  # these networks are narrow
        assert_what_is_masked_can_be_left_out(model)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@settings(max_examples=2000, deadline=None, suppress_health_check=_PATIENT)
@given(models())
def test_many_random_graphs(model: onnx.ModelProto) -> None:
    assert_masked_equals_compacted(model)
