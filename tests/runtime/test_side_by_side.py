"""Probes that go through the network side by side, and what is kept of a long stream."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeprune.runtime import _graph
from edgeprune.runtime import personalize as whole
from edgeprune.runtime._graph import Graph
from edgeprune.runtime._ort import run
from edgeprune.runtime._output_damage import Probe, output_damage
from edgeprune.runtime._plan import find_sites, read_at_one_site
from edgeprune.runtime._stream import Batches
from edgeprune.runtime._watch import Watched
from edgeprune.runtime.settings import Settings


@pytest.fixture(params=["digits", "residual"])
def case(request: pytest.FixtureRequest, demo: Any, pictures: np.ndarray) -> tuple[Graph, Batches]:
    artifact = request.getfixturevalue(request.param)
    samples = pictures if request.param == "residual" else demo.adapt
    return Graph(artifact), Batches(samples, range(7), 3, artifact.info.input_shape)


def tensors_of(graph: Graph) -> dict[str, np.ndarray]:
    return dict(graph.artifact.tensors) | dict(graph.artifact.neutral_masks)


def noisy_probes(graph: Graph, tensors: dict[str, np.ndarray]) -> list[Probe]:
    """Each group's readers with other weights."""
    rng = np.random.default_rng(0)
    probes = []
    for site in read_at_one_site(find_sites(graph)).values():
        changed = {}
        for operator in site.operators:
            weight = tensors[operator.weight]
            noise = rng.normal(size=weight.shape) * weight.std()
            changed[operator.weight] = (weight + noise).astype(np.float32)
        probes.append(Probe(site, 1.0, changed))
    return probes


@pytest.mark.parametrize("budget_bytes", [1, 30_000, 10**9])
def test_each_probe_says_what_the_whole_network_says_with_it(case, budget_bytes):
    graph, samples = case
    tensors = tensors_of(graph)
    probes = noisy_probes(graph, tensors)
    assert len(probes) > 1

    def said(changed: dict[str, np.ndarray]) -> np.ndarray:
        session = graph.session([graph.input], [graph.output], tensors | changed, 1)
        parts = [run(session, None, {graph.input: batch})[0] for batch in samples]
        return graph.artifact.info.logits(np.concatenate(parts)).astype(np.float64)

    dense = said({})
    energy = ((dense - dense.mean(0)) ** 2).sum()
    wanted = [((said(probe.changed) - dense) ** 2).sum() / energy for probe in probes]
    found = output_damage(graph, samples, tensors, probes, budget_bytes=budget_bytes, threads=1)
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


def test_each_part_is_built_twice_however_many_probes_go_through_it(case, monkeypatch):
    graph, samples = case
    tensors = tensors_of(graph)
    probes = noisy_probes(graph, tensors)
    make, nodes = _graph.make_session, []

    def counted(model: bytes, *given: Any, **options: Any) -> Any:
        session = make(model, *given, **options)
        part = _graph.onnx.load_from_string(model).graph
        nodes.append(sum(1 for node in part.node if node.name in names))
        return session

    names = {node.name for node in graph.nodes}
    monkeypatch.setattr(_graph, "make_session", counted)
    output_damage(graph, samples, tensors, probes, budget_bytes=10**9, threads=1)
    assert len(graph.nodes) <= sum(nodes) <= 2.5 * len(graph.nodes)


@pytest.mark.parametrize("strength", ["deep", "light"])
def test_of_a_long_stream_classes_are_learnt_from_some(digits, demo, monkeypatch, strength):
    """What is kept is bounded, whatever `max_samples`; all samples are watched."""
    monkeypatch.setattr(whole, "_MOST_LEARNT", 30)
    monkeypatch.setattr(whole, "_MOST_HELD_OUT", 12)
    seen: list[Watched] = []
    watch = whole.watch

    def kept(*given: Any, **options: Any) -> Watched:
        seen.append(watch(*given, **options))
        return seen[-1]

    monkeypatch.setattr(whole, "watch", kept)
    settings = Settings(strength=strength, threads=1, sparsity=0.3, min_agreement=0.0)
    outcome = whole.personalize(digits, demo.adapt[:100], settings)
    assert outcome.report.samples_held_out <= 12
    assert outcome.report.samples_adapted == 100 - outcome.report.samples_held_out
    assert {one.samples for one in seen} == {outcome.report.samples_adapted}
    assert {len(one.outputs) for one in seen} == {30}
    assert outcome.profile.masks
