"""Normalisation moved back onto the statistics of training."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.runtime._graph import Graph
from edgeprune.runtime._ort import run
from edgeprune.runtime._plan import channel_axis
from edgeprune.runtime._stream import Batches
from edgeprune.runtime.artifact import Artifact, Operator, Reference
from edgeprune.runtime.normalize import corrected_gain_shift, renormalize
from edgeprune.runtime.personalize import _tells_more
from edgeprune.runtime.prior import information
from edgeprune.runtime.statistics import rows

from .personalizing import FAST, SEEDS


def with_reference(mean: Any, std: Any) -> Operator:
    channels = len(mean)
    reference = Reference("samples", np.array(mean, np.float32), np.array(std, np.float32))
    return Operator(
        "op", "Conv", False, "x", "y", 3, channels, 1, 0, (), False, None, 0, 0, reference
    )


@FAST
@given(seed=SEEDS, blend=st.floats(0, 1))
def test_the_blend_says_whose_statistics_count(seed, blend):
    rng = np.random.default_rng(seed)
    ref_mean, mean = rng.normal(size=(2, 6))
    ref_std, std = rng.uniform(0.5, 2, size=(2, 6))
    gain, shift = corrected_gain_shift(with_reference(ref_mean, ref_std), mean, std, blend)
    assert gain.dtype == shift.dtype == np.float32
    variance = blend * std**2 + (1 - blend) * ref_std**2
    np.testing.assert_allclose(gain, ref_std / np.sqrt(variance), rtol=1e-4)
    blended_mean = blend * mean + (1 - blend) * ref_mean
    np.testing.assert_allclose(gain * blended_mean + shift, ref_mean, atol=1e-4)


def test_without_blend_nothing_moves():
    operator = with_reference([1.0, -2.0, 0.5], [1.0, 2.0, 0.3])
    gain, shift = corrected_gain_shift(operator, np.array([9.0, 9, 9]), np.array([3.0, 3, 3]), 0.0)
    np.testing.assert_allclose(gain, 1, atol=1e-6)
    np.testing.assert_allclose(shift, 0, atol=1e-6)


@pytest.mark.parametrize("std", [[0.0, 1.0], [1e-7, 1.0]])
def test_channels_that_hardly_vary_are_left_alone(std):
    operator = with_reference([1.0, 1.0], std)
    gain, shift = corrected_gain_shift(operator, np.array([5.0, 5.0]), np.array([2.0, 2.0]), 1.0)
    assert (gain[0], shift[0]) == (1.0, 0.0)
    assert gain[1] == pytest.approx(0.5)
    flat = corrected_gain_shift(with_reference([1.0], [1.0]), np.array([5.0]), np.array([0.0]), 1.0)
    assert [part.tolist() for part in flat] == [[1.0], [0.0]]


def test_an_operator_without_reference_has_nothing_to_return_to():
    operator = dataclasses.replace(with_reference([1.0], [1.0]), reference=None)
    with pytest.raises(ValueError, match="reference"):
        corrected_gain_shift(operator, np.zeros(1), np.ones(1), 1.0)


def renormalized(artifact: Artifact, samples: np.ndarray, blend: float) -> Any:
    batches = Batches(samples, range(len(samples)), 8, artifact.info.input_shape)
    tensors = dict(artifact.tensors) | dict(artifact.neutral_masks)
    return renormalize(
        Graph(artifact), batches, tensors, blend=blend, budget_bytes=10**9, threads=1
    )


def deviations(artifact: Artifact, changed: dict[str, Any], samples: np.ndarray) -> Any:
    """For each operator with a reference: how far its output's statistics are from it, in std."""
    graph = Graph(artifact)
    operators = [o for o in artifact.info.operators if o.reference is not None]
    names = [operator.output for operator in operators]
    session = graph.session([graph.input], names, dict(artifact.tensors) | changed, 1)
    for operator, value in zip(operators, run(session, names, {graph.input: samples}), strict=True):
        reference = operator.reference
        assert reference is not None
        seen = rows(value, channel_axis(operator), 256).astype(np.float64)
        usable = (reference.std > 1e-2 * reference.std.max()) & (seen.std(0) > 0)
        scale = reference.std[usable]
        mean = np.abs(seen.mean(0) - reference.mean)[usable] / scale
        std = np.abs(seen.std(0) - reference.std)[usable] / scale
        yield operator.name, mean, std


@pytest.mark.parametrize("name", ["digits", "residual"])
def test_statistics_come_back_to_the_reference_at_every_operator(name, request, demo, pictures):
    artifact = request.getfixturevalue(name)
    samples = demo.adapt if name == "digits" else 2 * pictures + 1
    before = {op: (mean, std) for op, mean, std in deviations(artifact, {}, samples)}
    changed, _ = renormalized(artifact, samples, 1.0)
    count = 0
    for operator, mean, std in deviations(artifact, changed, samples):
        assert mean.max() < 2e-3, operator
        assert std.max() < 2e-3, operator
        count += 1
    assert count == len(before) > 5
    assert np.mean([mean.mean() for mean, _ in before.values()]) > 0.1


def test_without_blend_the_networks_gains_and_shifts_are_neutral(digits, demo):
    changed, _ = renormalized(digits, demo.adapt[:16], 0.0)
    for name, value in changed.items():
        np.testing.assert_allclose(value, digits.neutral_masks[name], atol=1e-5, err_msg=name)


def test_only_gains_and_shifts_of_operators_with_a_reference_change(digits, demo):
    changed, outputs = renormalized(digits, demo.adapt[:16], 1.0)
    wanted = {n for o in digits.info.operators if o.reference for n in (o.gain, o.shift)}
    assert set(changed) == wanted
    assert outputs.shape == (16, 10)
    graph = Graph(digits)
    tensors = dict(digits.tensors) | changed
    session = graph.session([graph.input], [graph.output], tensors, 1)
    direct = run(session, [graph.output], {graph.input: demo.adapt[:16]})[0]
    np.testing.assert_allclose(outputs, direct, rtol=1e-3, atol=1e-3)


def test_normalisation_helps_in_a_strange_room(digits, demo):
    changed, _ = renormalized(digits, demo.adapt, 1.0)
    graph = Graph(digits)
    accuracy = []
    for tensors in (dict(digits.tensors), dict(digits.tensors) | changed):
        session = graph.session([graph.input], [graph.output], tensors, 1)
        accuracy.append(demo.accuracy(run(session, None, {graph.input: demo.test})[0]))
    assert accuracy[1] > accuracy[0] + 0.2


def test_speakers_that_the_network_knows_need_little(digits, fsdd, demo):
    """Real recordings lie near the statistics of training; the demo's far voice does not."""
    distance = {}
    for name, user in (("real", fsdd), ("demo", demo)):
        found = [mean.mean() for _, mean, _ in deviations(digits, {}, user.adapt)]
        distance[name] = np.mean(found)
    assert distance["real"] < 0.7 * distance["demo"]
    changed, _ = renormalized(digits, fsdd.adapt, 1.0)
    for operator, mean, std in deviations(digits, changed, fsdd.adapt):
        assert max(mean.max(), std.max()) < 2e-3, operator


def test_variety_without_certainty_tells_no_more():
    three = 6 * np.eye(10)[[0, 1, 2] * 8].astype(np.float32)
    spread = 4 * np.eye(10)[np.arange(24) % 8].astype(np.float32)
    assert information(spread) > information(three)
    assert not _tells_more(spread, three)
    assert _tells_more(6 * np.eye(10)[np.arange(24) % 8], three)
