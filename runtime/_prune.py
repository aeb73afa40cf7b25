"""Pruning and repairing a network layer after layer, with the dense network as teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._external import FloatArray
from ._graph import Graph
from ._ort import trim_memory
from ._plan import find_sites, first_use, read_at_one_site
from ._stream import Batches
from ._targets import TARGETS_SHARE, Target, Targets, targets_of
from ._walk import LayerWalk
from ._watch import watch
from .artifact import Operator
from .profile import kept_inputs
from .repair import (
    Mixing,
    fit_mixing,
    fit_outputs,
    laid_out,
    mixed_weight,
    outgoing_weights,
    repair_aware_mask,
)
from .statistics import CrossMoments, rows

__all__ = [
    "PruneJob",
    "Pruned",
    "SideBySide",
    "best_units",
    "prune_deep",
    "prune_masks",
]

Bool = NDArray[np.bool_]
Float64 = NDArray[np.float64]
_STUDENT = "student"
_MANY_UNITS = 500
_WALK_SHARE = 3 / 8  # of the memory; the rest is for targets and for linear algebra
# Positions of a sample are pooled further on: an error that is everywhere stays, others cancel out.
_COMMON_PART = 4.0
_SAMPLES_FOR_IT = 100  # of fewer than about so many samples little is known of what they share


@dataclass(frozen=True)
class PruneJob:
    """What to prune, with what, and how far.

    Attributes:
        graph: the network.
        batches: the user's samples.
        teacher: external tensors of the network to imitate.
        judged: external tensors by whose weights units are judged; None for the teacher's.
        keep: how many units each group keeps, for the groups that lose some.
        masks: masks from one-shot scores, for the same groups.
        choose_here: choose masks at their layer instead, where `repair_aware_mask` can.
        ridge, budget_bytes, threads: see `fit_mixing` and `LayerWalk`.
        on_layer: called when a layer is done.
        targets: what the teacher says where `prune_deep` fits something; None to find out.
    """

    graph: Graph
    batches: Batches
    teacher: Mapping[str, FloatArray]
    keep: Mapping[str, int]
    masks: Mapping[str, Bool]
    choose_here: bool
    ridge: float
    budget_bytes: int
    threads: int
    on_layer: Callable[[], None] = lambda: None
    judged: Mapping[str, FloatArray] | None = None
    targets: Targets | None = None


@dataclass
class Pruned:
    """What pruning changed, by group and by operator.

    ``head_mixing`` is how the pruned head's input is turned into the dense one's, `head_moments`
    their joint moments where the head is still to lose weights. ``answers`` are what the student of
    light repair says at the end of its walk.
    """

    masks: dict[str, Bool] = field(default_factory=dict)
    gains: dict[str, FloatArray] = field(default_factory=dict)
    shifts: dict[str, FloatArray] = field(default_factory=dict)
    weights: dict[str, FloatArray] = field(default_factory=dict)
    head_mixing: Mixing | None = None
    head_moments: CrossMoments | None = None
    answers: FloatArray | None = None


def best_units(scores: Float64, count: int) -> Bool:
    """Mask that keeps the `count` units of the highest score."""
    mask = np.zeros(len(scores), np.bool_)
    mask[np.argsort(-scores, kind="stable")[:count]] = True
    return mask


class SideBySide:
    """Teacher and student, walked through side by side.

    Attributes:
        job: what to prune.
        result: what pruning changed so far.
        student: external tensors of the network that is pruned, as far as it is.
        walk: over both; the teacher never changes.
    """

    def __init__(self, job: PruneJob) -> None:
        self.job = job
        self.info = job.graph.artifact.info
        self.result = Pruned()
        self.student: dict[str, FloatArray] = dict(job.teacher)
        self.walk = LayerWalk(
            job.graph,
            job.batches,
            {"teacher": job.teacher, "student": self.student},
            fixed=("teacher",),
            budget_bytes=job.budget_bytes,
            threads=job.threads,
        )

    def mask(self, group: str, mask: Bool) -> None:
        self.result.masks[group] = mask
        self.student[self.info.group_by_name[group].mask] = mask.astype(np.float32)


def prune_masks(job: PruneJob) -> Pruned:
    """Mask and repair nothing: the control that shows what the repair is worth."""
    return Pruned(masks=dict(job.masks))


def prune_deep(job: PruneJob) -> Pruned:
    """Prune site after site and re-fit the consumers' weights, each on its already pruned input.

    Only the pruned network is walked through. A group whose pruned units can be left out of what is
    run next is run twice, all of it to choose and what is kept to go on, so that the cut may stand
    where the network is narrow. Elsewhere it runs once where what stands at a site fits the memory:
    the cut moves to before the consumers, which are fitted there.
    """
    if not job.keep:
        return Pruned()
    targets = job.targets or _watched_targets(job)
    student = dict(job.teacher)
    result = Pruned()
    choosable = read_at_one_site(find_sites(job.graph)) if job.choose_here else {}
    walk = LayerWalk(
        job.graph,
        job.batches.every(targets.step),
        {_STUDENT: student},
        fixed=(_STUDENT,),
        budget_bytes=int(job.budget_bytes * _WALK_SHARE),
        threads=job.threads,
        half=True,
        masks=result.masks,
    )
    for target in targets.targets:
        if job.keep.keys().isdisjoint(target.site.groups):
            continue
        moments = _observe(walk, target, targets)
        for name in target.site.groups:
            if name in job.keep and name not in result.masks:
                here = name in choosable
                mask = _chosen_here(job, target, moments, name) if here else job.masks[name]
                result.masks[name] = mask
                student[job.graph.artifact.info.group_by_name[name].mask] = mask.astype(np.float32)
        if len(target.site.units) >= _MANY_UNITS:
            trim_memory()  # their matrices were large
        student |= _refit(job, result, target, moments)
        job.on_layer()
    return result


def _watched_targets(job: PruneJob) -> Targets:
    """What the teacher says, where it was not watched before."""
    samples = len(job.batches)
    wanted = targets_of(job.graph, job.keep, samples)
    targets = Targets(job.graph, wanted, samples, int(job.budget_bytes * TARGETS_SHARE))
    watch(job.graph, job.batches, job.teacher, takers=[targets], threads=job.threads)
    return targets


def _observe(walk: LayerWalk, target: Target, targets: Targets) -> CrossMoments:
    """Joint moments of what stands at a site, pruned, and of what its readers are fitted to."""
    site, units = target.site, len(target.site.units)
    picked, nodes = walk.graph.picked_nodes(site.tensor, site.channel_axis, targets.limit)
    limit = first_use(walk.graph, site)
    outputs = sum(operator.out_channels for operator in site.operators)
    moments = CrossMoments(
        units, outputs if target.own else units, single=True, emphasis=_emphasis(len(walk.batches))
    )
    exactly = not walk.graph.narrow_paths.keys() >= set(site.groups)
    every = target.every // targets.step
    found = walk.observe(picked, then=limit, exactly=exactly, every=every, nodes=nodes)
    for number, seen in enumerate(found):
        x = rows(seen[_STUDENT], site.channel_axis, targets.limit)
        moments.update(x, targets.said(target, number), samples=len(seen[_STUDENT]))
    walk.advance(limit, exactly=exactly)
    return moments


def _emphasis(samples: int) -> float:
    """How much larger what a sample's positions share counts; an error in it weighs the square."""
    known = samples / (samples + _SAMPLES_FOR_IT)
    return float(np.sqrt(1.0 + (_COMMON_PART - 1.0) * known))


