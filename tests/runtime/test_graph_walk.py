"""Cut anywhere, walked with any budget: a network in pieces computes what it computes whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeprune.runtime._graph import Graph
from edgeprune.runtime._ort import make_session, run
from edgeprune.runtime._plan import find_sites, first_use
from edgeprune.runtime._stream import Batches
from edgeprune.runtime._walk import LayerWalk
from edgeprune.runtime.artifact import Artifact
from edgeprune.runtime.errors import InputError
from edgeprune.runtime.personalize import personalize
from edgeprune.runtime.profile import Profile
from edgeprune.runtime.settings import Settings

HUGE = 10**10


class Source:
    """Samples that count how often they are asked for; the `bad` ones are unusable."""

    def __init__(self, samples: np.ndarray, bad: frozenset[int] = frozenset()) -> None:
        self.samples = samples
        self.bad = bad
        self.asked = 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> np.ndarray | None:
        self.asked += 1
        return None if index in self.bad else self.samples[index]


@pytest.fixture(params=["digits", "residual", "tiny"])
def network(request: pytest.FixtureRequest) -> tuple[Graph, dict[str, Any], np.ndarray]:
    """A graph, tensors that are not neutral, and a batch of samples."""
    artifact: Artifact = request.getfixturevalue(request.param)
    return Graph(artifact), changed(artifact, 0), samples_for(request, request.param)


def samples_for(request: pytest.FixtureRequest, name: str) -> np.ndarray:
    if name == "digits":
        return request.getfixturevalue("demo").adapt[:4]
    if name == "residual":
        return request.getfixturevalue("pictures")[:4]
    return np.random.default_rng(0).normal(size=(4, 3, 4, 4)).astype(np.float32)


def changed(artifact: Artifact, seed: int) -> dict[str, Any]:
    """Tensors with a few units masked and random gains and shifts."""
    rng = np.random.default_rng(seed)
    tensors = dict(artifact.tensors)
    for name, value in artifact.neutral_masks.items():
        if name.endswith(".mask"):
            tensors[name] = (rng.random(value.shape) > 0.2).astype(np.float32)
        else:
            noise = 0.1 * rng.normal(size=value.shape)
            tensors[name] = (value + noise).astype(np.float32)
    return tensors


def whole(graph: Graph, tensors: dict[str, Any], batch: np.ndarray, names: Any) -> dict[str, Any]:
    """Values of `names`, computed by the whole network in one session."""
    made = [name for name in names if name != graph.input]
    if not made:
        return {graph.input: batch}
    values = run(graph.session([graph.input], made, tensors, 1), made, {graph.input: batch})
    return dict(zip(made, values, strict=True)) | {graph.input: batch}


def test_the_network_as_a_part_is_the_network(network):
    graph, tensors, batch = network
    session = make_session(graph.artifact.graph, tensors)
    wanted = run(session, [graph.output], {graph.input: batch})[0]
    got = whole(graph, tensors, batch, [graph.output])[graph.output]
    assert got.tobytes() == wanted.tobytes()


def test_a_part_from_any_cut_computes_what_the_network_computes(network):
    graph, tensors, batch = network
    names = {name for node in graph.nodes for name in node.output}
    names = {name for name in names if name in graph.shapes}
    everything = whole(graph, tensors, batch, sorted(names))
    output = everything[graph.output]
    for position in range(len(graph.nodes)):
        live = graph.live(position)
        session = graph.session(live, [graph.output], tensors, 1)
        feeds = {value.name: everything[value.name] for value in session.get_inputs()}
        got = run(session, [graph.output], feeds)[0]
        np.testing.assert_allclose(got, output, rtol=1e-5, atol=1e-5, err_msg=str(position))


def test_any_cut_from_any_earlier_cut(network):
    graph, tensors, batch = network
    names = {name for position in range(len(graph.nodes)) for name in graph.live(position)}
    everything = whole(graph, tensors, batch, sorted(names))
    for start in range(0, len(graph.nodes), 4):
        for end in range(start + 1, len(graph.nodes), 3):
            feeds = graph.live(start)
            wanted = [name for name in graph.live(end) if name not in feeds]
            if not wanted:
                continue
            session = graph.session(feeds, wanted, tensors, 1)
            used = {value.name: everything[value.name] for value in session.get_inputs()}
            for name, value in zip(wanted, run(session, wanted, used), strict=True):
                np.testing.assert_allclose(value, everything[name], rtol=1e-5, atol=1e-5)


def test_live_sets_are_what_later_nodes_need_and_earlier_ones_made(network):
    graph, _, _ = network
    constants = {tensor.name for tensor in graph.model.graph.initializer}
    for position in range(len(graph.nodes) + 1):
        live = graph.live(position)
        assert len(set(live)) == len(live)
        made = {graph.input, *(n for node in graph.nodes[:position] for n in node.output)}
        assert made.issuperset(live)
        later = {n for node in graph.nodes[position:] for n in node.output}
        read = {n for node in graph.nodes[position:] for n in node.input} & made
        assert set(live) - {graph.output} == read - {graph.output}
        assert not later.intersection(live)
        assert not constants.intersection(live)
    assert graph.live(0) == (graph.input,)
    assert graph.live(len(graph.nodes)) == (graph.output,)


def test_a_cut_through_a_residual_block_carries_both_branches(residual):
    graph = Graph(residual)
    adds = [i for i, node in enumerate(graph.nodes) if node.op_type == "Add"]
    assert len(adds) == 2
    for position in adds:
        assert set(graph.nodes[position].input) <= set(graph.live(position))
    assert max(len(graph.live(position)) for position in range(len(graph.nodes))) >= 2


def test_live_bytes_are_those_of_the_values(network):
    graph, tensors, batch = network
    for position in range(len(graph.nodes)):
        values = whole(graph, tensors, batch, list(graph.live(position)) or [graph.output])
        size = sum(values[name].nbytes for name in graph.live(position))
        assert graph.live_bytes(position) == size / len(batch)


def observed(graph: Graph, batches: Batches, tracks: Any, budget: int) -> dict[str, Any]:
    """Walk along all sites; everything seen, by site and track. The budget is checked."""
    walk = LayerWalk(graph, batches, tracks, budget_bytes=budget, threads=1)
    seen: dict[str, Any] = {"positions": []}
    for site in find_sites(graph):
        walk.advance(first_use(graph, site))
        assert walk.kept_bytes <= budget
        seen["positions"].append(walk.position)
        parts = list(walk.observe(site.tensor))
        for track in tracks:
            seen[f"{site.tensor}/{track}"] = np.concatenate([part[track] for part in parts])
    seen["output"] = np.concatenate([part["student"] for part in walk.observe(graph.output)])
    return seen


@pytest.mark.parametrize(
    ("name", "medium"), [("digits", 1_000_000), ("residual", 250_000), ("tiny", 6_000)]
)
def test_the_budget_changes_nothing_but_the_memory(name, medium, request):
    artifact = request.getfixturevalue(name)
    samples = np.repeat(samples_for(request, name), 4, 0)
    graph = Graph(artifact)
    tracks = {"teacher": changed(artifact, 1), "student": changed(artifact, 2)}
    batches = Batches(samples, range(len(samples)), 5, artifact.info.input_shape)
    always, some, never = (observed(graph, batches, tracks, b) for b in (HUGE, medium, 0))
    assert set(never["positions"]) == {0}
    assert always["positions"][0] > 0
    assert always["positions"] == sorted(always["positions"])
    assert some["positions"] != always["positions"]
    assert set(some["positions"]) != {0}
    for key in set(always) - {"positions"}:
        np.testing.assert_allclose(some[key], always[key], rtol=1e-4, atol=1e-5, err_msg=key)
        np.testing.assert_allclose(never[key], always[key], rtol=1e-4, atol=1e-5, err_msg=key)
    direct = whole(graph, tracks["student"], samples, [graph.output])[graph.output]
    np.testing.assert_allclose(always["output"], direct, rtol=1e-4, atol=1e-5)


def test_what_is_kept_is_counted(residual, pictures):
    graph = Graph(residual)
    tensors = dict(residual.tensors)
    batches = Batches(pictures, range(20), 8, residual.info.input_shape)
    tracks = {"teacher": tensors, "student": tensors}
    walk = LayerWalk(graph, batches, tracks, budget_bytes=HUGE, threads=1)
    assert walk.kept_bytes == 0
    assert walk.advance(len(graph.nodes))
    assert walk.kept_bytes == 2 * 20 * graph.live_bytes(walk.position)
    assert not walk.advance(walk.position)


def test_the_cut_goes_to_the_narrowest_place(digits, demo):
    """Not to the furthest: what is kept there has to be kept for all samples."""
    graph = Graph(digits)
    batches = Batches(demo.adapt, range(4), 4, digits.info.input_shape)
    limit = len(graph.nodes) - 1
    for stop in (1, 5, 12, limit):
        tensors = {"student": dict(digits.tensors)}
        walk = LayerWalk(graph, batches, tensors, budget_bytes=HUGE, threads=1)
        walk.advance(stop)
        sizes = [graph.live_bytes(position) for position in range(1, stop + 1)]
        assert graph.live_bytes(walk.position) == min(size for size in sizes if size is not None)


def test_samples_are_read_once_when_everything_fits(residual, pictures):
    source = Source(pictures)
    graph = Graph(residual)
    batches = Batches(source, range(20), 8, residual.info.input_shape)
    tensors = {"student": dict(residual.tensors)}
    walk = LayerWalk(graph, batches, tensors, budget_bytes=HUGE, threads=1)
    walk.advance(len(graph.nodes) - 1)
    for _ in range(3):
        assert len(np.concatenate([seen["student"] for seen in walk.observe(graph.output)])) == 20
    assert source.asked == 20


def test_the_student_does_not_touch_the_teacher(residual, pictures):
    graph = Graph(residual)
    teacher, student = dict(residual.tensors), dict(residual.tensors)
    batches = Batches(pictures, range(16), 8, residual.info.input_shape)
    tracks = {"teacher": teacher, "student": student}
    walk = LayerWalk(graph, batches, tracks, budget_bytes=HUGE, threads=1)
    for site in find_sites(graph):
        walk.advance(first_use(graph, site))
        for operator in site.operators:
            student[operator.shift] = student[operator.shift] + 1.0
            student[operator.gain] = student[operator.gain] * 1.5
    seen = list(walk.observe(graph.output))
    direct = {
        track: whole(graph, tensors, pictures[:16], [graph.output])[graph.output]
        for track, tensors in tracks.items()
    }
    for track, wanted in direct.items():
        got = np.concatenate([part[track] for part in seen])
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    assert np.abs(direct["teacher"] - direct["student"]).max() > 0.1


@pytest.mark.parametrize("budget", [0, HUGE])
def test_unusable_samples_are_passed_over(residual, pictures, budget):
    bad = frozenset({0, 7, 8, 19})
    graph = Graph(residual)
    tracks = {name: dict(residual.tensors) for name in ("teacher", "student")}
    shape = residual.info.input_shape
    batches = Batches(Source(pictures, bad), range(20), 8, shape)
    good = [index for index in range(20) if index not in bad]
    clean = Batches(pictures[good], range(len(good)), 8, shape)
    first, second = (observed(graph, b, tracks, budget) for b in (batches, clean))
    assert batches.indices == good
    for key in set(first) - {"positions"}:
        np.testing.assert_array_equal(first[key], second[key])


def test_batches_are_the_same_at_every_pass(pictures):
    source = Source(pictures, frozenset({3, 4}))
    batches = Batches(source, range(21), 6)
    first, second = list(batches), list(batches)
    assert [len(batch) for batch in first] == [6, 6, 6, 1]
    for a, b in zip(first, second, strict=True):
        assert a.tobytes() == b.tobytes()
        assert a.dtype == np.float32
    assert source.asked == 21 + 19
    assert len(batches) == 19


def test_a_sample_that_vanishes_is_told(pictures):
    """What was learnt from the others would otherwise be compared with the wrong ones."""
    source = [*pictures[:12]]
    batches = Batches(source, range(12), 4)  # type: ignore[arg-type]
    some = batches.subset([1, 5, 9])
    assert len(list(batches)) == 3
    source[5] = None
    for those in (batches, some, batches.every(1)):
        with pytest.raises(InputError, match="sample 5 could be read before"):
            list(those)
    assert batches.indices == list(range(12))


def test_batches_of_nothing_usable():
    assert list(Batches([None] * 5, range(5), 2)) == []  # type: ignore[list-item]


def test_a_sample_of_another_shape_is_refused(residual, pictures):
    samples = [*pictures[:5], pictures[5][:, :4]]
    with pytest.raises(InputError, match="shape"):
        list(Batches(samples, range(6), 4, residual.info.input_shape))


@pytest.mark.parametrize("strength", ["deep", "light"])
def test_a_profile_does_not_depend_on_the_budget(digits, demo, strength, monkeypatch):
    """4 MB hold what is to be imitated and little else of this network, 256 MB everything."""
    advance = LayerWalk.advance
    positions: list[list[int]] = []

    def watched(walk: LayerWalk, limit: int, **options: bool) -> bool:
        moved = advance(walk, limit, **options)
        assert walk.kept_bytes <= walk.budget_bytes
        positions[-1].append(walk.position)
        return moved

    def made(megabytes: int) -> Profile:
        positions.append([])
        settings = Settings(memory_mb=megabytes, **common)
        return personalize(digits, demo.adapt, settings).profile

    monkeypatch.setattr(LayerWalk, "advance", watched)
    common: dict[str, Any] = {"strength": strength, "threads": 1, "max_samples": 40}
    other, profile = made(4), made(256)
    assert positions[0] != positions[1]
    for kind in ("masks", "gains", "shifts", "weights"):
        ours, theirs = getattr(profile, kind), getattr(other, kind)
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            np.testing.assert_allclose(theirs[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_found(value):
    samples = np.zeros((3, 4, 5), np.float32)
    samples[1, 2, 3] = value
    with pytest.raises(InputError, match="NaN or infinite"):
        list(Batches(samples, range(3), 2))


@pytest.mark.parametrize("size", [1, 2])
def test_large_values_are_finite_though_their_sum_is_not(size):
    samples = np.full((3, 4, 5), 3e38, np.float32)
    found = list(Batches(samples, range(3), size))
    np.testing.assert_array_equal(np.concatenate(found), samples)
