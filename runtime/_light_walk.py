"""Light repair, layer after layer: gains and shifts that follow the dense network's outputs.

The student is walked through once. Its cut moves to right behind each corrected operator, where
gain and shift are still to act: on what is kept there they are put by multiplication, and nothing
runs a second time. What the teacher says at the same places was written down by the statistics
pass, of the few samples that it looked into. Samples that are held out come along without being
learnt from: what stands at the end is the outcome's answers to them, for the guard. Units that are
masked are not computed, where they can be left out easily.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ._external import FloatArray
from ._plan import channel_axis
from ._prune import Pruned, PruneJob
from ._walk import LayerWalk
from .artifact import ModelInfo, Operator
from .statistics import rows

__all__ = ["operators_reading", "prune_light"]

Float64 = NDArray[np.float64]
_STUDENT = "student"


def operators_reading(info: ModelInfo, groups: Iterable[str]) -> list[Operator]:
    """The operators that read units of any of `groups`, in the order in which they run."""
    wanted = set(groups)
    return [operator for operator in info.operators if not wanted.isdisjoint(operator.reads)]


def prune_light(job: PruneJob, said: Mapping[str, Sequence[FloatArray]], limit: int) -> Pruned:
    """Mask at once, then correct every consumer's gain and shift, layer after layer.

    The correction is the least-squares fit of the teacher's output channel on the student's own:
    ``gain = cov / var``, held between 0 and what matches the variance, and the shift that
    matches the mean (VBP, FLAP: the pruned units' mean folded into the bias).

    Args:
        job: what to prune, with its masks, and the samples that the teacher was looked into on,
            followed by those that are held out.
        said: by tensor, what the teacher said on the former: rows of channels, batch by batch.
        limit: of how many positions a sample, as `rows` takes it.

    Returns:
        What changed, with ``answers``, the outputs for all samples, before a class prior.
    """
    info = job.graph.artifact.info
    result = Pruned(masks=dict(job.masks))
    if not job.masks:
        return result
    student = dict(job.teacher)
    for group, mask in job.masks.items():
        student[info.group_by_name[group].mask] = mask.astype(np.float32)
    graph = job.graph
    walk = LayerWalk(
        graph,
        job.batches,
        {_STUDENT: student},
        fixed=(_STUDENT,),
        budget_bytes=job.budget_bytes,
        threads=job.threads,
        masks=job.masks,
    )
    for operator in operators_reading(info, job.masks):
        behind, axis = graph.consumed_at(operator) + 1, channel_axis(operator)
        picked, nodes = graph.picked_nodes(operator.output, axis, limit)
        y = np.concatenate(said[operator.output])
        x: list[FloatArray] = []
        moves = walk.can_advance(behind, exactly=True)
        for seen in walk.observe(picked, then=behind, exactly=True, nodes=nodes):
            if sum(map(len, x)) < len(y):
                x.append(rows(seen[_STUDENT], axis, limit))
            elif not moves:
                break  # the others are held out, and run where the cut moves on
        gain, shift = _channel_fit(np.concatenate(x)[: len(y)], y)
        if walk.advance(behind, exactly=True) and walk.holds(operator.output):
            walk.rescale(_STUDENT, operator.output, gain, shift, axis)
        changed = _corrected(job.teacher, operator, gain, shift)
        student |= changed
        result.gains[operator.name] = changed[operator.gain]
        result.shifts[operator.name] = changed[operator.shift]
        job.on_layer()
    result.answers = np.concatenate([seen[_STUDENT] for seen in walk.observe(graph.output)])
    return result


def _corrected(
    teacher: Mapping[str, FloatArray], operator: Operator, gain: Float64, shift: Float64
) -> dict[str, FloatArray]:
    both = {
        operator.gain: teacher[operator.gain] * gain,
        operator.shift: teacher[operator.shift] * gain + shift,
    }
    return {name: value.astype(np.float32) for name, value in both.items()}


def _channel_fit(x: FloatArray, y: FloatArray) -> tuple[Float64, Float64]:
    """Gain and shift of each channel with which ``x`` says ``y``, both ``(rows, channels)``."""
    mean_x, mean_y = x.mean(0, dtype=np.float64), y.mean(0, dtype=np.float64)
    # About their means the products fit float32; their sum is taken in float64.
    dx, dy = x - mean_x.astype(np.float32), y - mean_y.astype(np.float32)
    var_x, var_y, covariance = (
        (one * other).mean(0, dtype=np.float64) for one, other in ((dx, dx), (dy, dy), (dx, dy))
    )
    scale = var_x + 1e-9 * float(var_x.max(initial=0.0)) + 1e-30
    gain = np.clip(covariance / scale, 0.0, np.sqrt(var_y / scale))
    gain = np.where(var_x > 0, gain, 1.0)
    return gain, mean_y - gain * mean_x
