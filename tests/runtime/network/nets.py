"""One small network for every structure and operator that can be cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from .net import Net

NETS: dict[str, Callable[[], onnx.ModelProto]] = {}


def net(function: Callable[[], onnx.ModelProto]) -> Callable[[], onnx.ModelProto]:
    NETS[function.__name__] = function
    return function


def _variants(name: str, *cases: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """One network for each case, which is what the function takes."""

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        for case in cases:
            NETS[f"{name}[{case}]"] = lambda case=case: function(case)
        return function

    return enter


# Convolutions.


@_variants("convs", 1, 2, 3)
def convs(dims: int) -> onnx.ModelProto:
    n = Net()
    x = n.input(3, *[6] * dims)
    y = n.relu(n.norm(n.conv(x, 3, 10, dims=dims, bias=False), 10))
    y = n.op("MaxPool", y, kernel_shape=[2] * dims, strides=[2] * dims)
    y = n.relu(n.conv(y, 10, 8, dims=dims))
    return n.model(n.head(y, 8))


@net
def residual() -> onnx.ModelProto:
    """Two blocks, one of them with a projection, and a tree of Adds."""
    n = Net()
    x = n.relu(n.conv(n.input(3, 8, 8), 3, 8))
    y = n.relu(n.op("Add", x, n.conv(n.relu(n.conv(x, 8, 6)), 6, 8)))
    narrow = n.conv(y, 8, 12, 1, strides=[2, 2])
    z = n.conv(n.relu(n.conv(y, 8, 7, strides=[2, 2])), 7, 12)
    z = n.relu(n.op("Add", z, narrow))
    extra = n.op("Sum", z, n.conv(z, 12, 12, 1), n.conv(z, 12, 12))
    return n.model(n.head(extra, 12))


@net
def dense_block() -> onnx.ModelProto:
    """Every layer reads all that came before, at its own offset."""
    n = Net()
    parts = [n.conv(n.input(3, 6, 6), 3, 6)]
    for step in range(3):
        x = n.op("Concat", *parts, axis=1) if step else parts[0]
        channels = 6 + 4 * step
        y = n.conv(n.relu(n.norm(x, channels)), channels, 5, 1)
        parts.append(n.conv(n.relu(y), 5, 4))
    x = n.relu(n.norm(n.op("Concat", *parts, axis=1), 18))
    return n.model(n.head(x, 18))


@_variants("grouped", (8, 8, 8), (8, 16, 8), (8, 8, 4), (8, 12, 4), (12, 6, 3))
def grouped(case: tuple[int, int, int]) -> onnx.ModelProto:
    """Depthwise, with a multiplier, and in groups of several channels."""
    i, o, group = case
    n = Net()
    x = n.relu(n.conv(n.input(3, 6, 6), 3, i))
    y = n.relu(n.conv(x, i, o, group=group))
    return n.model(n.head(n.conv(y, o, 6), 6))


@_variants("transposed", 1, 3, 6)
def transposed(group: int) -> onnx.ModelProto:
    """A U-Net in small: the way up, and what is carried over."""
    n = Net()
    x = n.relu(n.conv(n.input(3, 8, 8), 3, 6))
    down = n.relu(n.conv(n.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), 6, 6))
    up = n.relu(n.conv_transpose(down, 6, 12, group=group))
    y = n.op("Concat", x, up, axis=1)
    return n.model(n.conv(n.relu(n.conv(y, 18, 5)), 5, 2, 1))


@net
def gate() -> onnx.ModelProto:
    """Squeeze and excite, with and without hidden units of its own."""
    n = Net()
    x = n.relu(n.conv(n.input(3, 6, 6), 3, 12))
    squeezed = n.relu(n.conv(n.op("GlobalAveragePool", x), 12, 4, 1))
    x = n.op("Mul", x, n.op("HardSigmoid", n.conv(squeezed, 4, 12, 1)))
    x = n.relu(n.conv(x, 12, 10))
    mean = n.op("ReduceMean", x, n.ints(2, 3), keepdims=0)
    scale = n.op("Sigmoid", n.gemm(mean, 10, 10))
    x = n.op("Mul", x, n.op("Unsqueeze", scale, n.ints(2, 3)))
    return n.model(n.head(x, 10))


# Pieces of channels.


@_variants("split", "sizes", "equal", "counted", "uneven")
def split(how: str) -> onnx.ModelProto:
    n = Net(opset=17 if how == "equal" else 20)
    x = n.relu(n.conv(n.input(3, 6, 6), 3, 11 if how == "uneven" else 12))
    inputs = [x, n.ints(4, 4, 4)] if how == "sizes" else [x]
    number = {"num_outputs": 3} if how in ("counted", "uneven") else {}
    a, b, c = n.ops("Split", inputs, 3, axis=1, **number)
    last = 3 if how == "uneven" else 4
    y = n.op("Concat", n.conv(c, last, 5), a, n.op("Mul", a, n.op("Sigmoid", b)), axis=1)
    return n.model(n.head(n.relu(n.conv(y, 13, 6)), 6))


@net
def gated_linear_unit() -> onnx.ModelProto:
    """The halves of one layer's output are tied, by Split, by Slice and along the last axis."""
    n = Net()
    x = n.linear(n.input(5, 6), 6, 16)
    a, b = n.ops("Split", [x], 2, axis=-1, num_outputs=2)
    x = n.linear(n.op("Mul", a, n.op("Sigmoid", b)), 8, 20)
    x = n.op("Mul", n.slice(x, 0, 10, 2), n.op("Tanh", n.slice(x, -10, 2**63 - 1, -1)))
    return n.model(n.linear(x, 10, 3))


