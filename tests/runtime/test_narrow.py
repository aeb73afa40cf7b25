"""Pruned units that are left out of a part: it computes what it computed, with fewer numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgeprune.runtime import _graph
from edgeprune.runtime._graph import Graph
from edgeprune.runtime._narrow import narrow_paths
from edgeprune.runtime._ort import run
from edgeprune.runtime._plan import find_sites, read_at_one_site
from edgeprune.runtime._stream import Batches
from edgeprune.runtime._walk import LayerWalk

from .test_graph_walk import HUGE


@pytest.fixture(params=["digits", "residual"])
def network(request: pytest.FixtureRequest) -> Graph:
    return Graph(request.getfixturevalue(request.param))


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many numbers each session was given."""
    make, counts = _graph.make_session, []

    def counted(model: bytes, tensors: dict[str, np.ndarray], **options: Any) -> Any:
        counts.append(sum(value.size for value in tensors.values()))
        return make(model, tensors, **options)

    monkeypatch.setattr(_graph, "make_session", counted)
    return counts


def dense(graph: Graph) -> dict[str, np.ndarray]:
    return dict(graph.artifact.tensors) | dict(graph.artifact.neutral_masks)


def some_gone(graph: Graph, share: float, seed: int = 0) -> dict[str, np.ndarray]:
    """Masks of all groups, at least one unit of each kept."""
    rng = np.random.default_rng(seed)
    masks = {}
    for group in graph.artifact.info.prunable:
        mask = rng.random(group.units) > share
        mask[rng.integers(group.units)] = True
        masks[group.name] = mask
    return masks


def in_force(graph: Graph, masks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    groups = graph.artifact.info.group_by_name
    return dense(graph) | {groups[n].mask: m.astype(np.float32) for n, m in masks.items()}


def batch_for(graph: Graph, size: int = 3) -> np.ndarray:
    shape = [size, *(graph.artifact.info.input_shape[1:])]
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_without_pruned_units_the_network_is_the_masked_one(network, given, share):
    masks = some_gone(network, share)
    tensors, batch = in_force(network, masks), {network.input: batch_for(network)}
    ends = [network.input], [network.output]
    masked = run(network.session(*ends, tensors, 1), None, batch)[0]
    without = run(network.session(*ends, tensors, 1, masks=masks), None, batch)[0]
    np.testing.assert_allclose(without, masked, rtol=1e-4, atol=1e-5)
    assert given[1] < 0.9 * given[0] or share < 0.5


def test_the_tensors_that_are_handed_over_stay_as_they_are(network):
    masks = some_gone(network, 0.6)
    tensors = in_force(network, masks)
    before = {name: np.array(value) for name, value in tensors.items()}
    network.session([network.input], [network.output], tensors, 1, masks=masks)
    assert all(np.array_equal(before[name], value) for name, value in tensors.items())
    shapes = {tensor.name: list(tensor.dims) for tensor in network.model.graph.initializer}
    assert all(list(v.shape) == shapes[n] for n, v in tensors.items() if n in shapes)


def test_what_is_asked_for_is_never_narrowed(network):
    """A tensor on the path as an output, or read by a node of the caller's."""
    masks = some_gone(network, 0.6)
    tensors, batch = in_force(network, masks), {network.input: batch_for(network)}
    for path in network.narrow_paths.values():
        for name in sorted(path.tensors):
            doubled = helper.make_node("Add", [name, name], ["doubled"])
            for output, extra in ((name, ()), ("doubled", (doubled,))):
                ends = [network.input], [output]
                wanted = run(network.session(*ends, tensors, 1, extra), None, batch)[0]
                got = run(network.session(*ends, tensors, 1, extra, masks=masks), None, batch)[0]
                assert got.shape == wanted.shape
                np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_a_part_narrows_only_what_lies_in_it_altogether(network):
    masks = some_gone(network, 0.6)
    tensors = in_force(network, masks)
    batch = {network.input: batch_for(network)}
    wanted = run(network.session([network.input], [network.output], tensors, 1), None, batch)[0]
    for cut in range(1, len(network.nodes), 3):
        live = network.live(cut)
        before = network.session([network.input], live, tensors, 1, masks=masks)
        behind = network.session(live, [network.output], tensors, 1, masks=masks)
        values = dict(zip(live, run(before, list(live), batch), strict=True))
        used = {value.name: values[value.name] for value in behind.get_inputs()}
        np.testing.assert_allclose(run(behind, None, used)[0], wanted, rtol=1e-4, atol=1e-5)


def test_with_all_units_kept_nothing_is_left_out(network, given):
    masks = some_gone(network, 0.0)
    ends = [network.input], [network.output]
    network.session(*ends, dense(network), 1)
    network.session(*ends, dense(network), 1, masks=masks)
    assert given[0] == given[1]


def test_a_group_that_runs_through_something_else_has_no_path(digits):
    graph = Graph(digits)
    assert graph.narrow_paths
    site = next(
        s for n, s in read_at_one_site(find_sites(graph)).items() if n in graph.narrow_paths
    )
    for odd in ("Softmax", "Concat", "Shape"):
        through = helper.make_node(odd, [site.tensor], ["odd"], name="odd")
        place = graph.consumed_at(site.operators[0])
        nodes = [*graph.nodes[:place], through, *graph.nodes[place:]]
        assert site.groups[0] not in narrow_paths(graph.artifact.info, nodes, ())


def test_a_walk_leaves_out_what_is_decided_and_sees_the_same(network, given):
    masks = some_gone(network, 0.6)
    samples = batch_for(network, 6)

    def walked(decided: dict[str, np.ndarray] | None) -> list[np.ndarray]:
        batches = Batches(samples, range(6), 2, network.artifact.info.input_shape)
        walk = LayerWalk(
            network,
            batches,
            {"a": in_force(network, masks)},
            budget_bytes=HUGE,
            threads=1,
            masks=decided,
        )
        return [found["a"] for found in walk.observe(network.output)]

    plain, narrow = walked(None), walked(masks)
    np.testing.assert_allclose(narrow, plain, rtol=1e-4, atol=1e-5)
    assert given[1] < given[0]
