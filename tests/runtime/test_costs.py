"""What a unit costs in time."""

from __future__ import annotations

import math

import pytest

from edgeprune.runtime._graph import Graph
from edgeprune.runtime.costs import DEFAULT_RATES, Rates, network_costs

MACS_ONLY = Rates(1.0, 0.0, 0.0, 0.0)


def test_multiply_adds_are_those_that_the_exporter_counted(digits):
    costs = network_costs(Graph(digits), MACS_ONLY)
    assert costs.total == digits.info.macs
    for group in digits.info.prunable:
        assert costs.units[group.name] * group.units == pytest.approx(group.macs)


def test_activations_count_on_the_side_of_the_group(digits):
    graph = Graph(digits)
    costs = network_costs(graph, Rates(0.0, 1.0, 0.0, 0.0))
    group = next(g for g in digits.info.prunable if g.kind == "hidden")
    moved = 0
    for operator in digits.info.operators:
        sizes = {
            name: 4 * math.prod(graph.shapes[name][1:])
            for name in (operator.input, operator.output)
        }
        if operator.depthwise and group.name in operator.writes:
            moved += sum(sizes.values())
        elif group.name in operator.reads:
            moved += sizes[operator.input]
        elif group.name in operator.writes:
            moved += sizes[operator.output]
    assert moved > 0
    assert costs.units[group.name] * group.units == pytest.approx(moved)


def test_every_operator_costs_its_call(digits):
    costs = network_costs(Graph(digits), Rates(0.0, 0.0, 0.0, 3.0))
    assert costs.total == 3.0 * len(digits.info.operators)
    assert set(costs.units.values()) == {0.0}


def test_the_time_falls_by_the_units_that_go(digits):
    costs = network_costs(Graph(digits), MACS_ONLY)
    group = next(g for g in digits.info.prunable if g.kind == "hidden")
    half = costs.time({group.name: group.units // 2})
    assert costs.time({}) == costs.total
    assert half == pytest.approx(costs.total - group.macs / 2)


def test_groups_side_by_side_share_a_reader(residual):
    costs = network_costs(Graph(residual), DEFAULT_RATES)
    assert costs.units.keys() == {group.name for group in residual.info.prunable}
    assert all(cost > 0 for cost in costs.units.values())


@pytest.mark.parametrize(
    ("rates", "usable"),
    [
        (DEFAULT_RATES, True),
        (MACS_ONLY, True),
        (Rates(0.0, 0.0, 0.0, 5.0), False),
        (Rates(-1.0, 2.0, 2.0, 5.0), False),
        (Rates(float("inf"), 2.0, 2.0, 5.0), False),
    ],
)
def test_rates_are_times(rates, usable):
    assert rates.usable == usable