@_variants("slices", (0, 7, 1), (2, -1, 1), (0, 99, 2), (-1, -99, -1), (10, 0, -3), (1, 12, 3))
def slices(case: tuple[int, int, int]) -> onnx.ModelProto:
    start, end, step = case
    n = Net()
    x = n.relu(n.conv(n.input(3, 6, 6), 3, 12))
    part = n.slice(x, start, end, 1, step)
    count = len(range(12)[slice(start, None if end == -99 else end, step)])
    y = n.op("Add", n.conv(part, count, 5), n.conv(x, 12, 5, 1))
    return n.model(n.head(n.relu(y), 5))


@net
def slice_of_several_axes() -> onnx.ModelProto:
    """Channels and space in one Slice; one with a step on the channels cannot be rewritten."""
    n = Net()
    x = n.relu(n.conv(n.input(3, 6, 6), 3, 12))
    several = (n.ints(0, 2, 0), n.ints(5, 12, 5), n.ints(2, 1, 3))
    a = n.op("Slice", x, *several)
    other = n.relu(n.conv("x", 3, 8))
    b = n.op("Slice", other, n.ints(0, 1, 0), n.ints(8, 5, 5), n.ints(1, 2, 3), n.ints(2, 1, 1))
    a = n.op("Slice", a, n.ints(1, 0), n.ints(5, 5), n.ints(2, 3))
    return n.model(n.op("Sum", n.head(a, 10), n.head(b, 4), n.head(x, 12), n.head(other, 8)))


@net
def shuffle() -> onnx.ModelProto:
    """ShuffleNet: reshape, transpose, reshape; and the same permutation by Gather."""
    n = Net()
    x = n.relu(n.conv(n.input(3, 6, 6), 3, 12))
    y = n.reshape(n.transpose(n.reshape(x, 0, 2, 6, 6, 6), 0, 2, 1, 3, 4), 0, -1, 6, 6)
    y = n.relu(n.conv(y, 12, 12, group=12))
    order = np.arange(12).reshape(2, 6).T.reshape(-1)
    z = n.op("Gather", y, n.const(order), axis=1)
    z = n.op("Concat", n.slice(z, 0, 6, 1), n.relu(n.conv(n.slice(z, 6, 12, 1), 6, 6)), axis=1)
    return n.model(n.head(z, 12))


@_variants("gather", "negative", "repeated", "table", "one", "int32")
def gather(how: str) -> onnx.ModelProto:
    n = Net()
    x = n.relu(n.conv(n.input(3, 6, 6), 3, 10))
    y = n.op("GlobalAveragePool", n.relu(n.conv(x, 10, 8)))
    places = {
        "negative": [-1, 0, -8, 3],
        "repeated": [2, 2, 5, 5, 5, 0],
        "table": [[0, 1], [2, 3], [4, 5]],
        "one": 3,
        "int32": [7, 3, 1],
    }[how]
    indices = np.array(places, np.int32 if how == "int32" else np.int64)
    picked = n.op("Gather", y, n.const(indices), axis=1)
    flat = n.op("Flatten", picked)
    rest = n.op("Flatten", y)
    return n.model(n.op("Add", n.gemm(flat, indices.size, 4), n.gemm(rest, 8, 4)))


