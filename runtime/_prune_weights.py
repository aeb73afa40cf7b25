"""Pruning single weights, layer after layer, with the dense network as teacher.

The walk is that of `_prune.prune_deep`; what differs is that every operator loses weights of its
own instead of the input channels of a group, and so that every operator takes part, also where the
units cannot be pruned. Kernels are fitted tap by tap with the moments of the channels: for 1×1
convolutions and linear layers the optimum, for larger ones what leaves the relations between
neighbouring positions out, and costs ``channels²`` instead of ``(channels · taps)²``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from ._external import FloatArray
from ._graph import Graph
from ._plan import channel_axis, find_sites, read_at_one_site
from ._prune import Pruned, PruneJob, SideBySide
from .artifact import Operator
from .prior import effective_classes
from .repair import outgoing_weights, weight_matrix
from .sparse import Problem, choose_weights, refit_rows, spread_shares
from .statistics import CrossMoments, rows
from .teach import HeadUpdate, class_importance, taught_head

__all__ = [
    "fitted_weights",
    "prunable_operators",
    "prune_head_weights",
    "prune_weights",
    "weight_shares",
    "weight_steps",
]

_ROWS_PER_SAMPLE = 64
# A row keeps few weights and has few unknowns: less pull is safe, and better on development users.
_RIDGE_SHARE = 0.3
_NARROW = 4  # input channels
_HEAD_CLASSES = 2.0  # times as many as are met: the estimate may be too low


def prunable_operators(graph: Graph) -> list[Operator]:
    """Operators that lose weights: those that mix channels, in the order in which they run.

    Grouped convolutions have few weights and recurrent operators no repair; they keep all. So does
    what reads a picture or a sound: few channels can stand in for none.
    """
    able = [o for o in graph.artifact.info.operators if o.in_axis is not None and not o.recurrent]
    wide = [operator for operator in able if operator.in_channels > _NARROW]
    return sorted(wide, key=graph.consumed_at)


def weight_steps(graph: Graph) -> int:
    """How many places are fitted one after the other."""
    return len(_by_input(prunable_operators(graph)))


def prune_weights(job: PruneJob, shares: Mapping[str, float]) -> Pruned:
    """Prune the share of every operator's weights but the head's, which is taught first.

    The job's `keep` and `masks` play no part, its `judged` tensors tell which of the head's inputs
    matter. The result's ``head_moments`` are for `prune_head_weights`.
    """
    walker, head = SideBySide(job), job.graph.artifact.info.head
    readers = _by_input(prunable_operators(job.graph))
    limits = [min(job.graph.consumed_at(o) for o in operators) for operators in readers]
    matters = _what_the_head_reads(job) if any(shares.values()) else {}
    for operators, limit, then in zip_longest(readers, limits, limits[1:]):
        walker.walk.advance(limit)
        moments = _moments(walker, operators[0], then)
        for operator in operators:
            if operator.name == head:
                walker.result.head_moments = moments
            elif any(shares.values()):
                mine = matters.get(operator.name)
                _fit(walker, operator, moments, shares[operator.name], mine)
        job.on_layer()
    return walker.result


def _moments(walker: SideBySide, operator: Operator, then: int | None) -> CrossMoments:
    """Joint moments of what an operator reads, pruned and dense."""
    found = CrossMoments(operator.in_channels, operator.in_channels)
    for seen in walker.walk.observe(operator.input, then=then):
        student, teacher = (
            rows(seen[track], channel_axis(operator), _ROWS_PER_SAMPLE)
            for track in ("student", "teacher")
        )
        found.update(student, teacher)
    return found


def _fit(
    walker: SideBySide,
    operator: Operator,
    moments: CrossMoments,
    share: float,
    importance: NDArray[np.float64] | None,
) -> None:
    """Prune and refit one operator, and let the layers behind it see that."""
    job, result = walker.job, walker.result
    fitted = fitted_weights(job.teacher, operator, moments, share, job.ridge, importance=importance)
    result.weights[operator.name], result.shifts[operator.name] = fitted
    walker.student[operator.weight] = result.weights[operator.name]
    walker.student[operator.shift] = result.shifts[operator.name]


def _what_the_head_reads(job: PruneJob) -> dict[str, NDArray[np.float64]]:
    """How much each output of the operators before the head counts: as its weights are large.

    Further back it is not known what an error does: weighing outputs by what reads them did not
    help there, with the depthwise kernels in between or without.
    """
    info, tensors = job.graph.artifact.info, job.judged or job.teacher
    found = {}
    for group, site in read_at_one_site(find_sites(job.graph)).items():
        if not any(reader.name == info.head for reader in site.operators):
            continue
        read = np.linalg.norm(outgoing_weights(tensors, site.operators), axis=0)
        importance = read / max(float(np.sqrt(np.mean(read**2))), 1e-30)
        for operator in prunable_operators(job.graph):
            if operator.writes == (group,) and operator.out_channels == len(read):
                taps = tensors[operator.weight].size // (operator.in_channels * len(read))
                found[operator.name] = np.repeat(importance, taps)
    return found


def weight_shares(
    graph: Graph, share: float, prior: NDArray[np.float64] | None
) -> dict[str, float]:
    """How much every operator gives up, together `share` of all.

    Of the head, what tells apart classes that this user never meets is not worth keeping: it gets
    as many weights as a head of about twice the classes that are met would.
    """
    sizes = {}
    for operator in prunable_operators(graph):
        size = graph.artifact.tensors[operator.weight].size
        sizes[operator.name] = (size // operator.in_channels, operator.in_channels)
    wanted, head = {}, graph.artifact.info.head
    if head in sizes and prior is not None:
        wanted[head] = min(1.0, _HEAD_CLASSES * effective_classes(prior) / len(prior))
    return spread_shares(sizes, share, wanted)


def _by_input(operators: Sequence[Operator]) -> list[list[Operator]]:
    """Operators that read the same tensor together, in the order of the first of them."""
    found: dict[str, list[Operator]] = {}
    for operator in operators:
        found.setdefault(operator.input, []).append(operator)
    return list(found.values())


def prune_head_weights(
    job: PruneJob,
    pruned: Pruned,
    shares: Mapping[str, float],
    update: HeadUpdate | None,
    prior: NDArray[np.float64] | None,
) -> None:
    """Prune the head with what it is to be taught already in its weight.

    Classes count by how often the user meets them: those that he does not may lose everything.
    """
    name = job.graph.artifact.info.head
    if name is None or pruned.head_moments is None or not (any(shares.values()) or update):
        return
    operator = job.graph.artifact.info.operator_by_name[name]
    teacher = job.teacher if update is None else taught_head(job.teacher, operator, update)
    importance = None if prior is None else class_importance(prior)
    fitted = fitted_weights(
        teacher, operator, pruned.head_moments, shares[name], job.ridge, importance=importance
    )
    pruned.weights[name], pruned.shifts[name] = fitted


def fitted_weights(
    teacher: Mapping[str, FloatArray],
    operator: Operator,
    moments: CrossMoments,
    share: float,
    ridge: float,
    *,
    importance: NDArray[np.float64] | None = None,
) -> tuple[FloatArray, FloatArray]:
    """The operator's sparse weight, full size, and its shift."""
    weight = teacher[operator.weight]
    matrix = weight_matrix(weight, operator)
    taps = matrix.shape[2]
    flat = matrix.transpose(0, 2, 1).reshape(-1, matrix.shape[1])
    problem = Problem(moments, flat, ridge * _RIDGE_SHARE)
    sparse = refit_rows(problem, choose_weights(problem, share, importance))
    offset = (flat @ moments.mean_y - sparse @ moments.mean_x).reshape(-1, taps).sum(1)
    shift = teacher[operator.shift] + teacher[operator.gain] * offset
    return _laid_out(sparse, weight, operator), shift.astype(np.float32)


def _laid_out(flat: NDArray[np.float64], like: FloatArray, operator: Operator) -> FloatArray:
    """The inverse of `weight_matrix` for rows of ``(out · taps)``."""
    axes = (operator.out_axis, operator.in_axis or 0)
    kernel = [n for axis, n in enumerate(like.shape) if axis not in axes]
    outputs = like.shape[operator.out_axis]
    matrix = flat.reshape(outputs, -1, flat.shape[1]).transpose(0, 2, 1)
    moved = matrix.reshape(outputs, flat.shape[1], *kernel)
    return np.ascontiguousarray(np.moveaxis(moved, (0, 1), axes), dtype=np.float32)
