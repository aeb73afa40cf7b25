"""Light repair: what is put on the kept activations is what the tensors do in the network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgeprune.runtime._graph import Graph
from edgeprune.runtime._light_walk import operators_reading, prune_light
from edgeprune.runtime._ort import run
from edgeprune.runtime._outcome import made_profile, taught_logits
from edgeprune.runtime._plan import channel_axis, sites_reading
from edgeprune.runtime._prune import Pruned, PruneJob
from edgeprune.runtime._state import Classes, State
from edgeprune.runtime._stream import Batches
from edgeprune.runtime._walk import LayerWalk
from edgeprune.runtime._watch import ROWS_PER_SAMPLE, Watched, watch
from edgeprune.runtime.repair import spd_inverse
from edgeprune.runtime.session import Session
from edgeprune.runtime.settings import Settings
from edgeprune.runtime.statistics import rows
from edgeprune.runtime.teach import fit_head, propagate

from .personalizing import random_job


def silent(_step: str, _share: float) -> None:
    """Nobody asks."""


def watched(artifact: Any, samples: np.ndarray, size: int) -> tuple[PruneJob, Watched]:
    graph = Graph(artifact)
    batches = Batches(samples, range(len(samples)), size, artifact.info.input_shape)
    job = random_job(graph, batches)
    noted = {o.output: channel_axis(o) for o in operators_reading(artifact.info, job.keep)}
    sites = sites_reading(graph, job.keep)
    seen = watch(graph, batches, job.teacher, threads=1, sites=sites, means=False, noted=noted)
    return replace(job, batches=batches.subset(seen.looked_into)), seen


@pytest.fixture(params=["residual", "digits"])
def case(request: pytest.FixtureRequest, demo: Any, pictures: np.ndarray) -> tuple[Any, Any]:
    samples = pictures[:40] if request.param == "residual" else demo.adapt[:40]
    return request.getfixturevalue(request.param), samples


@pytest.mark.parametrize("size", [1, 8])
def test_every_corrected_output_has_the_teachers_mean(case, size):
    """In the whole network, run anew: so nothing was lost between the pieces."""
    artifact, samples = case[0], case[1][:32]
    job, seen = watched(artifact, samples, size)
    assert len(seen.looked_into) == len(samples)  # a short stream is looked into as a whole
    pruned = prune_light(job, seen.said, ROWS_PER_SAMPLE)
    info, tensors = artifact.info, dict(job.teacher)
    for name, mask in pruned.masks.items():
        tensors[info.group_by_name[name].mask] = mask.astype(np.float32)
    for name in pruned.gains:
        operator = info.operator_by_name[name]
        tensors |= {operator.gain: pruned.gains[name], operator.shift: pruned.shifts[name]}
    corrected = operators_reading(info, job.masks)
    assert [operator.name for operator in corrected] == list(pruned.gains)
    picks = [
        job.graph.picked_nodes(operator.output, channel_axis(operator), ROWS_PER_SAMPLE)
        for operator in corrected
    ]
    outputs, nodes = [name for name, _ in picks], [node for _, made in picks for node in made]
    session = job.graph.session([job.graph.input], outputs, tensors, 1, nodes)
    found = [run(session, outputs, {job.graph.input: batch}) for batch in job.batches]
    for operator, values in zip(corrected, zip(*found, strict=True), strict=True):
        axis = channel_axis(operator)
        mine = np.concatenate([rows(value, axis, ROWS_PER_SAMPLE) for value in values])
        teachers = np.concatenate(seen.said[operator.output])
        spread = teachers.std(0).max()
        np.testing.assert_allclose(mine.mean(0), teachers.mean(0), atol=1e-3 * spread, rtol=1e-4)


@pytest.mark.parametrize("budget", [1, 10**9])
def test_held_out_samples_come_along_and_teach_nothing(case, budget):
    """What stands at the end of the walk is what the outcome says of them."""
    artifact, samples = case
    job, seen = watched(artifact, samples[:30], 8)
    job = replace(job, budget_bytes=budget)
    alone = prune_light(job, seen.said, ROWS_PER_SAMPLE)
    both = [*job.batches.indices, *range(30, 40)]
    source = Batches(samples, both, 8, artifact.info.input_shape)
    pruned = prune_light(replace(job, batches=source), seen.said, ROWS_PER_SAMPLE)
    for name, gain in alone.gains.items():
        np.testing.assert_allclose(pruned.gains[name], gain, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(pruned.shifts[name], alone.shifts[name], rtol=1e-2, atol=1e-3)
    state = State(
        artifact, job.graph, Settings(threads=1), source, source, silent, dict(job.teacher)
    )
    profile = made_profile(state, pruned, None, None)
    assert pruned.answers is not None
    wanted = Session(artifact, profile, threads=1).run(np.stack([samples[n] for n in both]))
    np.testing.assert_allclose(pruned.answers, wanted, rtol=1e-3, atol=1e-3)


def test_nothing_pruned_is_nothing_to_walk(digits, demo):
    job, seen = watched(digits, demo.adapt[:20], 8)
    assert prune_light(replace(job, masks={}), seen.said, ROWS_PER_SAMPLE).answers is None


def test_the_budget_changes_nothing(case):
    artifact, samples = case
    job, seen = watched(artifact, samples, 8)
    rich = prune_light(job, seen.said, ROWS_PER_SAMPLE)
    poor = prune_light(PruneJob(**{**vars(job), "budget_bytes": 1}), seen.said, ROWS_PER_SAMPLE)
    for name, gain in rich.gains.items():
        np.testing.assert_allclose(poor.gains[name], gain, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(poor.shifts[name], rich.shifts[name], rtol=1e-2, atol=1e-3)


def test_the_student_runs_once(residual, pictures):
    """Each operator is computed in one session only: none is walked over twice."""
    job, seen = watched(residual, pictures, 8)
    built: list[tuple[str, ...]] = []
    real = job.graph.session

    def counted(feeds: Any, outputs: Any, *rest: Any, **options: Any) -> Any:
        built.append(tuple(outputs))
        return real(feeds, outputs, *rest, **options)

    job.graph.session = counted  # type: ignore[method-assign]
    prune_light(job, seen.said, ROWS_PER_SAMPLE)
    assert len(built) == len(operators_reading(residual.info, job.masks))


@pytest.mark.parametrize("strength", ["light", "deep"])
def test_the_taught_network_need_not_be_run(digits, demo, strength):
    """What it would say follows from the dense network's logits and features."""
    held = Batches(demo.test[:20], range(20), 8, digits.info.input_shape)
    adapt = Batches(demo.adapt[:60], range(60), 8, digits.info.input_shape)
    state = State(
        digits,
        Graph(digits),
        Settings(strength=strength, threads=1),
        adapt,
        held,
        silent,
        dict(digits.tensors) | dict(digits.neutral_masks),
    )
    seen = watch(state.graph, adapt, state.teacher, threads=1, held_out=held)
    assert seen.held_features is not None
    assert seen.features is not None
    labels = propagate(seen.outputs, seen.features)
    head = fit_head(seen.features, labels) if strength == "deep" else None
    bias = np.linspace(-1, 1, digits.info.classes)
    classes = Classes(labels.mean(0), bias, head)
    found = taught_logits(classes, state.logits(seen.held_outputs), seen.held_features)
    profile = made_profile(state, Pruned(), classes, None)
    wanted = state.logits(Session(digits, profile, threads=1).run(demo.test[:20]))
    both = [values - values.mean(1, keepdims=True) for values in (found, wanted)]
    np.testing.assert_allclose(*both, rtol=1e-3, atol=1e-3)


