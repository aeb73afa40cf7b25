"""Closed-form repair: what the pruned units said, the kept ones learn to say.

For a tensor that dense operators read, let ``d`` be its channels in the dense network and ``x``
the same channels with everything before them already pruned. The least-squares map
``d ≈ A x[kept] + c`` needs only joint second moments. Folding it into every consumer, ``W' = W A``
and ``b' = b + W c``, is for 1×1 convolutions and linear layers the optimum of
``min ‖(W d + b) − (W' x[kept] + b')‖²``, the layer's own output error, because the minimiser of
that is ``W`` times the regression of ``d`` (CORP, arXiv 2602.05243, solves the same normal
equations for transformers). For larger kernels it is the optimum among mixtures of channels, and
costs ``channels²`` instead of ``(channels · taps)²``.

Ridge pulls ``A`` towards the identity on the kept units, so that few samples change little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .artifact import Operator
from .statistics import CrossMoments

__all__ = [
    "Elimination",
    "Mixing",
    "damping",
    "fit_mixing",
    "fit_outputs",
    "laid_out",
    "mixed_weight",
    "outgoing_weights",
    "repair_aware_mask",
    "spd_inverse",
    "weight_matrix",
]

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

_COMPACT_BELOW = 0.7
_INVERT_AT_ONCE = 96
_ROWS_AT_ONCE = 128
_LATE = 96  # units whose loss is put on the inverse at once
_BLOCKS = 48  # elimination steps; each removes a block of units and updates the rest exactly


@dataclass(frozen=True)
class Mixing:
    """The map ``d ≈ matrix @ x[kept] + offset``; float64, ``(channels, kept)``, ``(channels,)``."""

    kept: Bool
    matrix: Float64
    offset: Float64


def weight_matrix(weight: NDArray[Any], operator: Operator) -> Float64:
    """View a weight tensor as float64 ``(out_channels, in_channels, taps)``."""
    if operator.in_axis is None:
        raise ValueError(f"{operator.name} is depthwise and mixes no channels")
    moved = np.moveaxis(weight, (operator.out_axis, operator.in_axis), (0, 1))
    return moved.reshape(*moved.shape[:2], -1).astype(np.float64)


def damping(moments: CrossMoments, ridge: float) -> float:
    """Ridge in units of the mean variance; more where the rows hardly outnumber the unknowns."""
    variance = moments.mean_variance
    shortage = 1.0 + len(moments.mean_x) / max(moments.count, 1)
    return ridge * shortage * variance + 1e-12


def fit_mixing(moments: CrossMoments, kept: Bool, ridge: float) -> Mixing:
    """Fit the dense channels (target) on the kept pruned ones (input).

    Args:
        moments: joint moments of pruned input ``x`` and dense target ``d``, the same channels.
        kept: which channels stay, bool ``(channels,)``.
        ridge: strength of the pull towards doing nothing, relative to the mean variance.
    """
    xx, residual = moments.xx_of(kept), moments.yx_of(kept)
    # Regressing d − x[kept] keeps the ridge from shrinking what needs no change.
    residual[kept] -= xx
    matrix = residual @ spd_inverse(_add_to_diagonal(xx, damping(moments, ridge)))
    matrix[np.flatnonzero(kept), np.arange(matrix.shape[1])] += 1.0
    return Mixing(kept, matrix, moments.mean_y - matrix @ moments.mean_x[kept])


def fit_outputs(
    moments: CrossMoments, outgoing: Float64, kept: Bool, ridge: float
) -> tuple[Float64, Float64]:
    """As `fit_mixing`, where the target is what the consumers made of the dense channels.

    What comes out is ``outgoing`` times that mixing, without the mixing: the consumers' weights
    come into the regression as they come into its target.

    Args:
        moments: joint moments of pruned input ``x``, all units, and of the outputs.
        outgoing: the weights that made these, with their gains, float64 ``(outputs, units)``.
        kept, ridge: as in `fit_mixing`.

    Returns:
        Weights with their gains, ``(outputs, kept)``, and what is to be added, ``(outputs,)``.
    """
    xx = moments.xx_of(kept)
    residual = moments.yx_of(kept) - outgoing[:, kept] @ xx
    damped = _add_to_diagonal(xx, damping(moments, ridge))
    fitted = outgoing[:, kept] + residual @ spd_inverse(damped)
    return fitted, moments.mean_y - fitted @ moments.mean_x[kept]


def mixed_weight(
    weight: NDArray[np.float32], operator: Operator, mixing: Mixing
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fold a mixing into a consumer.

    Returns:
        The new weight, with only the kept input channels, and what to add to the bias,
        float32 ``(out_channels,)``.
    """
    matrix = weight_matrix(weight, operator)
    mixed = np.einsum("oit,ik->okt", matrix, mixing.matrix, optimize=True)
    offset = np.einsum("oit,i->o", matrix, mixing.offset, optimize=True)
    return laid_out(mixed, weight, operator), offset.astype(np.float32)


