"""Which groups give up how many units."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.runtime._graph import Graph
from edgeprune.runtime._output_damage import Probe, output_damage, repaired_tensors
from edgeprune.runtime._plan import find_sites, read_at_one_site
from edgeprune.runtime._stream import Batches
from edgeprune.runtime.allocation import Answers, DamageCurve, damage_curves, spread
from edgeprune.runtime.costs import Costs
from edgeprune.runtime.repair import Mixing, outgoing_weights
from edgeprune.runtime.teach import HeadUpdate, taught_head, weighed_head

FAST = settings(max_examples=50, deadline=None)


def curve(units: int, steepness: float) -> DamageCurve:
    removed = np.arange(units)
    return DamageCurve(units, removed, steepness * (removed / units) ** 2)


@st.composite
def plans(draw: st.DrawFn) -> tuple[dict[str, DamageCurve], dict[str, int], int]:
    """Groups whose units the board's multiple divides, and what a uniform share would keep."""
    multiple = draw(st.sampled_from([1, 4, 8]))
    sizes = draw(st.lists(st.integers(2, 12), min_size=1, max_size=6))
    sparsity = draw(st.floats(0.1, 0.8))
    curves, keep = {}, {}
    for number, size in enumerate(sizes):
        units = 8 * size
        wanted = round(units * (1 - sparsity) / multiple) * multiple
        curves[f"g{number}"] = curve(units, draw(st.floats(0.01, 10)))
        keep[f"g{number}"] = int(np.clip(wanted, multiple, units))
    return curves, keep, multiple


@FAST
@given(plans())
def test_the_total_stays_and_nobody_strays_far(plan):
    curves, keep, multiple = plan
    counts = spread(curves, keep, multiple)
    assert counts.keys() == keep.keys()
    assert abs(sum(counts.values()) - sum(keep.values())) <= multiple * len(keep)
    for name, count in counts.items():
        units = curves[name].units
        uniform = units - keep[name]
        assert count % multiple == 0
        assert 0 < count <= units
        assert 0.5 * uniform - multiple <= units - count
        assert count >= 0.6 * keep[name] - 1e-9


