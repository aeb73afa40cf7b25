"""What a unit costs in time."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.runtime._graph import Graph
from edgeprune.runtime.allocation import worth_of_units
from edgeprune.runtime.costs import DEFAULT_RATES, Rates, operator_ns, unit_costs

MACS_ONLY = Rates(1.0, 0.0, 0.0)


def test_multiply_adds_are_those_that_the_exporter_counted(digits):
    costs = unit_costs(Graph(digits), MACS_ONLY)
    assert costs
    for group in digits.info.prunable:
        assert costs[group.name] * group.units == pytest.approx(group.macs)


def test_activations_count_on_the_side_of_the_group(digits):
    graph = Graph(digits)
    costs = unit_costs(graph, Rates(0.0, 1.0, 0.0))
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
    assert costs[group.name] * group.units == pytest.approx(moved)


def test_an_operator_takes_the_sum_of_its_parts(digits):
    graph = Graph(digits)
    operator = digits.info.operators[0]
    parts = [Rates(1.0, 0.0, 0.0), Rates(0.0, 1.0, 0.0), Rates(0.0, 0.0, 1.0)]
    assert operator_ns(graph, operator, parts[0]) == operator.macs
    assert operator_ns(graph, operator, Rates(1.0, 1.0, 1.0)) == pytest.approx(
        sum(operator_ns(graph, operator, rates) for rates in parts)
    )


def test_groups_side_by_side_share_a_reader(residual):
    costs = unit_costs(Graph(residual), DEFAULT_RATES)
    assert costs.keys() == {group.name for group in residual.info.prunable}
    assert all(cost > 0 for cost in costs.values())


@pytest.mark.parametrize(
    ("rates", "usable"),
    [
        (DEFAULT_RATES, True),
        (MACS_ONLY, True),
        (Rates(0.0, 0.0, 0.0), False),
        (Rates(-1.0, 2.0, 2.0), False),
        (Rates(float("inf"), 2.0, 2.0), False),
    ],
)
def test_rates_are_times(rates, usable):
    assert rates.usable == usable


@settings(deadline=None)
@given(
    st.dictionaries(st.text(max_size=3), st.tuples(st.floats(0.01, 100), st.integers(1, 500))),
    st.floats(0, 1),
)
def test_worth_is_one_in_the_mean(groups, speed):
    costs = {name: cost for name, (cost, _) in groups.items()}
    units = {name: count for name, (_, count) in groups.items()}
    worth = worth_of_units(costs, units, speed)
    total = sum(units.values())
    assert sum(worth[name] * count for name, count in units.items()) == pytest.approx(total)
    assert all(value >= 1 - speed - 1e-9 for value in worth.values())


def test_where_no_time_is_known_units_count():
    assert worth_of_units({"a": 0.0}, {"a": 5}, 1.0) == {"a": 1.0}
