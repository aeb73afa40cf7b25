"""Pruning and repairing a network layer after layer, with the dense network as teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from ._external import FloatArray
from ._graph import Graph
from ._plan import Site, find_sites, first_use, read_at_one_site, sites_reading
from ._stream import Batches
from ._walk import LayerWalk
from .artifact import Operator
from .profile import kept_inputs
from .repair import Mixing, fit_mixing, mixed_weight, outgoing_weights, repair_aware_mask
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
# Positions of one sample are alike: more of them cost and teach little.
_ROWS_FOR_WEIGHTS = 32  # twice as many gave the same agreement on development users
_ROWS_PER_UNIT = 40  # a layer of few units has seen enough before the samples are through


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


@dataclass
class Pruned:
    """What pruning changed, by group and by operator.

    ``head_mixing`` is how the pruned head's input is turned into the dense one's, `head_moments`
    their joint moments where the head is still to lose weights.
    """

    masks: dict[str, Bool] = field(default_factory=dict)
    gains: dict[str, FloatArray] = field(default_factory=dict)
    shifts: dict[str, FloatArray] = field(default_factory=dict)
    weights: dict[str, FloatArray] = field(default_factory=dict)
    head_mixing: Mixing | None = None
    head_moments: CrossMoments | None = None


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
    """Prune site after site and re-fit the consumers' weights, each on its already pruned input."""
    walker = SideBySide(job)
    choosable = read_at_one_site(find_sites(job.graph)) if job.choose_here else {}
    sites = sites_reading(job.graph, job.keep)
    limits = [first_use(job.graph, site) for site in sites]
    for site, limit, then in zip_longest(sites, limits, limits[1:]):
        walker.walk.advance(limit)
        moments = _observe(walker.walk, site, then)
        for name in site.groups:
            if name not in job.keep:
                continue
            if name in choosable:
                walker.mask(name, _chosen_here(job, site, moments, job.keep[name]))
            elif name not in walker.result.masks:
                walker.mask(name, job.masks[name])
        _refit(walker, site, moments)
        job.on_layer()
    return walker.result


def _observe(walk: LayerWalk, site: Site, then: int | None) -> CrossMoments:
    units = len(site.units)
    moments = CrossMoments(units, units)
    samples = -(-units * _ROWS_PER_UNIT // _ROWS_FOR_WEIGHTS)
    for seen in walk.observe(site.tensor, then=then, samples=samples):
        moments.update(
            rows(seen["student"], site.channel_axis, _ROWS_FOR_WEIGHTS),
            rows(seen["teacher"], site.channel_axis, _ROWS_FOR_WEIGHTS),
        )
    return moments


def _chosen_here(job: PruneJob, site: Site, moments: CrossMoments, count: int) -> Bool:
    outgoing = outgoing_weights(job.judged or job.teacher, site.operators)
    return repair_aware_mask(moments, outgoing, count, job.ridge)


def _refit(walker: SideBySide, site: Site, moments: CrossMoments) -> None:
    job, result = walker.job, walker.result
    kept = kept_inputs(job.graph.artifact, site.operators[0], result.masks)
    mixing = fit_mixing(moments, kept, job.ridge)
    for operator in site.operators:
        weight, offset = mixed_weight(job.teacher[operator.weight], operator, mixing)
        shift = job.teacher[operator.shift] + job.teacher[operator.gain] * offset
        result.weights[operator.name] = weight
        result.shifts[operator.name] = shift.astype(np.float32)
        walker.student[operator.weight] = _full_size(weight, operator, kept)
        walker.student[operator.shift] = result.shifts[operator.name]
        if operator.name == walker.info.head:
            result.head_mixing = mixing


def _full_size(weight: FloatArray, operator: Operator, kept: Bool) -> FloatArray:
    axis = operator.in_axis or 0
    shape = list(weight.shape)
    shape[axis] = len(kept)
    full = np.zeros(shape, np.float32)
    full[(slice(None),) * axis + (kept,)] = weight
    return full
