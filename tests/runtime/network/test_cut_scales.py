"""One channel left: a factor for each channel becomes one number, and ORT must load it."""

from __future__ import annotations

import pytest

from edgeprune.runtime.network._cut import all_kept
from edgeprune.runtime.network._cut_scales import part_scales
from edgeprune.runtime.network._layout import Layout

from .net import Array, Net, analysed, assert_cut_equals_masked


def two_factors(second: str = "Mul", *, both_read: bool = True) -> Layout:
    """Factors of each channel one after the other, each with a linear layer behind it."""
    n = Net()
    hidden = n.linear(n.input(5, 3), 3, 6)
    scaled = n.op("Mul", hidden, n.positive(6))
    twice = n.op(second, scaled, n.positive(6))
    first = n.linear(scaled if both_read else hidden, 6, 4)
    return analysed(n.model(n.op("Add", first, n.linear(twice, 6, 4))))


def one_left(layout: Layout) -> Array:
    keep = all_kept(layout)
    keep[layout.resolved(layout.dense[0].writes)[1:]] = False
    return keep


@pytest.mark.parametrize("second", ["Mul", "Div"])
def test_onnxruntime_loads_what_is_left_of_two_factors(second: str) -> None:
    """ONNX Runtime 1.32 refuses it with the factors as they are."""
    layout = two_factors(second)
    small = assert_cut_equals_masked(layout, one_left(layout))
    assert [v.size for name, v in small.constants.items() if name.endswith(".scale")] == [1]
    assert [node.op_type for node in small.nodes].count("Mul") == 2


def test_factors_of_several_channels_stay_as_they_are() -> None:
    assert not part_scales(two_factors().graph)


def test_a_factor_that_nobody_else_reads_stays_as_it_is() -> None:
    layout = two_factors(both_read=False)
    small = assert_cut_equals_masked(layout, one_left(layout))
    assert not [name for name in small.constants if name.endswith(".scale")]
