"""What is written down for the repair while the dense network is watched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgeprune.runtime import _prune, _targets
from edgeprune.runtime._fold import folded
from edgeprune.runtime._graph import Graph
from edgeprune.runtime._half import halved, widened
from edgeprune.runtime._ort import run
from edgeprune.runtime._plan import find_sites, groups_in_scope, keep_counts
from edgeprune.runtime._prune import Pruned, prune_deep
from edgeprune.runtime._stream import Batches
from edgeprune.runtime._targets import SiteMoments, Targets, targets_of
from edgeprune.runtime._walk import LayerWalk
from edgeprune.runtime._watch import watch
from edgeprune.runtime.repair import fit_mixing, fit_outputs
from edgeprune.runtime.statistics import CrossMoments, rows

from .personalizing import random_job


@pytest.fixture(params=["residual", "digits"])
def case(request: pytest.FixtureRequest, demo: Any, pictures: np.ndarray) -> tuple[Any, Any]:
    samples = pictures if request.param == "residual" else demo.adapt[:40]
    return request.getfixturevalue(request.param), samples


def tensors_of(artifact: Any) -> dict[str, np.ndarray]:
    return dict(artifact.tensors) | dict(artifact.neutral_masks)


@pytest.mark.parametrize("limit", [4, 9, 20])
def test_picked_positions_are_those_of_the_tensor(case, limit):
    artifact, samples = case
    graph = Graph(artifact)
    for site in find_sites(graph):
        name, nodes = graph.picked_nodes(site.tensor, site.channel_axis, limit)
        outputs = [site.tensor] if name == site.tensor else [site.tensor, name]
        session = graph.session([graph.input], outputs, tensors_of(artifact), 1, nodes)
        whole, *picked = run(session, outputs, {graph.input: np.stack(list(samples[:2]))})
        if not picked:
            assert np.prod(whole.shape[2:]) < 4 * limit or whole.ndim < 3
            continue
        assert limit <= np.prod(picked[0].shape[2:]) < np.prod(whole.shape[2:])
        (step,) = {
            step
            for step in range(2, 40)
            if all(
                len(range(step // 2, size, step)) == found
                for size, found in zip(whole.shape[2:], picked[0].shape[2:], strict=True)
            )
            and np.array_equal(whole[:, :, step // 2 :: step, step // 2 :: step], picked[0])
        }
        assert step > 1


def test_a_layer_fitted_to_its_outputs_is_the_mixing_folded_into_it():
    rng = np.random.default_rng(0)
    d = rng.normal(size=(500, 6)) @ rng.normal(size=(6, 12)) + rng.normal(size=(500, 12))
    x = (d + 0.2 * rng.normal(size=d.shape)).astype(np.float32)
    weight, bias = rng.normal(size=(5, 12)), rng.normal(size=5)
    kept = np.arange(12) % 3 > 0
    channels, outputs = CrossMoments(12, 12), CrossMoments(12, 5)
    channels.update(x, d.astype(np.float32))
    outputs.update(x, (d @ weight.T + bias).astype(np.float32))
    mixing = fit_mixing(channels, kept, 0.1)
    fitted, added = fit_outputs(outputs, weight, kept, 0.1)
    np.testing.assert_allclose(fitted, weight @ mixing.matrix, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(added, weight @ mixing.offset + bias, rtol=1e-3, atol=1e-3)


def pruned(
    artifact: Any, samples: Any, *, choose_here: bool, share: float = 0.4
) -> tuple[Pruned, list[bool]]:
    graph = Graph(artifact)
    batches = Batches(samples, range(len(samples)), 4, artifact.info.input_shape)
    job = random_job(graph, batches, share=share, choose_here=choose_here)
    targets = targets_of(graph, job.keep, len(samples))
    return prune_deep(job), [target.own for target in targets]


@pytest.mark.parametrize("choose_here", [False, True])
def test_what_a_site_is_fitted_to_does_not_matter(residual, pictures, monkeypatch, choose_here):
    """Outputs of its readers, or its own channels: the same weights but for half precision."""
    artifact, samples = residual, pictures
    narrow, own = pruned(artifact, samples, choose_here=choose_here)
    assert any(own)
    monkeypatch.setattr(_targets, "_at_each_position", lambda *_: False)
    wide, own = pruned(artifact, samples, choose_here=choose_here)
    assert not any(own)
    for kind in ("masks", "weights", "shifts"):
        ours, theirs = getattr(narrow, kind), getattr(wide, kind)
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            np.testing.assert_allclose(value, theirs[name], rtol=1e-2, atol=1e-2, err_msg=name)


def test_rows_are_those_of_the_network_and_as_many_as_the_memory_holds(case):
    artifact, samples = case
    graph, tensors = Graph(artifact), tensors_of(artifact)
    batches = Batches(samples, range(12), 4, artifact.info.input_shape)
    found = targets_of(graph, keep_counts(groups_in_scope(artifact, "hidden"), 0.4, 1), 12)
    targets = Targets(graph, found, 12, 10**9)
    assert targets.limit == _targets.ROWS_FOR_WEIGHTS
    assert Targets(graph, found, 12, 1).limit < targets.limit
    watch(graph, batches, tensors, takers=[targets], threads=1)
    target = found[-1]
    (name,) = target.tensors
    picked, nodes = graph.picked_nodes(name, target.site.channel_axis, targets.limit)
    session = graph.session([graph.input], [picked], tensors, 1, nodes)
    for number, batch in enumerate(batches.every(target.every)):
        value = run(session, [picked], {graph.input: batch})[0]
        wanted = rows(value, target.site.channel_axis, targets.limit)
        np.testing.assert_allclose(targets.said(target, number), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("samples", [12, 3000, 100_000])
def test_what_is_written_down_has_an_end_whatever_the_number_of_samples(digits, samples):
    graph = Graph(digits)
    found = targets_of(graph, [group.name for group in digits.info.prunable], samples)
    least = min(target.every for target in found)
    assert all(target.every % least == 0 for target in found)
    targets = Targets(graph, found, samples, 200_000)
    assert targets.step == min(target.every for target in targets.targets)
    assert all(target.every % targets.step == 0 for target in targets.targets)
    written = {
        target.site.tensor: samples // target.every * targets.limit for target in targets.targets
    }
    needed = {target.site.tensor: 40 * len(target.site.units) for target in targets.targets}
    assert all(written[name] <= max(2 * needed[name], 12 * 32) for name in written)
    assert samples < 1000 or all(
        written[target.site.tensor] >= len(target.site.units) for target in targets.targets
    )


def test_of_a_long_stream_the_repair_reads_some(digits, demo, monkeypatch):
    """With the targets of every third batch, as many samples are walked through and no more."""
    graph = Graph(digits)
    batches = Batches(demo.adapt, range(36), 4, digits.info.input_shape)
    job = random_job(graph, batches, share=0.4, choose_here=True)
    found = [replace(target, every=3) for target in targets_of(graph, job.keep, 36)]
    targets = Targets(graph, found, 36, 10**9)
    watch(graph, batches, job.teacher, takers=[targets], threads=1)
    walks: list[LayerWalk] = []
    begin = LayerWalk.__init__

    def watched(walk: LayerWalk, *given: Any, **options: Any) -> None:
        begin(walk, *given, **options)
        walks.append(walk)

    monkeypatch.setattr(LayerWalk, "__init__", watched)
    found_so = prune_deep(replace(job, targets=targets))
    (walk,) = walks
    assert walk.batches.indices == [i for i in range(36) if i // 4 % 3 == 0]
    few = Batches(demo.adapt, walk.batches.indices, 4, digits.info.input_shape)
    wanted = prune_deep(replace(job, batches=few))
    for name, value in wanted.weights.items():
        np.testing.assert_allclose(found_so.weights[name], value, rtol=1e-3, atol=1e-3)


def test_moments_are_of_every_so_many_samples_whatever_the_batches(case):
    artifact, samples = case
    graph, tensors = Graph(artifact), tensors_of(artifact)
    site = find_sites(graph)[0]
    found = []
    for size in (1, 4, 5):
        moments = SiteMoments(graph, [site], 3, 8)
        batches = Batches(samples, range(12), size, artifact.info.input_shape)
        watch(graph, batches, tensors, takers=[moments], threads=1)
        found.append(moments.moments[site.tensor])
    assert {one.count for one in found} == {4 * 8}
    for one in found[1:]:
        np.testing.assert_allclose(one.xx, found[0].xx, rtol=1e-4, atol=1e-4)


def test_half_precision_keeps_within_its_range():
    value = np.array([[0.1, -3.0, 1e6, -1e6]], np.float32)
    half = halved(value)
    assert half.dtype == np.float16
    np.testing.assert_array_equal(widened(half)[0, 2:], [65504.0, -65504.0])
    np.testing.assert_allclose(widened(half)[0, :2], value[0, :2], rtol=5e-4)
    whole = np.arange(3)
    assert halved(whole) is whole
    assert widened(value) is value


def test_only_what_is_known_is_folded(residual):
    nodes = [node for node in residual.model.graph.node if node.name.startswith("edgeprune/")]
    known: dict[str, np.ndarray] = dict(tensors_of(residual)) | dict(Graph(residual)._constants)
    left, made = folded(nodes, known)
    assert not left
    assert made.keys() == {node.output[0] for node in nodes}
    missing = residual.info.operators[0].gain
    left, made = folded(nodes, {name: v for name, v in known.items() if name != missing})
    assert left
    assert {node.output[0] for node in left}.isdisjoint(made)


def test_with_nothing_to_prune_nothing_is_run(residual, pictures, monkeypatch):
    """All units kept is what every search ends with: it must not watch the network again."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the network was run")

    monkeypatch.setattr(_prune, "watch", never)
    assert pruned(residual, pictures, choose_here=True, share=0.0) == (Pruned(), [])
