"""Pruning and repairing a network layer after layer, against the dense network as teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ._graph import Graph
from ._plan import Site, channel_axis, find_sites, first_use
from ._stream import Batches
from ._walk import LayerWalk
from .artifact import FloatArray, Operator
from .profile import kept_inputs
from .repair import fit_mixing, mixed_weight, repair_aware_mask, weight_matrix
from .scoring import Criterion, SiteStatistics, unit_scores
from .statistics import CrossMoments, Moments, rows

__all__ = ["PruneSettings", "Pruned", "choose_masks", "prune_deep", "prune_light"]

Bool = NDArray[np.bool_]
Tensors = dict[str, FloatArray]
OnLayer = Callable[[str], None]


@dataclass(frozen=True)
class PruneSettings:
    """How to prune; see `edgeprune.runtime.Settings` for what the user sees of it."""

    criterion: Criterion
    ridge: float
    rows_per_sample: int
    budget_bytes: int
    threads: int
    seed: int


@dataclass
class Pruned:
    """What pruning changed, by group and by operator.

    ``outputs`` are the teacher's on the samples, ``features`` what the head reads in the ``teacher`` and
    in the ``student``.
    """

    masks: dict[str, Bool] = field(default_factory=dict)
    gains: Tensors = field(default_factory=dict)
    shifts: Tensors = field(default_factory=dict)
    weights: Tensors = field(default_factory=dict)
    outputs: FloatArray = field(default_factory=lambda: np.empty(0, np.float32))
    features: dict[str, FloatArray] = field(default_factory=dict)


def choose_masks(
    graph: Graph,
    statistics: Mapping[str, SiteStatistics],
    keep: Mapping[str, int],
    settings: PruneSettings,
) -> dict[str, Bool]:
    """Masks from one-shot scores: the best units of each group stay."""
    scores = unit_scores(graph, statistics, settings.criterion, settings.seed)
    return {group: _best(scores[group], count) for group, count in keep.items()}


def _best(scores: NDArray[np.float64], count: int) -> Bool:
    mask = np.zeros(len(scores), np.bool_)
    mask[np.argsort(-scores, kind="stable")[:count]] = True
    return mask


def prune_deep(
    graph: Graph,
    batches: Batches,
    teacher: Mapping[str, FloatArray],
    keep: Mapping[str, int],
    one_shot: Mapping[str, Bool],
    settings: PruneSettings,
    on_layer: OnLayer = lambda _: None,
) -> Pruned:
    """Prune site after site and re-fit the consumers' weights, each on its already pruned input.

    Args:
        graph: the network.
        batches: the user's samples.
        teacher: tensors of the network to imitate.
        keep: units to keep by group.
        one_shot: masks for the groups that are not chosen on the way.
        settings: see there.
        on_layer: called with each site's name when it is done.
    """
    result = Pruned()
    student = dict(teacher)
    tracks = {"teacher": teacher, "student": student}
    walk = LayerWalk(
        graph, batches, tracks, budget_bytes=settings.budget_bytes, threads=settings.threads
    )
    sites = find_sites(graph)
    choosable = _choosable(sites) if settings.criterion == "repair_aware" else set()
    for site in sites:
        pruned = [name for name in site.groups if name in keep]
        if not pruned:
            continue
        walk.advance(first_use(graph, site))
        moments = _observe(walk, site, settings.rows_per_sample)
        for name in pruned:
            if name not in result.masks:
                result.masks[name] = (
                    _chosen_here(site, moments, teacher, keep[name], settings)
                    if name in choosable
                    else one_shot[name]
                )
        _refit(graph, site, moments, teacher, student, result, settings.ridge)
        on_layer(pruned[0])
    return _finish(walk, result)


def _choosable(sites: list[Site]) -> set[str]:
    """Groups that are read at one simple site, where all that their loss costs can be seen."""
    reads: dict[str, list[Site]] = {}
    for site in sites:
        for name in site.groups:
            reads.setdefault(name, []).append(site)
    return {name for name, at in reads.items() if len(at) == 1 and at[0].simple}


def _observe(walk: LayerWalk, site: Site, rows_per_sample: int) -> CrossMoments:
    moments = CrossMoments(len(site.units), len(site.units))
    for seen in walk.observe(site.tensor):
        moments.update(
            rows(seen["student"], site.channel_axis, rows_per_sample),
            rows(seen["teacher"], site.channel_axis, rows_per_sample),
        )
    return moments


def _chosen_here(
    site: Site,
    moments: CrossMoments,
    teacher: Mapping[str, FloatArray],
    count: int,
    settings: PruneSettings,
) -> Bool:
    outgoing = np.concatenate(
        [_effective(teacher, operator) for operator in site.operators], axis=0
    )
    return repair_aware_mask(moments, outgoing, count, settings.ridge)


def _effective(tensors: Mapping[str, FloatArray], operator: Operator) -> NDArray[np.float64]:
    """An operator's weights with their gain, ``(out_channels × taps, in_channels)``."""
    matrix = weight_matrix(tensors[operator.weight], operator)
    matrix = matrix * tensors[operator.gain].astype(np.float64)[:, None, None]
    return np.asarray(matrix.transpose(0, 2, 1).reshape(-1, matrix.shape[1]))