@FAST
@given(st.integers(2, 12), st.floats(0.1, 10), st.sampled_from([1, 4, 8]))
def test_equal_groups_share_equally(size, steepness, multiple):
    units = 8 * size
    keep = dict.fromkeys("abcd", units // 2 // multiple * multiple)
    counts = spread({name: curve(units, steepness) for name in "abcd"}, keep, multiple)
    assert max(counts.values()) - min(counts.values()) <= multiple


def test_the_cheap_group_loses_more():
    curves = {"cheap": curve(64, 0.1), "dear": curve(64, 10.0)}
    counts = spread(curves, {"cheap": 32, "dear": 32}, 8)
    assert counts["cheap"] < 32 < counts["dear"]
    assert sum(counts.values()) == 64


def test_at_equal_damage_the_group_that_takes_longer_loses_more():
    curves = {"slow": curve(64, 1.0), "quick": curve(64, 1.0)}
    keep = {"slow": 32, "quick": 32}
    units = dict.fromkeys(curves, 64)
    counts = spread(curves, keep, 8, Costs(200.0, {"slow": 1.8, "quick": 0.2}, units))
    assert counts["slow"] < 32 < counts["quick"]
    assert sum(counts.values()) == 64
    alike = Costs(200.0, dict.fromkeys(curves, 1.0), units)
    assert spread(curves, keep, 8, alike) == spread(curves, keep, 8)


@FAST
@given(plans(), st.floats(1.0, 8.0))
def test_it_goes_on_until_the_network_is_as_fast_as_is_asked_for(plan, faster):
    curves, keep, multiple = plan
    units = {name: line.units for name, line in curves.items()}
    costs = Costs(
        100.0 + sum(n * (1 + count) for count, n in enumerate(units.values())),
        {name: 1.0 + count for count, name in enumerate(units)},
        units,
    )
    counts = spread(curves, keep, multiple, costs, faster)
    fewest = all(
        (count - 1) // multiple * multiple < max(0.1 * units[name], 1)
        for name, count in counts.items()
    )
    assert costs.time(counts) <= costs.total / faster or fewest
    assert sum(counts.values()) <= sum(keep.values()) + multiple * len(keep)
    assert all(0 < count <= units[name] for name, count in counts.items())


def test_a_share_that_is_no_multiple_ends_on_multiples():
    curves = {name: curve(160, steepness) for name, steepness in zip("abc", (1, 2, 3), strict=True)}
    counts = spread(curves, dict.fromkeys(curves, 48), 32)
    assert all(count % 32 == 0 for count in counts.values())
    assert abs(sum(counts.values()) - 144) <= 16


def test_groups_without_a_curve_keep_their_share():
    counts = spread({"a": curve(64, 1.0)}, {"a": 32, "b": 10}, 8)
    assert counts["b"] == 10


def test_kept_units_are_a_multiple_where_units_are_not():
    curves = {"a": curve(20, 0.1), "b": curve(20, 10.0)}
    counts = spread(curves, {"a": 8, "b": 8}, 8)
    assert all(count % 8 == 0 or count == 20 for count in counts.values())


def test_a_curve_is_read_between_its_points():
    line = DamageCurve(8, np.array([0, 4, 8]), np.array([0.0, 1.0, 5.0]))
    assert [line.at(n) for n in (0, 2, 4, 6, 8)] == [0, 0.5, 1, 3, 5]


@pytest.mark.parametrize("name", ["digits", "residual"])
def test_damage_starts_at_nothing_and_never_falls(name, request):
    artifact = request.getfixturevalue(name)
    samples = (
        request.getfixturevalue("demo").adapt[:24]
        if name == "digits"
        else request.getfixturevalue("pictures")
    )
    groups = frozenset(group.name for group in artifact.info.prunable)
    curves = damage_curves(
        Graph(artifact), batches(artifact, samples), teacher(artifact), groups, ridge=0.1, threads=1
    )
    assert curves
    assert groups.issuperset(curves)
    for group, line in curves.items():
        assert line.units == artifact.info.group_by_name[group].units
        assert (line.removed[0], line.damage[0]) == (0, 0.0)
        assert (np.diff(line.removed) > 0).all()
        assert (np.diff(line.damage) >= -1e-9).all()
        assert 0.85 * line.units <= line.removed[-1] < line.units
        assert 0 < line.damage[-1] < 1.5


@pytest.mark.parametrize("name", ["digits", "residual"])
def test_answers_scale_the_curves_and_keep_their_form(name, request):
    artifact = request.getfixturevalue(name)
    given_samples = (
        request.getfixturevalue("demo").adapt[:24]
        if name == "digits"
        else request.getfixturevalue("pictures")
    )
    groups = frozenset(group.name for group in artifact.info.prunable)
    tensors = teacher(artifact)
    few = batches(artifact, given_samples)
    plain = damage_curves(Graph(artifact), few, tensors, groups, ridge=0.1, threads=1)
    answers = Answers(few, tensors, None, 10**7)
    scaled = damage_curves(
        Graph(artifact), few, tensors, groups, ridge=0.1, threads=1, answers=answers
    )
    assert scaled.keys() == plain.keys()
    factors = []
    for group, line in scaled.items():
        ratios = line.damage[1:] / plain[group].damage[1:]
        assert ratios == pytest.approx(np.full(len(ratios), ratios[0]))
        factors.append(ratios[0])
    assert min(factors) > 0
    assert max(factors) > 1.5 * min(factors)  # else there was nothing to measure


def test_what_is_masked_and_refitted_is_what_the_answers_are_measured_with(digits, demo):
    graph, tensors = Graph(digits), teacher(digits)
    few = batches(digits, demo.adapt[:8])
    site = next(iter(read_at_one_site(find_sites(graph)).values()))
    whole = np.ones(len(site.units), np.bool_)
    same = Mixing(whole, np.eye(len(whole)), np.zeros(len(whole)))
    nothing = Probe(site, 0.0, repaired_tensors(tensors, site, same))
    without = Mixing(whole, np.zeros((len(whole),) * 2), np.zeros(len(whole)))
    everything = Probe(site, 1.0, repaired_tensors(tensors, site, without))
    found = output_damage(graph, few, tensors, [nothing, everything], budget_bytes=10**7, threads=1)
    assert found[0] == pytest.approx(0.0, abs=1e-9)
    assert found[1] > 0.05


def test_a_class_that_is_never_met_does_not_count(digits, demo):
    graph, tensors = Graph(digits), teacher(digits)
    few = batches(digits, demo.adapt[:8])
    head = digits.info.operator_by_name[digits.info.head]
    site = next(s for s in find_sites(graph) if s.tensor == head.input)
    weight = np.array(tensors[head.weight])
    np.moveaxis(weight, head.out_axis, 0)[0] += 3.0  # only the first class's answer changes
    probe = Probe(site, 1.0, {head.weight: weight})
    rest = np.r_[0.0, np.ones(head.out_channels - 1)]

    def damage(importance):
        return output_damage(
            graph,
            few,
            tensors,
            [probe],
            importance=importance,
            budget_bytes=10**7,
            threads=1,
        )[0]

    assert damage(None) > 0.01
    assert damage(rest) == pytest.approx(0.0, abs=1e-9)


def test_the_head_is_judged_by_the_classes_that_are_met(digits):
    tensors = teacher(digits)
    head = digits.info.operator_by_name[digits.info.head]
    prior = np.r_[0.6, 0.4, np.zeros(head.out_channels - 2)]
    judged = weighed_head(tensors, head, None, prior)
    outgoing, all_of_it = outgoing_weights(judged, [head]), outgoing_weights(tensors, [head])
    assert outgoing.shape == (2, head.in_channels)
    assert outgoing[0] == pytest.approx(all_of_it[0] * np.sqrt(0.6 * head.out_channels), rel=1e-5)
    alike = np.full(head.out_channels, 1 / head.out_channels)
    same = outgoing_weights(weighed_head(tensors, head, None, alike), [head])
    assert same == pytest.approx(all_of_it, rel=1e-5)


def test_the_head_is_judged_as_it_is_taught(digits):
    tensors = teacher(digits)
    head = digits.info.operator_by_name[digits.info.head]
    shape = (head.out_channels, head.in_channels)
    update = HeadUpdate(np.full(shape, 0.5), np.arange(float(head.out_channels)))
    taught = taught_head(tensors, head, update)
    before, after = (outgoing_weights(t, [head]) for t in (tensors, taught))
    assert after - before == pytest.approx(np.full(shape, 0.5), abs=1e-5)
    assert taught[head.shift] - tensors[head.shift] == pytest.approx(update.bias)


def test_groups_that_are_read_twice_have_no_curve(residual, pictures):
    reads = [name for operator in residual.info.operators for name in operator.reads]
    often = {name for name in reads if reads.count(name) > 1}
    assert often
    groups = frozenset(reads)
    curves = damage_curves(
        Graph(residual),
        batches(residual, pictures),
        teacher(residual),
        groups,
        ridge=0.1,
        threads=1,
    )
    assert often.isdisjoint(curves)


def test_a_plan_for_the_digits_network(digits, demo):
    keep = {g.name: g.units // 2 for g in digits.info.prunable if g.kind == "hidden"}
    few = batches(digits, demo.adapt[:24])
    curves = damage_curves(
        Graph(digits), few, teacher(digits), frozenset(keep), ridge=0.1, threads=1
    )
    counts = spread(curves, keep, 8)
    assert counts.keys() == keep.keys()
    assert abs(sum(counts.values()) - sum(keep.values())) <= 8
    assert all(count % 8 == 0 for count in counts.values())
    assert counts != keep


def batches(artifact: Any, samples: np.ndarray) -> Batches:
    return Batches(samples, range(len(samples)), 8, artifact.info.input_shape)


def teacher(artifact: Any) -> dict[str, Any]:
    return dict(artifact.tensors) | dict(artifact.neutral_masks)
