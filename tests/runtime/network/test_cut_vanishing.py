"""Tensors of which nothing is left: what they fed becomes constant, or one unit stays."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest

from edgeprune.runtime.network._cut import all_kept, what_stays
from edgeprune.runtime.network._graph import Graph
from edgeprune.runtime.network._layout import Layout

from .net import Array, Net, analysed, assert_cut_equals_masked, difference
from .nets import NETS


def without(layout: Layout, *nodes: str) -> Array:
    """Keep flags without anything that these nodes write."""
    keep = all_kept(layout)
    for dense in layout.dense:
        if dense.node.name in nodes:
            keep[layout.resolved(dense.writes)] = False
    keep[0] = True
    return keep


def cut_without(model: onnx.ModelProto, *nodes: str) -> Graph:
    layout = analysed(model)
    keep = without(layout, *nodes)
    assert not keep.all()
    assert np.array_equal(what_stays(layout, keep).stay, keep)
    return assert_cut_equals_masked(layout, keep)


def kinds(graph: Graph) -> Counter[str]:
    return Counter(node.op_type for node in graph.nodes)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("share", [0.2, 0.5])
def test_whole_groups_at_random(name: str, share: float) -> None:
    layout = analysed(NETS[name]())
    rng = np.random.default_rng(0)
    for _ in range(5):
        gone = [dense.node.name for dense in layout.dense if rng.random() < share]
        assert_cut_equals_masked(layout, without(layout, *gone))


def test_a_branch_of_a_residual_leaves_its_bias() -> None:
    """An operand of full size stretches the constant: nothing is written out."""
    n = Net()
    x = n.conv(n.input(3, 6, 6), 3, 8)
    y = n.conv(n.relu(n.conv(n.relu(x), 8, 5)), 5, 8)
    small = cut_without(n.model(n.head(n.op("Add", x, y), 8)), "Conv2")
    assert kinds(small) == {
        "Conv": 1, "Add": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1,
    }  # fmt: skip
    assert small.constants[small.nodes[1].input[1]].shape == (1, 8, 1, 1)


def test_a_branch_of_a_transformer_leaves_its_bias() -> None:
    n = Net()
    x = n.linear(n.input(5, 6), 6, 8)
    x = n.op("Add", n.linear(n.relu(n.linear(x, 8, 12)), 12, 8), x)
    small = cut_without(n.model(n.linear(x, 8, 2)), "MatMul2")
    assert kinds(small) == {"MatMul": 2, "Add": 3}


def test_a_concat_drops_the_part() -> None:
    n = Net()
    x = n.input(3, 6, 6)
    parts = [n.relu(n.conv(x, 3, channels)) for channels in (4, 5, 6)]
    model = n.model(n.head(n.op("Concat", *parts, axis=1), 15))
    small = cut_without(model, "Conv2")
    assert [len(node.input) for node in small.nodes if node.op_type == "Concat"] == [2]
    alone = cut_without(model, "Conv0", "Conv2")
    assert "Concat" not in kinds(alone) and kinds(alone)["Conv"] == 1


@pytest.mark.parametrize("counted", [False, True])
def test_a_split_drops_the_part(counted: bool) -> None:
    n = Net()
    x = n.relu(n.conv(n.input(3, 6, 6), 3, 9))
    inputs, number = ([x], {"num_outputs": 3}) if counted else ([x, n.ints(2, 3, 4)], {})
    a, b, c = n.ops("Split", inputs, 3, axis=1, **number)
    sizes = [3, 3, 3] if counted else [2, 3, 4]
    y = n.op("Concat", c, n.relu(n.conv(b, sizes[1], 5)), n.conv(a, sizes[0], 4), axis=1)
    layout = analysed(n.model(n.head(y, sizes[2] + 9)))
    middle = layout.ids[b].reshape(-1)
    keep = all_kept(layout)
    keep[layout.resolved(middle)] = False
    small = assert_cut_equals_masked(layout, keep)
    (split,) = (node for node in small.nodes if node.op_type == "Split")
    assert list(small.constants[split.input[1]]) == [sizes[0], sizes[2]]
    assert list(split.output) == [a, c]


def test_a_fixed_tensor_beside_a_live_one_is_written_out() -> None:
    """A Concat needs its parts in full size, whatever the batch is."""
    n = Net()
    x = n.input(3, 6, 6)
    y = n.conv(n.relu(n.conv(x, 3, 4)), 4, 5)
    small = cut_without(n.model(n.head(n.op("Concat", n.conv(x, 3, 6), y, axis=1), 11)), "Conv0")
    assert kinds(small)["Expand"] == 1


def test_padding_is_seen_by_a_layer_behind_a_fixed_tensor() -> None:
    """Zero weights answer with the bias everywhere; the next layer pads that with zeros."""
    n = Net()
    x = n.relu(n.conv(n.input(3, 6, 6), 3, 4))
    y = n.conv(n.relu(n.conv(x, 4, 5)), 5, 6)
    z = n.conv_transpose(n.conv(x, 4, 6), 6, 6, strides=[1, 1], output_padding=[0, 0])
    small = cut_without(n.model(n.op("Add", y, z)), "Conv0")
    assert not small.nodes or "Conv" not in kinds(small)
    stays = cut_without(n.model(n.op("Add", y, n.op("Add", z, n.conv("x", 3, 6)))), "Conv0")
    assert kinds(stays) == {"Conv": 1, "Add": 2}


def test_a_transposed_convolution_leaves_its_bias() -> None:
    n = Net()
    x = n.input(3, 4, 4)
    y = n.conv_transpose(n.relu(n.conv(x, 3, 4)), 4, 6)
    small = cut_without(n.model(n.op("Add", y, n.conv_transpose(x, 3, 6))), "Conv0")
    assert kinds(small) == {"ConvTranspose": 1, "Add": 1}


def test_a_gate_that_vanishes_scales_by_a_constant() -> None:
    small = cut_without(NETS["gate"](), "Conv3")
    assert kinds(small)["Mul"] == 2 and kinds(small)["HardSigmoid"] == 0


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_a_cell_without_input_keeps_one_unit_of_it(kind: str) -> None:
    """What a cell answers changes from step to step even then."""
    layout = analysed(NETS[f"recurrent[('{kind}', False)]"]())
    keep = without(layout, "MatMul0")
    stays = what_stays(layout, keep).stay
    (more,) = np.flatnonzero(stays & ~keep)
    assert more == layout.dense[0].writes[0]
    assert_cut_equals_masked(layout, keep)


def test_cells_that_vanish() -> None:
    """The second goes with all that it writes; under it, one unit of the first stays."""
    for name in ("LSTM", "GRU", "RNN"):
        model = NETS[f"recurrent[('{name}', True)]"]()
        first, second = (node.name for node in model.graph.node if node.op_type == name)
        assert (
            kinds(assert_cut_equals_masked(layout := analysed(model), without(layout, second)))[
                name
            ]
            == 0
        )
        assert kinds(assert_cut_equals_masked(layout, without(layout, first)))[name] == 2


def test_all_heads_and_all_hidden_units() -> None:
    layout = analysed(NETS["attention[grouped]"]())
    small = assert_cut_equals_masked(
        layout, without(layout, *(dense.node.name for dense in layout.dense))
    )
    assert "Softmax" not in kinds(small)


def test_windows_are_written_out_with_their_number() -> None:
    """A size that is a multiple of the batch."""
    n = Net()
    x = n.input(4, 6)
    y = n.linear(n.relu(n.linear(n.reshape(x, -1, 2, 6), 6, 9)), 9, 8)
    small = cut_without(
        n.model(n.reshape(n.op("CumSum", y, n.const(np.int64(1))), -1, 4, 8)), "MatMul1"
    )
    assert small.outputs and "MatMul" not in kinds(small)


def test_a_network_that_no_longer_looks_at_its_input() -> None:
    model = NETS["several_outputs"]()
    small = cut_without(model, "Conv0")
    assert [item.name for item in small.inputs] == ["x", "y"]
    assert kinds(small)["Conv"] == 0 and kinds(small)["Expand"] == 2


def test_a_fixed_batch_needs_no_computed_shape() -> None:
    n = Net(batch=5)
    x = n.relu(n.conv(n.input(3, 6, 6), 3, 8))
    small = cut_without(n.model(n.reshape(n.conv(x, 8, 4), 5, 4, 6, 6)), "Conv0")
    assert kinds(small) == {"Expand": 1} or not kinds(small)["Shape"]


def test_a_captured_tensor_is_written_out() -> None:
    small = cut_without(NETS["branch_on_output"](), "Gemm0")
    assert kinds(small)["Expand"] == 1 and kinds(small)["If"] == 1
    assert "Gemm2" in {name for node in small.nodes for name in node.output}


def test_what_is_computed_from_a_random_tensor_is_not_fixed() -> None:
    n = Net()
    x = n.relu(n.conv(n.input(3, 6, 6), 3, 8))
    y = n.conv(x, 8, 4)
    noise = n.op("RandomNormalLike", y, seed=1.0)
    layout = analysed(n.model(n.op("Add", y, n.op("Mul", noise, n.const(np.float32(0))))))
    small = assert_cut_equals_masked(layout, without(layout, "Conv0"))
    assert kinds(small)["RandomNormalLike"] == 1
    assert difference(layout.graph, small) > 0