def _refit(
    graph: Graph,
    site: Site,
    moments: CrossMoments,
    teacher: Mapping[str, FloatArray],
    student: Tensors,
    result: Pruned,
    ridge: float,
) -> None:
    kept = kept_inputs(graph.artifact, site.operators[0], result.masks)
    mixing = fit_mixing(moments, kept, ridge)
    for operator in site.operators:
        weight, offset = mixed_weight(teacher[operator.weight], operator, mixing)
        full = np.zeros_like(teacher[operator.weight])
        index: list[slice | Bool] = [slice(None)] * full.ndim
        index[operator.in_axis or 0] = mixing.kept
        full[tuple(index)] = weight
        shift = teacher[operator.shift] + teacher[operator.gain] * offset
        result.weights[operator.name] = weight
        result.shifts[operator.name] = shift.astype(np.float32)
        student |= {operator.weight: full, operator.shift: result.shifts[operator.name]}
    for name in site.groups:
        if name in result.masks:
            mask = graph.artifact.info.group_by_name[name].mask
            student[mask] = result.masks[name].astype(np.float32)


def prune_light(
    graph: Graph,
    batches: Batches,
    teacher: Mapping[str, FloatArray],
    masks: Mapping[str, Bool],
    settings: PruneSettings,
    on_layer: OnLayer = lambda _: None,
) -> Pruned:
    """Mask at once, then correct every consumer's gain and shift, layer after layer.

    The correction is the least-squares fit of the teacher's output channel on the student's own:
    ``gain = cov / var``, held between 0 and what matches the variance, and the shift that
    matches the mean (VBP, FLAP: the pruned units' mean folded into the bias).
    """
    result = Pruned(masks=dict(masks))
    student = dict(teacher)
    for name, mask in masks.items():
        student[graph.artifact.info.group_by_name[name].mask] = mask.astype(np.float32)
    walk = LayerWalk(
        graph,
        batches,
        {"teacher": teacher, "student": student},
        budget_bytes=settings.budget_bytes,
        threads=settings.threads,
    )
    for operator in graph.artifact.info.operators:
        if not any(name in masks for name in operator.reads):
            continue
        walk.advance(graph.consumed_at(operator))
        gain, shift = _channel_fit(walk, operator, settings.rows_per_sample)
        result.gains[operator.name] = (teacher[operator.gain] * gain).astype(np.float32)
        result.shifts[operator.name] = (teacher[operator.shift] * gain + shift).astype(np.float32)
        student[operator.gain] = result.gains[operator.name]
        student[operator.shift] = result.shifts[operator.name]
        on_layer(operator.name)
    return _finish(walk, result)


def _finish(walk: LayerWalk, result: Pruned) -> Pruned:
    """Keep the teacher's outputs and what both networks' heads read."""
    info = walk.graph.artifact.info
    if info.head is not None:
        walk.advance(walk.graph.consumed_at(info.operator_by_name[info.head]))
    result.outputs = np.concatenate([seen["teacher"] for seen in walk.observe(walk.graph.output)])
    if info.head is not None:
        parts = list(walk.observe(info.operator_by_name[info.head].input))
        result.features = {name: np.concatenate([p[name] for p in parts]) for name in walk.tracks}
    return result


def _channel_fit(
    walk: LayerWalk, operator: Operator, rows_per_sample: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    channels = operator.out_channels
    student, teacher, both = Moments(channels), Moments(channels), Moments(channels)
    for seen in walk.observe(operator.output):
        x = rows(seen["student"], channel_axis(operator), rows_per_sample)
        y = rows(seen["teacher"], channel_axis(operator), rows_per_sample)
        student.update(x)
        teacher.update(y)
        both.update(x + y)
    covariance = (both.variance - student.variance - teacher.variance) / 2
    scale = student.variance + 1e-9 * float(student.variance.max(initial=0.0)) + 1e-30
    gain = np.clip(covariance / scale, 0.0, np.sqrt(teacher.variance / scale))
    gain = np.where(student.variance > 0, gain, 1.0)
    return gain, teacher.mean - gain * student.mean
