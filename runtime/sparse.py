"""Which single weights stay, and what they become: least squares under a mask.

For an operator with weight ``W`` let ``d`` be its input in the dense network and ``x`` the same
with everything before it already pruned. Wanted is ``min ‖W d − V x‖²`` over weights ``V`` of which
only a share is not zero. With the joint moments ``H = xx + λ`` and ``G = W (yx + λ)``, every row of
``V`` is a least-squares problem of its own with the same ``H``.

Which weights stay is found by ADMM (Boža 2024, arXiv 2401.02938): in turns the ridge solution near
the sparse one, for which one inverse serves all rows, and the largest entries of it, fewer in every
round. Inputs are scaled to the same size first, so that "largest" is Wanda's ``|w| · ‖x‖`` (Sun et
al. 2024, arXiv 2306.11695). Then every row is solved exactly on the weights that it keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .repair import damping
from .statistics import CrossMoments

__all__ = [
    "Harm",
    "Problem",
    "choose_weights",
    "refit_rows",
    "shares_by_harm",
    "spread_shares",
]

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

_ROUNDS = 24
_POWER = 0.5
_HALVINGS = 50
_LEVELS = 257
_LEAST_KEPT = 0.1
_TINY = 1e-300
_GRADUAL = 16  # rounds in which the share still grows
_PULL = 1.0  # towards the sparse weights, relative to an input's own variance
_CHUNK_BYTES = 32_000_000  # of row-wise systems held at once


class Problem:
    """The normal equations of one operator: ``H`` ``(in, in)`` and ``G`` ``(out, in)``, float64.

    Args:
        moments: of pruned input and dense target, the same channels.
        weight: the dense operator's, ``(out, in)``.
        ridge: as in `edgeprune.runtime.repair.fit_mixing`: it pulls towards no change.
    """

    def __init__(self, moments: CrossMoments, weight: Float64, ridge: float) -> None:
        damped = damping(moments, ridge) * np.eye(weight.shape[1])
        self.h: Float64 = moments.xx + damped
        self.g: Float64 = weight @ (moments.yx + damped)


def choose_weights(problem: Problem, share: float, importance: Float64 | None = None) -> Bool:
    """Which weights stay, bool ``(out, in)``: all but `share` of them, wherever in the matrix.

    Args:
        problem: the normal equations.
        share: from 0 to 1.
        importance: of each output, ``(out,)``, by which its error counts; None for all alike.
    """
    if not share:
        return np.ones(problem.g.shape, np.bool_)
    size = np.sqrt(np.diag(problem.h))
    h, wide = problem.h / np.outer(size, size), problem.g / size
    # Which entries are large takes no more than float32 tells, in half the time.
    inverse = np.linalg.inv(h + _PULL * np.eye(len(h))).astype(np.float32)
    dense = np.linalg.solve(h, wide.T).T.astype(np.float32)
    g = wide.astype(np.float32)
    rows = np.float32(1.0) if importance is None else importance.astype(np.float32)[:, None]
    near, debt = dense, np.zeros_like(dense)
    for number in range(1, _ROUNDS + 1):
        # The share grows as a cube does: fast at first, slowly where it begins to hurt.
        left = 1.0 - min(number / _GRADUAL, 1.0)
        kept = _largest((near + debt) * rows, 1.0 - share * (1.0 - left**3))
        sparse = np.where(kept, near + debt, np.float32(0.0))
        debt += near - sparse
        near = (g + np.float32(_PULL) * (sparse - debt)) @ inverse
    return kept


def spread_shares(
    sizes: Mapping[str, tuple[int, int]],
    share: float,
    wanted: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """How much each weight matrix gives up, so that together they give up `share`.

    What is kept is in proportion to a power of ``(in + out) / (in · out)``: large matrices hold
    more to spare (Mocanu et al. 2018, the Erdős-Rényi rule of sparse training, is the power 1).

    Args:
        sizes: ``(out, in)`` by name; kernels count their taps among the outputs.
        share: from 0 to below 1.
        wanted: of some matrices, the share of the outputs that is wanted at all: what they keep is
            as if they had no others.
    """
    count = {name: out * inputs for name, (out, inputs) in sizes.items()}
    part = {name: (wanted or {}).get(name, 1.0) for name in sizes}
    density = {
        name: part[name] * ((part[name] * out + inputs) / (part[name] * count[name])) ** _POWER
        for name, (out, inputs) in sizes.items()
    }
    kept = _scaled(density, count, (1.0 - share) * sum(count.values()))
    return {name: 1.0 - kept[name] for name in sizes}


@dataclass(frozen=True)
class Harm:
    """What the loss of the weights of one matrix costs.

    Attributes:
        count: how many there are.
        levels: logarithms of the cost of single weights, at evenly spaced ranks, ascending.
    """

    count: int
    levels: Float64

    @classmethod
    def of(cls, scores: Float64, share: float, damage: float) -> Harm:
        """From scores of any scale: to lose the lowest `share` of them costs the `damage`."""
        ordered = np.sort(scores.ravel())
        gone = float(ordered[: round(len(ordered) * share)].sum())
        costs = np.log(ordered * (damage / max(gone, _TINY)) + _TINY)
        return cls(len(ordered), np.quantile(costs, np.linspace(0.0, 1.0, _LEVELS)))

    def kept(self, most: float) -> float:
        """The share of weights whose loss costs more than the exponential of `most`."""
        return 1.0 - float(np.searchsorted(self.levels, most)) / len(self.levels)


def shares_by_harm(shares: Mapping[str, float], harm: Mapping[str, Harm]) -> dict[str, float]:
    """Spread what some matrices give up anew, by what it costs, together the same number.

    Every matrix would give up the weights below one cost. What it keeps is the geometric mean of
    that and of what it would keep by `shares`: either is an estimate, and the costs are of each
    matrix pruned alone.

    Args:
        shares: of all matrices, as from `spread_shares`.
        harm: of some of them.
    """
    count = {name: one.count for name, one in harm.items()}
    goal = sum((1.0 - shares[name]) * count[name] for name in harm)
    low = min((one.levels[0] for one in harm.values()), default=0.0)
    high = max((one.levels[-1] for one in harm.values()), default=0.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        many = sum(one.count * one.kept(middle) for one in harm.values()) > goal
        low, high = (middle, high) if many else (low, middle)
    wanted = {name: max(one.kept(high), _LEAST_KEPT) for name, one in harm.items()}
    density = {name: float(np.sqrt(wanted[name] * (1.0 - shares[name]))) for name in harm}
    kept = _scaled(density, count, goal)
    return dict(shares) | {name: 1.0 - kept[name] for name in harm}


def _scaled(
    density: Mapping[str, float], count: Mapping[str, int], goal: float
) -> dict[str, float]:
    """Shares to keep, in proportion to `density` up to 1, that keep so many weights together."""
    low, high = 0.0, 1.0 / min(density.values(), default=1.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        kept = sum(count[name] * min(1.0, middle * density[name]) for name in density)
        low, high = (middle, high) if kept < goal else (low, middle)
    return {name: min(1.0, high * density[name]) for name in density}


def _largest(values: NDArray[np.float32], share: float) -> Bool:
    count = round(values.size * share)
    kept = np.zeros(values.size, np.bool_)
    if count:
        kept[np.argpartition(-np.abs(values).ravel(), count - 1)[:count]] = True
    return kept.reshape(values.shape)


def refit_rows(problem: Problem, kept: Bool) -> Float64:
    """The least-squares weights on what every row keeps, float64 ``(out, in)``, zero elsewhere."""
    fitted = np.zeros(kept.shape)
    counts = kept.sum(1)
    for count in np.unique(counts[counts > 0]):
        rows = np.flatnonzero(counts == count)
        at_once = max(1, int(_CHUNK_BYTES // (8 * count * count)))
        for start in range(0, len(rows), at_once):
            some = rows[start : start + at_once]
            columns = np.nonzero(kept[some])[1].reshape(len(some), count)
            systems = problem.h[columns[:, :, None], columns[:, None, :]]
            targets = np.take_along_axis(problem.g[some], columns, axis=1)
            solved = np.linalg.solve(systems, targets[:, :, None])[:, :, 0]
            fitted[some[:, None], columns] = solved
    return fitted