def _chosen_here(job: PruneJob, target: Target, moments: CrossMoments, name: str) -> Bool:
    tensors = job.teacher if target.own else job.judged or job.teacher
    return repair_aware_mask(
        moments,
        outgoing_weights(tensors, target.site.operators, silent=target.own),
        job.keep[name],
        job.ridge,
        own=target.own,
    )


def _refit(
    job: PruneJob, result: Pruned, target: Target, moments: CrossMoments
) -> dict[str, FloatArray]:
    """Fit a site's consumers; return their tensors in full size."""
    operators = target.site.operators
    kept = kept_inputs(job.graph.artifact, operators[0], result.masks)
    if target.own:
        fitted = _fitted_outputs(job, operators, moments, kept)
    else:
        fitted = _fitted_mixing(job, result, operators, moments, kept)
    changed: dict[str, FloatArray] = {}
    for operator, (weight, shift) in zip(operators, fitted, strict=True):
        result.weights[operator.name] = weight
        result.shifts[operator.name] = shift.astype(np.float32)
        changed[operator.weight] = _full_size(weight, operator, kept)
        changed[operator.shift] = result.shifts[operator.name]
    return changed


def _fitted_mixing(
    job: PruneJob,
    result: Pruned,
    operators: Sequence[Operator],
    moments: CrossMoments,
    kept: Bool,
) -> list[tuple[FloatArray, NDArray[Any]]]:
    """Weights, of the kept inputs, and shifts, by how the kept channels make all of them."""
    mixing = fit_mixing(moments, kept, job.ridge)
    fitted = []
    for operator in operators:
        weight, offset = mixed_weight(job.teacher[operator.weight], operator, mixing)
        fitted.append((weight, job.teacher[operator.shift] + job.teacher[operator.gain] * offset))
        if operator.name == job.graph.artifact.info.head:
            result.head_mixing = mixing
    return fitted


def _fitted_outputs(
    job: PruneJob, operators: Sequence[Operator], moments: CrossMoments, kept: Bool
) -> list[tuple[FloatArray, NDArray[Any]]]:
    """Weights, of the kept inputs, and shifts, fitted to the operators' own outputs."""
    outgoing = outgoing_weights(job.teacher, operators, silent=True)
    weights, added = fit_outputs(moments, outgoing, kept, job.ridge)
    fitted, start = [], 0
    for operator in operators:
        mine = slice(start, start := start + operator.out_channels)
        gain = job.teacher[operator.gain].astype(np.float64)
        like = job.teacher[operator.weight]
        weight = weights[mine] / np.where(gain == 0, 1.0, gain)[:, None]
        laid = laid_out(weight[:, :, None], like, operator)
        fitted.append((laid, added[mine] - gain * job.teacher[operator.bias]))
    return fitted


def _full_size(weight: FloatArray, operator: Operator, kept: Bool) -> FloatArray:
    axis = operator.in_axis or 0
    shape = list(weight.shape)
    shape[axis] = len(kept)
    full = np.zeros(shape, np.float32)
    full[(slice(None),) * axis + (kept,)] = weight
    return full