# Norms and activations with parameters.


@_variants("group_norm", (18, True), (21, False))
def group_norm(case: tuple[int, bool]) -> onnx.ModelProto:
    opset, per_group = case
    n = Net(opset)
    x = n.conv(n.input(3, 6, 6), 3, 12)
    count = 4 if per_group else 12
    x = n.op("GroupNormalization", x, n.positive(count), n.random(count), num_groups=4)
    x = n.conv(n.relu(x), 12, 10)
    x = n.op("InstanceNormalization", x, n.positive(10), n.random(10))
    return n.model(n.head(n.relu(x), 10))


@net
def prelu_and_constants() -> onnx.ModelProto:
    """Constants per channel in every position of elementwise operators."""
    n = Net()
    x = n.op("PRelu", n.conv(n.input(3, 6, 6), 3, 9), n.positive(9, 1, 1))
    x = n.op("Mul", n.random(1, 9, 1, 1), x)
    x = n.op("Div", n.op("Sub", x, n.random(9, 1, 1)), n.positive(9, 6, 6))
    below = n.op("Less", x, n.random(9, 1, 1))
    x = n.op("Where", below, n.random(9, 1, 1), x)
    x = n.op("Clip", x, n.const(np.float32(-1)), n.const(np.float32(2)))
    return n.model(n.head(n.op("Max", x, n.random(9, 1, 1)), 9))


# Space.


@_variants("resize", "sizes", "scales")
def resize(how: str) -> onnx.ModelProto:
    n = Net(batch=1 if how == "sizes" else "batch")  # the sizes name the batch too
    x = n.relu(n.conv(n.input(3, 4, 4), 3, 8))
    empty = n.const(np.zeros(0, np.float32))
    sizes = (empty, n.ints(1, 8, 7, 9)) if how == "sizes" else (n.const(np.float32([1, 1, 2, 2])),)
    x = n.op("Resize", x, "", *sizes, mode="linear")
    x = n.op("Pad", x, n.ints(0, 0, 1, 0, 0, 0, 0, 2), mode="reflect")
    return n.model(n.conv(x, 8, 2))


@_variants("depth_to_space", "DCR", "CRD")
def depth_to_space(mode: str) -> onnx.ModelProto:
    n = Net()
    x = n.relu(n.conv(n.input(3, 4, 4), 3, 16))
    y = n.relu(n.op("DepthToSpace", x, blocksize=2, mode=mode))
    y = n.op("SpaceToDepth", n.conv(y, 4, 5), blocksize=2)
    return n.model(n.head(n.conv(y, 20, 6), 6))


@net
def flatten_block() -> onnx.ModelProto:
    """Every channel is nine columns of the layer behind the flatten."""
    n = Net()
    x = n.relu(n.conv(n.input(3, 6, 6), 3, 8, strides=[2, 2]))
    flat = n.relu(n.gemm(n.op("Flatten", x), 72, 10))
    back = n.reshape(n.relu(n.gemm(flat, 10, 24)), -1, 6, 2, 2)
    return n.model(n.gemm(n.reshape(n.conv(back, 6, 4), 0, -1), 16, 3))


@net
def squeezes() -> onnx.ModelProto:
    """A Squeeze without axes must not drop a channel axis that has become one."""
    n = Net(batch=2)
    x = n.op("GlobalAveragePool", n.relu(n.conv(n.input(3, 6, 6), 3, 6)))
    y = n.gemm(n.op("Squeeze", x), 6, 6)
    z = n.op("Expand", n.op("Unsqueeze", n.relu(y), n.ints(2)), n.ints(1, 1, 3))
    return n.model(n.linear(n.transpose(z, 0, 2, 1), 6, 2))


# Sequences.


def _heads(n: Net, x: str, time: int, heads: int, size: int) -> str:
    return n.transpose(n.reshape(x, 0, time, heads, size), 0, 2, 1, 3)


