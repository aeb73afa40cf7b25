"""Watching a network: it says what it always says, and the statistics are those of its tensors."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgeprune.runtime._graph import Graph
from edgeprune.runtime._light_walk import operators_reading
from edgeprune.runtime._ort import make_session, run
from edgeprune.runtime._plan import channel_axis, find_sites, groups_in_scope, sites_reading
from edgeprune.runtime._stream import Batches
from edgeprune.runtime._watch import POSITIONS_EVERY, ROWS_PER_SAMPLE, Watcher, watch
from edgeprune.runtime.statistics import rows


@pytest.fixture(params=["residual", "digits"])
def network(request, pictures, demo):
    """A graph and its samples."""
    artifact = request.getfixturevalue(request.param)
    return Graph(artifact), pictures if request.param == "residual" else demo.adapt


@pytest.mark.parametrize("size", [1, 3, 8])
def test_watching_changes_no_output(network, size):
    graph, samples = network
    tensors = graph.artifact.tensors
    batches = Batches(samples, range(20), size, graph.artifact.info.input_shape)
    seen = watch(graph, batches, tensors, threads=1, sites=find_sites(graph))
    session = make_session(graph.artifact.graph, tensors)
    wanted = np.concatenate([run(session, [graph.output], {graph.input: b})[0] for b in batches])
    np.testing.assert_allclose(seen.outputs, wanted, rtol=1e-5, atol=1e-5)
    assert seen.samples == 20
    assert set(seen.statistics) == {site.tensor for site in find_sites(graph)}
    head = graph.artifact.info.operator_by_name[graph.artifact.info.head]
    read = graph.session([graph.input], [head.input], tensors, 1)
    features = np.concatenate([run(read, None, {graph.input: b})[0] for b in batches])
    np.testing.assert_allclose(seen.features, features, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_of_a_long_stream_outputs_of_some_samples_are_kept(network, size):
    graph, samples = network
    batches = Batches(samples, range(20), size, graph.artifact.info.input_shape)
    held = [np.stack([samples[i] for i in range(3)])]
    options = {"threads": 1, "held_out": held}
    whole = watch(graph, batches, graph.artifact.tensors, **options)
    some = watch(graph, batches, graph.artifact.tensors, **options, most_kept=8)
    assert (whole.samples, some.samples) == (20, 20)
    np.testing.assert_array_equal(whole.places, np.arange(20))
    assert len(some.places) == 8
    assert (some.places[0], some.places[-1]) == (0, 19)
    assert set(np.diff(some.places)) == {2, 3}
    np.testing.assert_array_equal(some.outputs, whole.outputs[some.places])
    np.testing.assert_array_equal(some.features, whole.features[some.places])
    np.testing.assert_array_equal(some.held_outputs, whole.held_outputs)


def test_means_are_of_all_samples_and_positions_of_some(network):
    graph, samples = network
    tensors = graph.artifact.tensors
    batches = Batches(samples, range(len(samples)), 8, graph.artifact.info.input_shape)
    sites = find_sites(graph)
    seen = watch(graph, batches, tensors, threads=1, sites=sites).statistics
    session = graph.session([graph.input], [site.tensor for site in sites], tensors, 1)
    everything = [run(session, None, {graph.input: batch}) for batch in batches]
    for site, values in zip(sites, zip(*everything, strict=True), strict=True):
        moved = np.moveaxis(np.concatenate(values), site.channel_axis, 1)
        mean = moved.reshape(*moved.shape[:2], -1).mean((0, 2), dtype=np.float64)
        np.testing.assert_allclose(seen[site.tensor].pooled.mean, mean, rtol=1e-4, atol=1e-5)
        every = min(max(len(samples) // 30, 1), POSITIONS_EVERY)  # a short stream: more of it
        name, nodes = graph.picked_nodes(site.tensor, site.channel_axis, ROWS_PER_SAMPLE)
        pick = graph.session([site.tensor], [name], tensors, 1, nodes) if nodes else None
        some = [run(pick, None, {site.tensor: v})[0] if pick else v for v in values[::every]]
        looked_into = [rows(v, site.channel_axis, ROWS_PER_SAMPLE) for v in some]
        picked = np.concatenate(looked_into).astype(np.float64)
        positions = seen[site.tensor].positions
        assert positions.count == len(picked)
        np.testing.assert_allclose(positions.mean, picked.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(positions.variance, picked.var(0), rtol=1e-4, atol=1e-5)


def test_only_what_is_asked_for_is_watched(residual, pictures):
    graph = Graph(residual)
    groups = {group.name for group in groups_in_scope(residual, "hidden")}
    sites = sites_reading(graph, groups)
    assert 0 < len(sites) < len(find_sites(graph))
    watcher = Watcher(graph, residual.tensors, sites, threads=1)
    watcher.run(np.stack([pictures[0]]))
    watcher.merge()
    assert set(watcher.statistics) == {site.tensor for site in sites}
    assert all(seen.pooled.count == 1 for seen in watcher.statistics.values())


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize(("shape", "axis"), [((2, 5), 1), ((3, 4, 9), 1), ((3, 9, 4), -1)])
def test_means_are_over_positions_whatever_the_layout(shape, axis, opset):
    graph = object.__new__(Graph)
    graph.shapes = {"x": (None, *shape[1:])}
    graph.model = helper.make_model(
        helper.make_graph([], "none", [], []), opset_imports=[helper.make_opsetid("", opset)]
    )
    name, nodes = graph.mean_nodes("x", axis)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    if not nodes:
        assert name == "x"
        return
    made = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    value = run(make_session(model.SerializeToString()), [name], {"x": x})[0]
    wanted = x.mean(2 if axis == 1 else 1)
    np.testing.assert_allclose(value.reshape(wanted.shape), wanted, rtol=1e-5, atol=1e-6)


class Gaps:
    """Samples some of which are unusable; it keeps which were read."""

    def __init__(self, samples: np.ndarray, unusable: set[int]) -> None:
        self.samples, self.unusable = samples, unusable

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> np.ndarray | None:
        return None if index in self.unusable else self.samples[index]


def noted_of(graph):
    groups = {group.name for group in groups_in_scope(graph.artifact, "hidden")}
    readers = operators_reading(graph.artifact.info, groups)
    sites = sites_reading(graph, groups)
    return sites, {operator.output: channel_axis(operator) for operator in readers}


@pytest.mark.parametrize("size", [1, 8])
@pytest.mark.parametrize("unusable", [(), range(0, 60, 2), (0, 3, 58, 59)])
def test_what_is_looked_into_last_comes_in_the_order_of_the_stream(
    residual, pictures, size, unusable
):
    """Only some samples are run with probes, and the answers are as if there were no probes."""
    graph, tensors = Graph(residual), residual.tensors
    sites, noted = noted_of(graph)
    source = Gaps(np.concatenate([pictures, pictures[::-1] * 0.5]), set(unusable))
    shape, usable = residual.info.input_shape, [n for n in range(120) if n not in set(unusable)]
    batches, held = (Batches(source, part, size, shape) for part in (range(110), range(110, 120)))
    seen = watch(
        graph, batches, tensors, threads=1, sites=sites, means=False, noted=noted, held_out=held
    )
    assert batches.indices == [n for n in usable if n < 110]
    assert seen.samples == len(batches.indices) == len(seen.outputs)
    assert len(seen.looked_into) == 48
    assert set(seen.looked_into) <= set(batches.indices)
    session = make_session(residual.graph, tensors)
    wanted = run(session, [graph.output], {graph.input: source.samples[usable]})[0]
    found = np.concatenate([seen.outputs, seen.held_outputs])
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert seen.features is not None
    assert len(seen.features) == len(seen.outputs)


def test_what_is_written_down_is_of_the_samples_that_are_named(residual, pictures):
    graph, tensors = Graph(residual), residual.tensors
    sites, noted = noted_of(graph)
    samples = np.concatenate([pictures, pictures[::-1] * 0.5])
    batches = Batches(Gaps(samples, set(range(0, 60, 2))), range(120), 1)
    seen = watch(graph, batches, tensors, threads=1, sites=sites, means=False, noted=noted)
    chosen = batches.subset(seen.looked_into)
    again = watch(graph, chosen, tensors, threads=1, sites=sites, means=False, noted=noted)
    assert again.looked_into == seen.looked_into
    for tensor, said in seen.said.items():
        np.testing.assert_allclose(np.concatenate(said), np.concatenate(again.said[tensor]))
    for tensor, statistics in seen.statistics.items():
        np.testing.assert_allclose(
            statistics.positions.variance, again.statistics[tensor].positions.variance
        )


def test_of_a_long_stream_some_answers_are_kept(residual, pictures):
    graph, tensors = Graph(residual), residual.tensors
    sites, noted = noted_of(graph)
    samples = np.concatenate([pictures, pictures[::-1] * 0.5])
    batches = Batches(samples, range(120), 8)
    seen = watch(
        graph, batches, tensors, threads=1, sites=sites, means=False, noted=noted, most_kept=40
    )
    assert seen.samples == len(batches.indices) == 120
    assert len(seen.outputs) == 40
    session = make_session(residual.graph, tensors)
    wanted = run(session, [graph.output], {graph.input: samples[seen.places]})[0]
    np.testing.assert_allclose(seen.outputs, wanted, rtol=1e-4, atol=1e-5)
    assert np.diff(seen.places).min() >= 1
    assert np.diff(seen.places).max() <= 8