def laid_out(matrix: Float64, like: NDArray[np.float32], operator: Operator) -> NDArray[np.float32]:
    """The inverse of `weight_matrix`, for any number of inputs: float32, laid out as `like` is."""
    axes = (operator.out_axis, operator.in_axis or 0)
    kernel = [n for axis, n in enumerate(like.shape) if axis not in axes]
    restored = np.moveaxis(matrix.reshape(*matrix.shape[:2], *kernel), (0, 1), axes)
    return np.ascontiguousarray(restored, dtype=np.float32)


def outgoing_weights(
    tensors: Mapping[str, NDArray[np.float32]],
    operators: Sequence[Operator],
    *,
    silent: bool = False,
) -> Float64:
    """Consumers' weights with their gains, stacked: float64 ``(outputs × taps, in_channels)``.

    Outputs whose gain is 0 cost time and add nothing to any error: only with `silent` are they
    among them.
    """
    stacked = []
    for operator in operators:
        gain = tensors[operator.gain].astype(np.float64)
        heard = np.full(len(gain), True) if silent else gain != 0
        weight = np.compress(heard, tensors[operator.weight], axis=operator.out_axis)
        matrix = weight_matrix(weight, operator)
        matrix *= gain[heard, None, None]
        stacked.append(matrix.transpose(0, 2, 1).reshape(-1, matrix.shape[1]))
    return stacked[0] if len(stacked) == 1 else np.concatenate(stacked)