def _attend(n: Net, qkv: tuple[str, str, str], time: int, width: int) -> str:
    q, k, v = qkv
    scores = n.op("MatMul", q, n.transpose(k, 0, 1, 3, 2))
    scores = n.op("Softmax", n.op("Mul", scores, n.const(np.float32(0.5))), axis=-1)
    return n.reshape(n.transpose(n.op("MatMul", scores, v), 0, 2, 1, 3), 0, time, width)


@_variants("attention", "separate", "joined", "grouped")
def attention(how: str) -> onnx.ModelProto:
    n = Net()
    heads, size, time = 4, 3, 5
    width = heads * size
    x = n.linear(n.input(time, 7), 7, 8)
    y = n.op("LayerNormalization", x, n.positive(8), n.random(8), axis=-1)
    if how == "joined":
        qkv = n.reshape(n.linear(y, 8, 3 * width), 0, time, 3, heads, size)
        qkv = n.transpose(qkv, 2, 0, 3, 1, 4)
        q, k, v = (n.op("Gather", qkv, n.const(np.int64(place)), axis=0) for place in range(3))
    else:
        kept = 2 if how == "grouped" else heads
        q = _heads(n, n.linear(y, 8, width), time, heads, size)
        k, v = (_heads(n, n.linear(y, 8, kept * size), time, kept, size) for _ in range(2))
        if how == "grouped":
            k, v = (_repeated(n, t, time, size) for t in (k, v))
    x = n.op("Add", x, n.linear(_attend(n, (q, k, v), time, width), width, 8))
    y = n.op("LayerNormalization", x, n.positive(8), n.random(8), axis=-1)
    x = n.op("Add", x, n.linear(n.op("Gelu", n.linear(y, 8, 14)), 14, 8))
    return n.model(n.linear(n.op("ReduceMean", x, n.ints(1), keepdims=0), 8, 3))


def _repeated(n: Net, x: str, time: int, size: int) -> str:
    """Two heads become four, each twice."""
    x = n.op("Expand", n.op("Unsqueeze", x, n.ints(2)), n.ints(1, 2, 2, time, size))
    return n.reshape(x, 0, 4, time, size)


@net
def windows() -> onnx.ModelProto:
    """Attention within windows: their number is a multiple of the batch."""
    n = Net()
    x = n.linear(n.input(4, 6), 6, 8)
    y = n.reshape(n.linear(x, 8, 12), -1, 2, 4, 3)
    q = n.transpose(y, 0, 2, 1, 3)
    mixed = n.op("Softmax", n.op("MatMul", q, n.transpose(q, 0, 1, 3, 2)), axis=-1)
    back = n.reshape(n.transpose(n.op("MatMul", mixed, q), 0, 2, 1, 3), -1, 2, 12)
    hidden = n.relu(n.linear(back, 12, 9))
    return n.model(n.op("Add", n.reshape(n.linear(hidden, 9, 8), -1, 4, 8), x))


@_variants("recurrent", *[(k, b) for k in ("LSTM", "GRU", "RNN") for b in (False, True)])
def recurrent(case: tuple[str, bool]) -> onnx.ModelProto:
    """Two layers, one above the other, and the last state beside the sequence."""
    kind, both = case
    n = Net()
    directions = 2 if both else 1
    x = n.transpose(n.relu(n.linear(n.input(5, 4), 4, 7)), 1, 0, 2)
    extra: dict[str, Any] = {"linear_before_reset": 1} if kind == "GRU" and both else {}
    (y,) = n.recurrent(kind, x, 7, 6, both=both, **extra)
    y = n.reshape(n.transpose(y, 0, 2, 1, 3), 5, -1, 6 * directions)
    y, last = n.recurrent(kind, y, 6 * directions, 8, both=both, outputs=2, **extra)
    y = n.reshape(n.transpose(y, 2, 0, 1, 3), -1, 5, 8 * directions)
    last = n.reshape(n.transpose(last, 1, 0, 2), -1, 8 * directions)
    mean = n.op("ReduceMean", y, n.ints(1), keepdims=0)
    mixed = n.op("Concat", mean, last, axis=1)
    return n.model(n.gemm(mixed, 16 * directions, 3))


