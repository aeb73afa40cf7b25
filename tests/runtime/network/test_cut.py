from __future__ import annotations

import numpy as np
import pytest

from edgeprune.runtime.network._cut import all_kept, cut, masked, removable, what_stays
from edgeprune.runtime.network._cut_rewrites import REWRITES
from edgeprune.runtime.network._graph import to_model
from edgeprune.runtime.network._rules import RULES
from edgeprune.runtime.network._shapes import infer_shapes

from .net import analysed, assert_cut_equals_masked, difference, removing, weights
from .nets import NETS


def test_every_operator_with_a_rule_can_be_rewritten() -> None:
    """One that could not would make its units stay."""
    assert set(RULES) == set(REWRITES)


SHARES = (0.1, 0.3, 0.5, 0.7, 0.95, 1.0)


@pytest.mark.parametrize("name", NETS)
def test_cut_computes_what_masked_computes(name: str) -> None:
    layout = analysed(NETS[name]())
    assert len(removable(layout))
    for seed, share in enumerate(SHARES):
        keep = removing(layout, share, np.random.default_rng(seed))
        assert_cut_equals_masked(layout, keep, seed)


@pytest.mark.parametrize("name", NETS)
def test_nothing_changes_where_all_is_kept(name: str) -> None:
    layout = analysed(NETS[name]())
    small = cut(layout, all_kept(layout))
    assert to_model(small) == to_model(layout.graph)
    assert difference(layout.graph, small) == 0


@pytest.mark.parametrize("name", NETS)
def test_every_unit_matters_and_takes_weights_with_it(name: str) -> None:
    layout = analysed(NETS[name]())
    whole = weights(layout.graph)
    for root in removable(layout)[::5]:
        keep = all_kept(layout)
        keep[root] = False
        assert difference(layout.graph, masked(layout, keep)) > 0
        if what_stays(layout, keep).stay[root]:
            assert name == "slice_of_several_axes"
        elif name != "shared_weights":  # two places need two versions then
            assert weights(assert_cut_equals_masked(layout, keep)) < whole


@pytest.mark.parametrize("name", NETS)
def test_the_source_stays_as_it_was_and_the_result_is_the_same_twice(name: str) -> None:
    layout = analysed(NETS[name]())
    before = to_model(layout.graph).SerializeToString(deterministic=True)
    keep = removing(layout, 0.6, np.random.default_rng(0))
    first, second = (to_model(cut(layout, keep)) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True
    )
    assert to_model(layout.graph).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("name", NETS)
def test_shapes_of_the_result_are_those_of_its_tensors(name: str) -> None:
    layout = analysed(NETS[name]())
    small = cut(layout, removing(layout, 0.6, np.random.default_rng(1)))
    shapes, three = dict(small.shapes), dict(small.sizes_at_three)
    infer_shapes(small)
    assert {k: v for k, v in shapes.items() if k in small.shapes} == small.shapes
    assert {k: v for k, v in three.items() if k in small.shapes} == small.sizes_at_three