def test_some_samples_are_looked_at_and_all_are_moved(digits, demo):
    graph = Graph(digits)
    tensors = dict(digits.tensors) | dict(digits.neutral_masks)
    batches = Batches(demo.adapt[:40], range(40), 4, digits.info.input_shape)
    site = sites_reading(graph, [group.name for group in digits.info.prunable])[-1]
    walk = LayerWalk(graph, batches, {"a": tensors}, fixed=("a",), budget_bytes=10**9, threads=1)
    then = graph.consumed_at(site.operators[0])
    looked_at = list(walk.observe(site.tensor, then=then, every=3))
    assert len(looked_at) == 4  # batches 0, 3, 6 and 9
    assert walk.advance(then)
    again = list(walk.observe(site.tensor))
    assert len(again) == 10
    for place, seen in zip((0, 3, 6, 9), looked_at, strict=True):
        np.testing.assert_allclose(seen["a"], again[place]["a"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1, 3, 96, 97, 200, 331])
def test_inverse_by_halves(size):
    rng = np.random.default_rng(size)
    x = rng.normal(size=(size, 2 * size))
    matrix = x @ x.T / size + 1e-4 * np.eye(size)
    np.testing.assert_allclose(spd_inverse(matrix.copy()) @ matrix, np.eye(size), atol=1e-8)
