"""What works on space: pools, Pad, Resize, Slice."""

from __future__ import annotations

from typing import Any

import numpy as np

from .builder import MOST_SPACE, Graph, Layout, Pick, Value, block
from .shaping import reduce, slice_axis


def _wide(x: Value, least: int) -> bool:
    return min(x.space) >= least


@block("space", Layout.FIRST, fits=lambda g, x: _wide(x, 4))
def max_pool(g: Graph, x: Value, pick: Pick) -> Value:
    name, space = _pool(g, x, "MaxPool", pick)
    return x.resized(name, space=space).become(name, x.mean + 0.8 * x.var**0.5, 0.6 * x.var)


@block("space", Layout.FIRST, fits=lambda g, x: _wide(x, 4))
def average_pool(g: Graph, x: Value, pick: Pick) -> Value:
    name, space = _pool(g, x, "AveragePool", pick)
    return x.resized(name, space=space).become(name, x.mean, 0.4 * x.var)


def _pool(g: Graph, x: Value, kind: str, pick: Pick) -> tuple[str, list[int]]:
    rank = len(x.space)
    kernel, stride, pad = pick.of((2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 1, 0))
    ceil = pick.yes(3) and all((s + 2 * pad - kernel) % stride == 0 for s in x.space)
    attributes: dict[str, Any] = {"kernel_shape": [kernel] * rank, "strides": [stride] * rank}
    if pad or not g.style.terse:
        attributes["pads"] = [pad] * 2 * rank
    if ceil or not g.style.terse:
        attributes["ceil_mode"] = int(ceil)
    if kind == "AveragePool" and pick.of(True, False):
        attributes["count_include_pad"] = 1
    space = [(s + 2 * pad - kernel) // stride + 1 for s in x.space]
    return g.op(kind, x.name, **attributes), space


def pooled(g: Graph, x: Value, pick: Pick) -> Value:
    """The mean over space, kept as axes of one."""
    if pick.of(True, False):
        name = g.op("GlobalAveragePool", x.name)
    else:
        name = reduce(g, "ReduceMean", x.name, list(range(2, len(x.shape) + 1)))
    return averaged(x, name)


def averaged(x: Value, name: str) -> Value:
    count = x.size // x.channels
    one = (1,) * len(x.space)
    return x.resized(name, space=one).become(name, x.mean, x.var * (0.15 + 0.85 / count))


@block(
    "space",
    Layout.FIRST,
    fits=lambda g, x: min(x.space) >= 2 and max(x.space) <= MOST_SPACE - 2,
    often=2,
)
def pad(g: Graph, x: Value, pick: Pick) -> Value:
    """Pad space, on both sides or on one."""
    rank = len(x.space)
    mode = pick.of("constant", "edge", "reflect") if _wide(x, 3) else "constant"
    before, after = pick.of((1, 1), (2, 0), (0, 1))
    value = [g.const(0.0)] if mode == "constant" and not g.style.terse else []
    if g.opset >= 18 and rank == 2 and pick.yes(3):
        sizes = [g.ints(before, before, after, after), *(value or [""]), g.ints(2, 3)]
    else:
        sizes = [g.ints(0, 0, *[before] * rank, 0, 0, *[after] * rank), *value]
    name = g.op("Pad", x.name, *sizes, mode=mode)
    return x.resized(name, space=[s + before + after for s in x.space])


@block(
    "space",
    Layout.FIRST,
    fits=lambda g, x: min(x.space) >= 2 and 2 * max(x.space) <= MOST_SPACE,
    often=3,
)
def resize(g: Graph, x: Value, pick: Pick) -> Value:
    """Enlarge by two, by scales or by sizes."""
    rank = len(x.space)
    how = {
        "mode": "nearest",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }
    if rank == 2 and pick.yes(4):
        how = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    space = [2 * s for s in x.space]
    if pick.of(True, False):
        inputs = ["", g.const([1, 1] + [2] * rank)]
    else:
        front = slice_axis(g, g.op("Shape", x.name), 0, (0, 2, 1))
        inputs = ["", "", g.op("Concat", front, g.ints(*space), axis=0)]
    return x.resized(g.op("Resize", x.name, *inputs, **how), space=space)


@block("space", Layout.FIRST, Layout.LAST, fits=lambda g, x: _wide(x, 4))
def slice_space(g: Graph, x: Value, pick: Pick) -> Value:
    """Cut one axis of space, or take every second position."""
    number = pick.below(len(x.space))
    size = x.space[number]
    start, end, step = pick.of(
        (1, size, 1), (0, -1, 1), (0, np.iinfo(np.int64).max, 2), (-3, size, 1)
    )
    length = len(range(size)[start:end:step])
    name = slice_axis(g, x.name, x.space_axes[number], (start, end, step))
    return x.resized(name, space=[length if i == number else s for i, s in enumerate(x.space)])


@block("space", Layout.FIRST, fits=lambda g, x: _upscalable(x), often=4)
def depth_to_space(g: Graph, x: Value, pick: Pick) -> Value:
    name = g.op("DepthToSpace", x.name, blocksize=2, mode=pick.of("CRD", "DCR"))
    return x.resized(name, channels=x.channels // 4, space=[2 * s for s in x.space])


def _upscalable(x: Value) -> bool:
    return len(x.space) == 2 and x.channels % 4 == 0 and 2 * max(x.space) <= MOST_SPACE


@block("space", Layout.FIRST, fits=lambda g, x: _downscalable(x), often=3)
def space_to_depth(g: Graph, x: Value, pick: Pick) -> Value:
    name = g.op("SpaceToDepth", x.name, blocksize=2)
    return x.resized(name, channels=4 * x.channels, space=[s // 2 for s in x.space])


def _downscalable(x: Value) -> bool:
    return len(x.space) == 2 and 4 * x.channels <= 24 and all(s % 2 == 0 for s in x.space)
