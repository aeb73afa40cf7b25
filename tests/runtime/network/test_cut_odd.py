"""Adversarial networks: masked and cut are one function, or the first layer is frozen, with why."""

from __future__ import annotations

import numpy as np
import pytest

import edgeprune
from edgeprune.exporters import export_onnx
from edgeprune.exporters._export import prepare
from edgeprune.runtime.network._cut import all_kept, removable
from edgeprune.runtime.network._layout import analyse

from .net import assert_cut_equals_masked, removing
from .odd_nets import ODD

FROZEN = {
    "units_mixed_with_space": "MatMul 'MatMul3' reads it along several axes",
    "the_mean_of_the_channels": "ReduceMean 'ReduceMean2' mixes it",
    "the_largest_of_the_channels_beside_them": "Sub 'Sub4' spreads it over all channels",
    "which_channel_is_largest": "ArgMax 'ArgMax2' is not understood channel by channel",
    "softmax_over_the_channels": "Softmax 'Softmax2' mixes it",
    "channels_that_are_padded": "Pad 'Pad2' pads the channels",
    "channels_that_lose_some": "Pad 'Pad2' pads the channels",
    "channels_that_are_reflected": "Pad 'Pad2' pads the channels",
    "one_channel_expanded_to_all": "it has one unit",
    "a_transposed_linear_layer": "Gemm 'Gemm5' is no plain linear layer",
    "an_outer_product": "it has one unit",
    "the_gram_matrix": "it has one unit",
    "a_sorted_choice_of_channels": "TopK 'TopK4' is not understood channel by channel",
    "elements_picked_by_number": "GatherND",
    "a_sum_along_the_channels": "CumSum 'CumSum2' mixes it",
    "normalised_across_neighbours": "LRN 'LRN2' is not understood channel by channel",
    "channels_written_over": "ScatterND 'ScatterND5' is not understood channel by channel",
    "turned_upside_down": "Conv 'Conv3' reads it along several axes",
    "groups_that_do_not_fit": "Conv 'Conv2' mixes it",
}
"""Why the first layer cannot be pruned; of those that are not here its units can."""

UNITS = {
    "units_split_in_two_axes": 2,  # three channels each, which are reduced together
    "parts_of_unequal_size": 5,  # the sixth scales the output itself
    "overlapping_slices": 2,  # channels 0, 2, 4 stand together, and 1, 3, 5
    "channels_backwards": 3,
    "channels_moved_into_space": 2,
}
"""Units of the first layer where they are not its six channels."""


@pytest.mark.parametrize("name", ODD)
def test_masked_and_cut_are_one_function(name: str) -> None:
    layout = analyse(prepare(ODD[name]()))
    rng = np.random.default_rng(0)
    for share in (0.2, 0.5, 0.8, 1.0):
        for _ in range(3):
            assert_cut_equals_masked(layout, removing(layout, share, rng))
    for unit in removable(layout).tolist():
        keep = all_kept(layout)
        keep[unit] = False
        assert_cut_equals_masked(layout, keep)


@pytest.mark.parametrize("name", ODD)
def test_frozen_with_a_reason_or_pruned_and_alive(name: str, tmp_path: object) -> None:
    path = f"{tmp_path}/odd.onnx"
    report = export_onnx(ODD[name](), path)
    first = report.info.groups[0]
    if name in FROZEN:
        assert first.frozen is not None
        assert FROZEN[name] in first.frozen
    else:
        named = {group.name: group.units for group in report.info.prunable}
        assert UNITS.get(name, 6) == max(named.get("Conv0", 0), named.get("Conv1", 0))
    assert edgeprune.verify(path, masks=3).failures == ()
