"""Light repair in one pass: gains and shifts from what the statistics pass has already seen.

Where a unit goes, its mean is known, and what it added to the mean of each consumer's output goes
into that output's shift (FLAP, arXiv 2312.11983; VBP): exact for the dense network's own input.
What it added to the variance is gone; the rest is scaled up to make up for it, as if units were
uncorrelated, because the layers behind have non-linearities whose mean depends on the variance
(REFLOW, ASR). On development users that was worth as much as gains from joint statistics.

What this does not see is that the input itself changes as the layers before are pruned. The layer
walk (`_light_walk`) does, for another pass over some of the samples.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ._plan import find_sites
from ._prune import Pruned, PruneJob
from .artifact import Operator
from .profile import kept_inputs
from .repair import weight_matrix
from .scoring import SiteStatistics

__all__ = ["prune_at_once"]

Float64 = NDArray[np.float64]
_MOST_GAIN = 2.0


def prune_at_once(job: PruneJob, statistics: Mapping[str, SiteStatistics]) -> Pruned:
    """Mask units and correct their consumers' gains and shifts, without running the network.

    Args:
        job: what to prune, with its masks.
        statistics: by tensor, for every site that reads pruned groups.
    """
    result = Pruned(masks=dict(job.masks))
    artifact = job.graph.artifact
    for site in find_sites(job.graph):
        if not any(name in job.masks for name in site.groups):
            continue
        seen = statistics[site.tensor]
        for operator in site.operators:
            kept = kept_inputs(artifact, operator, job.masks)
            gain, shift = _corrected(job, operator, seen, kept)
            result.gains[operator.name] = gain.astype(np.float32)
            result.shifts[operator.name] = shift.astype(np.float32)
            job.on_layer()
    return result


def _corrected(
    job: PruneJob, operator: Operator, seen: SiteStatistics, kept: NDArray[np.bool_]
) -> tuple[Float64, Float64]:
    """Gain and shift with which the kept inputs give the dense output's mean and variance."""
    teacher = job.teacher
    weight = weight_matrix(teacher[operator.weight], operator)
    bias = teacher[operator.bias].astype(np.float64)
    scale = _variance_gain(weight, seen, kept)
    if operator.name == job.graph.artifact.info.head:
        scale = np.ones_like(scale)  # logits of another scale would weigh another prior
    summed = weight.sum(2)
    dense = summed @ seen.pooled.mean + bias
    pruned = summed[:, kept] @ seen.pooled.mean[kept] + bias
    gain = teacher[operator.gain] * scale
    return gain, teacher[operator.shift] + teacher[operator.gain] * dense - gain * pruned


def _variance_gain(weight: Float64, seen: SiteStatistics, kept: NDArray[np.bool_]) -> Float64:
    energy = (weight**2).sum(2)
    dense = energy @ seen.positions.variance
    pruned = energy[:, kept] @ seen.positions.variance[kept]
    ratio = dense / np.maximum(pruned, 1e-30)
    return np.asarray(np.clip(np.sqrt(ratio), 1.0, _MOST_GAIN))
