"""Scores of units from what they did on the user's data. Forward passes only, no labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ._external import FloatArray
from ._graph import Graph
from ._plan import Site, find_sites
from .artifact import ONES
from .repair import weight_matrix
from .statistics import Moments

__all__ = ["CRITERIA", "Criterion", "SiteStatistics", "unit_scores"]

Criterion = Literal["repair_aware", "variance", "activation", "wanda", "random"]
CRITERIA: tuple[str, ...] = get_args(Criterion)
Float64 = NDArray[np.float64]
_OUTPUTS_AT_ONCE = 128


@dataclass(frozen=True)
class SiteStatistics:
    """What the channels of a site's tensor did on the user's data.

    ``pooled`` holds moments of each sample's mean over all positions; ``positions`` those of a few
    single positions of each sample, whose variance counts.
    """

    pooled: Moments
    positions: Moments


def _channel_scores(statistics: SiteStatistics, read: Float64, criterion: Criterion) -> Float64:
    if criterion == "activation":
        # The paper's rule (Fine-Pruning, arXiv 2602.18507): what is seldom active goes.
        return np.abs(statistics.pooled.mean)
    if criterion == "wanda":
        # Wanda (arXiv 2306.11695), summed over the outgoing weights of a unit.
        rms = np.sqrt(statistics.positions.variance + statistics.pooled.mean**2)
        return np.asarray(rms * read)
    # What a mean folded into the bias cannot replace (FLAP, arXiv 2312.11983).
    return np.asarray(statistics.positions.variance * read)


def _read(site: Site, tensors: Mapping[str, FloatArray], criterion: Criterion) -> Float64:
    """How strongly each channel is read: the sum of its squared (``wanda``: absolute) weights.

    A large head in float64, and its square, would be most of what `light` holds in memory.
    """
    total = np.zeros(len(site.units))
    for operator in site.operators:
        by_output = np.moveaxis(tensors[operator.weight], operator.out_axis, 0)
        for start in range(0, len(by_output), _OUTPUTS_AT_ONCE):
            some = by_output[start : start + _OUTPUTS_AT_ONCE]
            weights = weight_matrix(np.moveaxis(some, 0, operator.out_axis), operator)
            total += (np.abs(weights) if criterion == "wanda" else weights**2).sum((0, 2))
    return total


def unit_scores(
    graph: Graph, statistics: Mapping[str, SiteStatistics], criterion: Criterion, seed: int
) -> dict[str, Float64]:
    """Score every unit of every prunable group; more is worth more.

    Args:
        graph: the network.
        statistics: by tensor; a site without any adds nothing.
        criterion: ``variance`` (variance times squared outgoing weights), ``activation`` (mean
            activation), ``wanda`` (root mean square times absolute outgoing weights), ``random``;
            ``repair_aware`` scores at its layer and falls back to ``variance`` here.
        seed: for ``random``.

    Returns:
        By group name, float64 ``(units,)``: the sum over all places where the unit is read.
    """
    groups = graph.artifact.info.prunable
    if criterion == "random":
        generator = np.random.default_rng(seed)
        return {group.name: generator.random(group.units) for group in groups}
    scores = {group.name: np.zeros(group.units) for group in groups}
    tensors = graph.artifact.tensors
    for site in find_sites(graph):
        if site.tensor not in statistics:
            continue
        read = _read(site, tensors, criterion)
        per_channel = _channel_scores(statistics[site.tensor], read, criterion)
        _add_to_units(site, per_channel, scores)
    return scores


def _add_to_units(site: Site, per_channel: Float64, scores: dict[str, Float64]) -> None:
    start = 0
    for name in site.groups:
        if name == ONES:
            break
        units = scores[name]
        inside = (site.units >= start) & (site.units < start + len(units))
        np.add.at(units, site.units[inside] - start, per_channel[inside])
        start += len(units)