class Elimination:
    """Backward elimination of units under repair: what the loss of each would cost after a refit.

    With ``H = (xx + λ)⁻¹`` and ``Z = outgoing · yx · H``, removing unit ``j`` and refitting the
    rest adds ``‖Z[:, j]‖² / H[j, j]`` to the squared error of the consumers' outputs (the optimal
    brain surgeon's saliency, Hassibi and Stork 1993, for a least-squares layer). Units go in
    blocks, with exact updates of ``H`` and ``Z`` in between.

    Args:
        moments: joint moments of pruned input and dense target, all units.
        outgoing: the consumers' weights, ``(outputs, units)``; their memory is used, and changed.
        ridge: as in `fit_mixing`; it pulls towards the identity here as well.
        own: the target of the moments is what ``outgoing`` made of the units, not they.

    Attributes:
        alive: indices of the units that are left.
    """

    def __init__(
        self,
        moments: CrossMoments,
        outgoing: Float64,
        ridge: float,
        *,
        own: bool = False,
    ) -> None:
        units = len(moments.mean_x)
        damped = damping(moments, ridge)
        self.alive = np.arange(units)
        self._rows = np.arange(units)  # where the units that are left stand in the matrices
        if not moments.same or own:  # else the weights themselves are what is fitted
            answers = moments.yx if own else moments.answers(outgoing)
            outgoing *= damped
            answers += outgoing
        # In float64: dead units with large weights make float32 lose a layer's curve altogether.
        self._inverse = spd_inverse(_add_to_diagonal(moments.xx, damped))
        self._fitted = outgoing if moments.same and not own else answers @ self._inverse
        self._diagonal = np.diag(self._inverse).copy()
        self._late: list[tuple[Float64, Float64]] = []

    def remove(self, count: int) -> float:
        """Remove the `count` units whose loss costs least; return the squared error that adds."""
        rows = self._rows
        energy = np.einsum("oi,oi->i", self._fitted, self._fitted)
        cost = energy[rows] / self._diagonal[rows]
        least = np.argpartition(cost, count - 1)[:count]
        added = self._take_out(rows[least])
        self.alive, self._rows = np.delete(self.alive, least), np.delete(rows, least)
        if len(self._rows) < _COMPACT_BELOW * len(self._inverse):
            self._compact()
        return added

    def _take_out(self, gone: NDArray[np.int64]) -> float:
        """Update both matrices; the rows and columns of what is gone become zero.

        To leave them there is several times cheaper than to copy the rest at every step. Of the
        inverse only the diagonal is kept up to date, and the rows of what goes are brought up to
        date when they are needed: one product of many columns is faster than many of a few.
        """
        across, fitted = self._inverse[gone], self._fitted
        for before, gain in self._late:
            across -= before[:, gone].T @ gain
        removed = fitted[:, gone]
        sides = np.hstack([across, removed.T])
        solved: Float64 = np.asarray(np.linalg.solve(across[:, gone], sides), np.float64)
        new, answer = solved[:, : len(self._inverse)], solved[:, len(self._inverse) :]
        self._diagonal -= (across * new).sum(0)
        self._late.append((across, new))
        if sum(len(gain) for _, gain in self._late) >= _LATE:
            self._catch_up()
        # By rows, as the whole product would take as much memory again.
        for start in range(0, len(fitted), _ROWS_AT_ONCE):
            some = slice(start, start + _ROWS_AT_ONCE)
            fitted[some] -= removed[some] @ new
        return float(np.vdot(answer, removed.T))

    def _catch_up(self) -> None:
        """Take what was put off off the inverse, of which one half follows from the other."""
        if not self._late:
            return
        across = np.concatenate([pair[0] for pair in self._late])
        gain = np.concatenate([pair[1] for pair in self._late])
        self._late, inverse = [], self._inverse
        for start in range(0, len(inverse), _ROWS_AT_ONCE):
            stop = start + _ROWS_AT_ONCE
            inverse[start:stop, start:] -= across[:, start:stop].T @ gain[:, start:]
            inverse[stop:, start:stop] = inverse[start:stop, stop:].T

    def _compact(self) -> None:
        self._catch_up()
        rows = self._rows
        self._inverse = self._inverse[np.ix_(rows, rows)]
        self._fitted = self._fitted[:, rows]
        self._diagonal = self._diagonal[rows]
        self._rows = np.arange(len(rows))


def _add_to_diagonal(matrix: Float64, added: float) -> Float64:
    """The same matrix, changed."""
    np.einsum("ii->i", matrix)[:] += added
    return matrix


def spd_inverse(matrix: Float64) -> Float64:
    """Turn a symmetric positive definite matrix into its inverse, in place, by halves; return it.

    All but small blocks is matrix products (the Schur complement), which run several times as
    fast as LAPACK's inverse of a general matrix.
    """
    size = len(matrix)
    if size <= _INVERT_AT_ONCE:
        matrix[:] = np.linalg.inv(matrix)
        return matrix
    half = size // 2
    side, rest = matrix[:half, half:], matrix[half:, half:]
    first = spd_inverse(matrix[:half, :half])
    along = first @ side
    rest -= side.T @ along
    np.matmul(along, spd_inverse(rest), out=side)
    first += side @ along.T
    np.negative(side, out=side)
    matrix[half:, :half] = side.T
    return matrix


def repair_aware_mask(
    moments: CrossMoments, outgoing: Float64, keep: int, ridge: float, *, own: bool = False
) -> Bool:
    """Choose the `keep` units with which the repair does best; see `Elimination`.

    `outgoing` is used up.

    Returns:
        bool ``(units,)`` with `keep` true.
    """
    units = len(moments.mean_x)
    elimination = Elimination(moments, outgoing, ridge, own=own)
    del outgoing  # a wide head's takes ten megabytes
    block = max(1, -(-(units - keep) // _BLOCKS))
    while len(elimination.alive) > keep:
        elimination.remove(min(block, len(elimination.alive) - keep))
    mask = np.zeros(units, np.bool_)
    mask[elimination.alive] = True
    return mask
