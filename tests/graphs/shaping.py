"""Reshape, Transpose, Squeeze and their kin, as various exporters write them."""

from __future__ import annotations

import numpy as np

from .builder import Graph, Pick

HOW = ("zero", "minus", "tail", "computed", "sliced", "gathered")


def batch_size(g: Graph, name: str, how: str) -> str:
    """Return the batch size as a list of one, from the shape of a tensor; asked once for each."""
    if (name, how) not in g.batches:
        g.batches[name, how] = _batch_size(g, name, how)
    return g.batches[name, how]


def _batch_size(g: Graph, name: str, how: str) -> str:
    if how == "sliced":
        return g.op("Shape", name, start=0, end=1)
    shape = g.op("Shape", name)
    if how == "gathered":
        return g.op("Gather", shape, g.ints(0), axis=0)
    one = g.op("Gather", shape, g.const(0, dtype=np.int64), axis=0)
    return g.op("Unsqueeze", one, g.ints(0))


def reshape(
    g: Graph,
    name: str,
    dims: tuple[int, ...],
    pick: Pick,
    *,
    source: str = "",
    how: str = "",
) -> str:
    """Reshape a tensor that has the batch first to (batch, *dims).

    Where the graph computes the batch size, it asks `source`, by default the tensor itself.
    """
    how = how or pick.of(*HOW)
    if how == "zero":
        return g.op("Reshape", name, g.ints(0, *dims))
    if how == "minus":
        return g.op("Reshape", name, g.ints(-1, *dims), allowzero=pick.of(None, 1))
    if how == "tail":
        return g.op("Reshape", name, g.ints(0, *dims[:-1], -1))
    batch = batch_size(g, source or name, how)
    return g.op("Reshape", name, g.op("Concat", batch, *_listed(g, dims, pick), axis=0))


def _listed(g: Graph, dims: tuple[int, ...], pick: Pick) -> list[str]:
    """TorchScript joins a shape from one constant per axis, others from one for all."""
    dims = (*dims[:-1], -1) if pick.yes() else dims
    return [g.ints(*dims)] if pick.yes() else [g.ints(dim) for dim in dims]


def transpose(g: Graph, name: str, *perm: int) -> str:
    return g.op("Transpose", name, perm=perm)


def squeeze(g: Graph, name: str, *axes: int) -> str:
    return g.op("Squeeze", name, g.ints(*axes))


def unsqueeze(g: Graph, name: str, *axes: int) -> str:
    return g.op("Unsqueeze", name, g.ints(*axes))


def reduce(g: Graph, kind: str, name: str, axes: list[int], keepdims: int = 1) -> str:
    """Reduce; the axes became an input with opset 18."""
    if g.opset >= 18:
        return g.op(kind, name, g.ints(*axes), keepdims=keepdims)
    return g.op(kind, name, axes=axes, keepdims=keepdims)


def split(g: Graph, name: str, sizes: list[int], axis: int, pick: Pick) -> list[str]:
    """Split, by sizes or, where they are equal, by number."""
    if len(set(sizes)) == 1 and g.opset >= 18 and pick.yes():
        return g.many("Split", [name], len(sizes), axis=axis, num_outputs=len(sizes))
    return g.many("Split", [name, g.ints(*sizes)], len(sizes), axis=axis)


def slice_axis(g: Graph, name: str, axis: int, bounds: tuple[int, int, int]) -> str:
    """Slice `start:end:step` along one axis."""
    start, end, step = bounds
    steps = [] if step == 1 and g.style.terse else [g.ints(step)]
    return g.op("Slice", name, g.ints(start), g.ints(end), g.ints(axis), *steps)