@net
def recurrent_from_states() -> onnx.ModelProto:
    """Initial states that layers compute, or that are constant."""
    n = Net()
    x = n.transpose(n.linear(n.input(5, 4), 4, 6), 1, 0, 2)
    mean = n.op("ReduceMean", x, n.ints(0), keepdims=0)
    h, c = (n.op("Unsqueeze", n.op("Tanh", n.gemm(mean, 6, 7)), n.ints(0)) for _ in range(2))
    y, _, cell = n.recurrent("LSTM", x, 6, 7, initial=[h, c], outputs=3)
    y = n.op("Squeeze", y, n.ints(1))
    return n.model(n.op("Add", n.linear(y, 7, 3), n.linear(cell, 7, 3)))


@net
def embedding() -> onnx.ModelProto:
    """A table of words, and one of places that is added to it."""
    n = Net()
    tokens = n.input(5, kind=TensorProto.INT64, name="tokens")
    words = n.op("Gather", n.random(11, 8), tokens)
    x = n.op("Add", words, n.random(5, 8))
    x = n.relu(n.linear(x, 8, 10))
    return n.model(n.linear(n.op("ReduceMean", x, n.ints(1), keepdims=0), 10, 3))


# What is shared, and what is left.


@net
def shared_weights() -> onnx.ModelProto:
    """One weight in two places, where other channels go; and one bias for two layers."""
    n = Net()
    weight, bias = n.random(8, 8, 3, 3, fan_in=72), n.random(8)
    x = n.relu(n.conv(n.input(3, 6, 6), 3, 8))
    y = n.relu(n.op("Conv", x, weight, bias, pads=[1] * 4))
    z = n.relu(n.op("Conv", y, weight, bias, pads=[1] * 4))
    return n.model(n.head(z, 8))


@net
def several_outputs() -> onnx.ModelProto:
    """Two inputs, and outputs at two places, one of which is read on."""
    n = Net()
    x = n.relu(n.conv(n.input(3, 6, 6), 3, 8))
    other = n.relu(n.gemm(n.input(5, name="y"), 5, 8))
    x = n.op("Mul", x, n.op("Unsqueeze", other, n.ints(2, 3)))
    middle = n.conv(x, 8, 6)
    return n.model(middle, n.head(n.relu(n.conv(n.relu(middle), 6, 9)), 9))


@net
def branch_on_output() -> onnx.ModelProto:
    """A sub-graph that captures what a layer answers."""
    n = Net()
    x = n.relu(n.gemm(n.input(5), 5, 8))
    y = n.gemm(x, 8, 4)
    value = [helper.make_tensor_value_info("inner", TensorProto.FLOAT, ["batch", 4])]
    graphs = [
        helper.make_graph([helper.make_node(kind, [y], ["inner"])], kind, [], value)
        for kind in ("Neg", "Abs")
    ]
    positive = n.op("Greater", n.op("ReduceMax", y, keepdims=0), n.const(np.float32(0)))
    return n.model(n.op("If", positive, then_branch=graphs[0], else_branch=graphs[1]))


@net
def heads_beside_the_batch() -> onnx.ModelProto:
    """Attention as torch's MultiheadAttention writes it: (batch · heads, time, size)."""
    n = Net()
    x = n.transpose(n.linear(n.input(5, 6), 6, 8), 1, 0, 2)
    q, k, v = (n.transpose(n.reshape(n.linear(x, 8, 12), 5, -1, 3), 1, 0, 2) for _ in range(3))
    scores = n.op("Softmax", n.op("MatMul", q, n.transpose(k, 0, 2, 1)), axis=-1)
    mixed = n.transpose(n.op("MatMul", scores, v), 1, 0, 2)
    y = n.op("Add", x, n.linear(n.reshape(mixed, 5, -1, 12), 12, 8))
    return n.model(n.linear(n.transpose(y, 1, 0, 2), 8, 3))


@net
def gate_of_one_unit() -> onnx.ModelProto:
    """A Softmax over the channels makes one unit of them, and what it scales cannot shrink."""
    n = Net()
    x = n.relu(n.conv(n.relu(n.conv(n.input(3, 6, 6), 3, 9)), 9, 6))
    gate = n.op("Softmax", n.conv(n.op("GlobalAveragePool", x), 6, 6, 1), axis=1)
    return n.model(n.head(n.op("Mul", n.conv(x, 6, 6), gate), 6))
