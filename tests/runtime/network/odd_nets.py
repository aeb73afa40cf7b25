"""Networks in which units are easily lost, counted twice or lined up with something else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from .net import Net

__all__ = ["ODD"]

ODD: dict[str, Callable[[], onnx.ModelProto]] = {}


def odd(build: Callable[[Net], str]) -> Callable[[Net], str]:
    """Enter a network into the list; it is given a writer with an input (batch, 3, 8, 8)."""

    def model() -> onnx.ModelProto:
        n = Net(opset=20)
        n.input(3, 8, 8)
        return n.model(build(n))

    ODD[build.__name__] = model
    return build


def start(n: Net, channels: int = 6) -> str:
    return n.relu(n.conv("x", 3, channels))


@odd
def added_along_the_width(n: Net) -> str:
    """(batch, 8, 8, 8) and a vector of 8: it broadcasts along the width, not the channels."""
    vector = n.gemm(n.op("Flatten", n.op("GlobalAveragePool", start(n))), 6, 8)
    row = n.op("Unsqueeze", vector, n.ints(1, 2))
    return n.head(n.relu(n.op("Add", n.conv("x", 3, 8), row)), 8)


@odd
def added_to_a_single_channel(n: Net) -> str:
    one, many = n.conv("x", 3, 1), n.conv("x", 3, 6)
    return n.head(n.relu(n.op("Add", one, many)), 6)


@odd
def constants_of_one_channel_and_of_all(n: Net) -> str:
    x = n.op("Add", start(n), n.random(1, 6, 1, 1))
    x = n.op("Mul", x, n.random(1, 1, 1, 1))
    return n.head(n.op("Sub", n.random(6, 1, 8), x), 6)


@odd
def units_mixed_with_space(n: Net) -> str:
    """(6, 8, 8) read as (8, 48): rows of space, columns of both."""
    x = n.reshape(start(n), 0, 8, 48)
    return n.head(n.reshape(n.linear(x, 48, 10), 0, 8, 10, 1), 8)


@odd
def units_split_in_two_axes(n: Net) -> str:
    """(6, 8, 8) as (2, 3, 64), reduced along the second of them."""
    x = n.op("ReduceMean", n.reshape(start(n), 0, 2, 3, 64), n.ints(2), keepdims=0)
    return n.gemm(n.op("Flatten", x), 128, 4)


@odd
def a_chain_of_transposes(n: Net) -> str:
    x = start(n)
    for order in ((0, 2, 3, 1), (0, 3, 1, 2), (0, 2, 1, 3), (0, 2, 3, 1), (0, 3, 2, 1)):
        x = n.relu(n.transpose(x, *order))
    return n.gemm(n.op("Flatten", x), 384, 4)


@odd
def parts_of_unequal_size(n: Net) -> str:
    """Two, three and one of six channels, each for another reader; the last scales the output."""
    parts = n.ops("Split", [start(n), n.ints(2, 3, 1)], 3, axis=1)
    a, b = n.head(parts[0], 2), n.head(n.op("Sigmoid", parts[1]), 3)
    c = n.op("Flatten", n.op("GlobalAveragePool", parts[2]))
    return n.op("Mul", n.op("Add", a, b), c)


@odd
def overlapping_slices(n: Net) -> str:
    x = start(n)
    first, second = n.slice(x, 0, 4, 1), n.slice(x, 2, 6, 1)
    return n.head(n.op("Mul", first, second), 4)


@odd
def every_second_channel(n: Net) -> str:
    x = start(n)
    return n.op("Add", n.head(n.slice(x, 0, 6, 1, 2), 3), n.head(n.slice(x, 1, 6, 1, 2), 3))


@odd
def channels_backwards(n: Net) -> str:
    x = start(n)
    return n.head(n.op("Add", x, n.slice(x, -1, -7, 1, -1)), 6)


@odd
def a_slice_from_the_end(n: Net) -> str:
    return n.head(n.slice(start(n), -4, -1, -3), 3)


@odd
def weights_that_are_shared(n: Net) -> str:
    weight, bias = n.random(6, 6, 3, 3, fan_in=54), n.random(6)
    x = start(n)
    for _ in range(2):
        x = n.relu(n.op("Conv", x, weight, bias, pads=[1] * 4))
    return n.head(x, 6)


@odd
def weights_that_are_shared_by_two_inputs(n: Net) -> str:
    """The same columns read two groups of units."""
    weight = n.random(5, 6, 1, 1, fan_in=6)
    a, b = start(n), n.op("Sigmoid", n.conv("x", 3, 6))
    both = n.op("Add", n.op("Conv", a, weight), n.op("Tanh", n.op("Conv", b, weight)))
    return n.head(both, 5)


@odd
def the_same_tensor_twice(n: Net) -> str:
    x = start(n)
    return n.head(n.relu(n.conv(n.op("Concat", x, x, axis=1), 12, 5)), 5)


@odd
def the_same_tensor_twice_along_the_height(n: Net) -> str:
    x = start(n)
    return n.head(n.op("Concat", x, n.op("Neg", x), axis=-2), 6)


@odd
def joined_with_constants(n: Net) -> str:
    """Three channels of a constant before six units."""
    x = start(n)
    shape = n.op("Shape", x)
    sizes = n.op("Concat", n.slice(shape, 0, 1, 0), n.ints(3, 8, 8), axis=0)
    return n.head(n.op("Concat", n.op("Expand", n.random(1, 3, 1, 1), sizes), x, axis=1), 9)


@odd
def the_mean_of_the_channels(n: Net) -> str:
    x = n.op("ReduceMean", start(n), n.ints(-3), keepdims=1)
    return n.gemm(n.op("Flatten", x), 64, 4)


@odd
def the_largest_of_the_channels_beside_them(n: Net) -> str:
    x = start(n)
    most = n.op("ReduceMax", x, n.ints(1), keepdims=0)
    return n.head(n.op("Sub", x, n.op("Unsqueeze", most, n.ints(1))), 6)


@odd
def which_channel_is_largest(n: Net) -> str:
    x = start(n)
    place = n.op("Cast", n.op("ArgMax", x, axis=1, keepdims=1), to=1)
    return n.head(n.op("Add", n.conv(x, 6, 5), place), 5)


@odd
def softmax_over_the_channels(n: Net) -> str:
    return n.head(n.op("Softmax", start(n), axis=-3), 6)


@odd
def softmax_over_space(n: Net) -> str:
    x = n.op("Softmax", n.reshape(start(n), 0, 6, 64), axis=-1)
    return n.gemm(n.op("Flatten", x), 384, 4)


@odd
def channels_that_are_padded(n: Net) -> str:
    x = n.op("Pad", start(n), n.ints(0, 2, 0, 0, 0, 1, 0, 0), n.const(np.float32(0.7)))
    return n.head(n.relu(n.conv(x, 9, 5)), 5)


@odd
def channels_that_lose_some(n: Net) -> str:
    """A negative pad takes channels away."""
    x = n.op("Pad", start(n), n.ints(0, -2, 0, 0, 0, 1, 0, 0))
    return n.head(n.relu(n.conv(x, 5, 5)), 5)


@odd
def channels_that_are_reflected(n: Net) -> str:
    x = n.op("Pad", start(n), n.ints(0, 2, 0, 0, 0, 2, 0, 0), mode="reflect")
    return n.head(n.relu(n.conv(x, 10, 5)), 5)


@odd
def channels_that_are_tiled(n: Net) -> str:
    return n.head(n.relu(n.conv(n.op("Tile", start(n), n.ints(1, 2, 1, 1)), 12, 5)), 5)


@odd
def one_channel_expanded_to_all(n: Net) -> str:
    one = n.op("Sigmoid", n.conv("x", 3, 1))
    return n.head(n.op("Mul", n.op("Expand", one, n.ints(1, 6, 1, 1)), start(n)), 6)


@odd
def a_mask_of_channels(n: Net) -> str:
    mask = n.const(np.array([1, 0, 1, 1, 0, 1], np.bool_).reshape(1, 6, 1, 1))
    return n.head(n.op("Where", mask, start(n), n.const(np.float32(0.3))), 6)


@odd
def a_choice_by_another_group(n: Net) -> str:
    chosen = n.op("Greater", n.conv("x", 3, 6), n.const(np.float32(0)))
    return n.head(n.op("Where", chosen, start(n), n.random(6, 1, 1)), 6)


@odd
def pooled_without_keeping_axes(n: Net) -> str:
    a = n.op("ReduceMean", start(n), n.ints(-1, -2), keepdims=0)
    b = n.op("ReduceL2", n.conv("x", 3, 6), n.ints(3, 2), keepdims=0)
    return n.gemm(n.op("Add", a, b), 6, 4)


@odd
def a_scaled_linear_layer(n: Net) -> str:
    x = n.op("Flatten", n.op("GlobalAveragePool", start(n)))
    x = n.relu(n.op("Gemm", x, n.random(6, 7), n.random(1, 7), alpha=0.5, beta=-2.0))
    return n.op("Gemm", x, n.random(4, 7), n.random(1), alpha=2.0, beta=0.5, transB=1)


@odd
def a_transposed_linear_layer(n: Net) -> str:
    """transA: the batch stands where channels do."""
    x = n.op("Flatten", n.op("GlobalAveragePool", start(n)))
    return n.op("Gemm", n.transpose(x, 1, 0), n.random(6, 4), transA=1)


@odd
def sums_over_letters(n: Net) -> str:
    x = n.op("Einsum", start(n), n.random(6, 5), equation="bchw,cd->bdhw")
    y = n.op("Einsum", n.relu(x), n.random(8, 8), equation="bdhw,wk->bkdh")
    return n.gemm(n.op("Flatten", n.op("ReduceMean", y, n.ints(1))), 40, 4)


@odd
def an_outer_product(n: Net) -> str:
    """Bilinear pooling: every unit with every other."""
    a, b = (n.op("Flatten", n.op("GlobalAveragePool", n.conv("x", 3, k))) for k in (6, 5))
    x = n.op("Mul", n.op("Unsqueeze", a, n.ints(2)), n.op("Unsqueeze", b, n.ints(1)))
    return n.gemm(n.op("Flatten", x), 30, 4)


@odd
def the_gram_matrix(n: Net) -> str:
    x = n.reshape(start(n), 0, 6, 64)
    return n.gemm(n.op("Flatten", n.op("MatMul", x, n.transpose(x, 0, 2, 1))), 36, 4)


@odd
def a_sorted_choice_of_channels(n: Net) -> str:
    """The three largest of six: which they are depends on all."""
    x = n.op("Flatten", n.op("GlobalAveragePool", start(n)))
    best = n.ops("TopK", [x, n.ints(3)], 2, axis=1)
    return n.gemm(best[0], 3, 4)


@odd
def a_sum_along_the_channels(n: Net) -> str:
    return n.head(n.op("CumSum", start(n), n.const(np.int64(1))), 6)


@odd
def normalised_across_neighbours(n: Net) -> str:
    return n.head(n.op("LRN", start(n), size=3, alpha=0.5, beta=0.75, bias=1.0), 6)


@odd
def channels_moved_into_space(n: Net) -> str:
    x = n.op("DepthToSpace", start(n, 8), blocksize=2, mode="CRD")
    y = n.op("DepthToSpace", start(n, 8), blocksize=2, mode="DCR")
    return n.head(n.op("Add", x, y), 2)


@odd
def channels_picked_by_number(n: Net) -> str:
    """One of them twice, one never, and negative numbers."""
    return n.head(n.relu(n.conv(n.op("Gather", start(n), n.ints(0, -1, 0, 3), axis=1), 4, 5)), 5)


@odd
def elements_picked_by_number(n: Net) -> str:
    x = n.op("Flatten", n.op("GlobalAveragePool", start(n)))
    sizes = n.op("Concat", n.slice(n.op("Shape", x), 0, 1, 0), n.ints(3), axis=0)
    places = n.op("Expand", n.const(np.array([[5, 0, 2]])), sizes)
    picked = n.op("GatherND", x, n.op("Unsqueeze", places, n.ints(2)), batch_dims=1)
    return n.gemm(picked, 3, 4)


@odd
def channels_written_over(n: Net) -> str:
    x = n.transpose(start(n), 1, 0, 2, 3)
    y = n.transpose(n.conv("x", 3, 2), 1, 0, 2, 3)
    written = n.op("ScatterND", x, n.const(np.array([[4], [1]])), y)
    return n.head(n.transpose(written, 1, 0, 2, 3), 6)


@odd
def turned_upside_down(n: Net) -> str:
    """Channels beside the batch for a while: (batch · 6, 1, 8, 8) through one filter."""
    x = n.reshape(start(n), -1, 1, 8, 8)
    x = n.op("Conv", x, n.random(1, 1, 3, 3), pads=[1] * 4)
    return n.head(n.reshape(x, -1, 6, 8, 8), 6)


@odd
def a_depthwise_layer_that_doubles(n: Net) -> str:
    x = n.op("Conv", start(n), n.random(12, 1, 3, 3), n.random(12), pads=[1] * 4, group=6)
    return n.head(n.op("Add", n.relu(x), n.conv("x", 3, 12)), 12)


@odd
def groups_that_do_not_fit(n: Net) -> str:
    """Two groups of three channels behind three of two."""
    x = n.op("Conv", start(n), n.random(6, 2, 3, 3), pads=[1] * 4, group=3)
    x = n.op("Conv", n.relu(x), n.random(8, 3, 3, 3), pads=[1] * 4, group=2)
    return n.head(n.relu(x), 8)
