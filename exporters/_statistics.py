"""Reference statistics from samples, for operators that no BatchNorm follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.artifact import Operator, Reference
from ..runtime.network._graph import Graph, to_model
from ..runtime.network._session import Runner, batches

__all__ = ["add_references"]


class _Moments:
    """Mean and variance of each channel over samples and positions, merged batch by batch."""

    def __init__(self) -> None:
        self._count = 0
        self._mean: Any = 0.0
        self._squares: Any = 0.0

    def add(self, values: NDArray[Any], axis: int) -> None:
        """Take in an activation whose channels stand along `axis`."""
        rows = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis]).astype(np.float64)
        mean, total = rows.mean(0), self._count + len(rows)
        delta = mean - self._mean
        # Chan, Golub and LeVeque 1979: merging keeps the digits that sums of squares lose.
        self._squares += ((rows - mean) ** 2).sum(0) + delta**2 * self._count * len(rows) / total
        self._mean += delta * len(rows) / total
        self._count = total

    def reference(self) -> Reference:
        """The statistics so far."""
        std = np.sqrt(self._squares / self._count)
        return Reference("samples", self._mean.astype(np.float32), std.astype(np.float32))


def add_references(
    graph: Graph, operators: Sequence[Operator], samples: Sequence[NDArray[Any]]
) -> tuple[Operator, ...]:
    """Fill in the references that are missing; unchanged where there are no samples."""
    missing = {
        operator.output: -1 if operator.op == "MatMul" else 1
        for operator in operators
        if operator.reference is None and not operator.recurrent
    }
    if not samples or not missing:
        return tuple(operators)
    moments = _measure(graph, missing, samples)
    return tuple(
        replace(operator, reference=moments[operator.output].reference())
        if operator.output in moments
        else operator
        for operator in operators
    )


def _measure(
    graph: Graph, axes: Mapping[str, int], samples: Sequence[NDArray[Any]]
) -> dict[str, _Moments]:
    tensors = list(axes)
    extra = [name for name in tensors if name not in graph.outputs]
    runner = Runner(to_model(graph, extra))
    moments = {name: _Moments() for name in tensors}
    for values in batches(samples):
        for name, activation in zip(tensors, runner(values, tensors), strict=True):
            moments[name].add(activation, axes[name])
    return moments
