"""Re-estimating normalisation on the user's data, layer after layer.

A network's BatchNorm statistics describe the voices and rooms that it was trained on. Where they
are kept with the artifact (`Operator.reference`), the operators' gains and shifts can move this
user's statistics back onto them, as test-time BatchNorm adaptation does (Schneider et al. 2020,
with its blend of source and target statistics), each layer seeing its input with the layers before
it already corrected. On a stream of few classes a full re-estimate takes away what tells the
classes apart: hence the blend, and the label-free choice of it in `personalize`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ._external import FloatArray
from ._graph import Graph
from ._plan import channel_axis
from ._stream import Batches
from ._walk import LayerWalk
from .artifact import Operator
from .statistics import Moments, rows

__all__ = ["corrected_gain_shift", "renormalize"]

_ROWS_PER_SAMPLE = 256
_FLOOR = 1e-3


def corrected_gain_shift(
    operator: Operator, mean: NDArray[np.float64], std: NDArray[np.float64], blend: float
) -> tuple[FloatArray, FloatArray]:
    """Gain and shift that move an output with the given statistics towards its reference.

    Args:
        operator: has a reference.
        mean, std: of the output on the user's data, with neutral gain and shift, ``(channels,)``.
        blend: 0 trusts the reference statistics, 1 the user's.

    Returns:
        float32 gain and shift, ``(channels,)`` each; neutral for channels that hardly vary in the
        reference, where a ratio of deviations means nothing.
    """
    reference = operator.reference
    if reference is None:
        raise ValueError(f"{operator.name} has no reference statistics")
    ref_mean = reference.mean.astype(np.float64)
    ref_std = reference.std.astype(np.float64)
    blended_mean = blend * mean + (1 - blend) * ref_mean
    blended_std = np.sqrt(blend * std**2 + (1 - blend) * ref_std**2)
    floor = _FLOOR * float(ref_std.max(initial=0.0)) + 1e-12
    usable = (ref_std > floor) & (blended_std > floor)
    gain = np.where(usable, ref_std / np.where(usable, blended_std, 1.0), 1.0)
    shift = np.where(usable, ref_mean - gain * blended_mean, 0.0)
    return gain.astype(np.float32), shift.astype(np.float32)


def renormalize(
    graph: Graph,
    batches: Batches,
    tensors: dict[str, NDArray[np.float32]],
    *,
    blend: float,
    budget_bytes: int,
    threads: int,
    on_layer: Callable[[], None] = lambda: None,
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
    """Re-estimate gains and shifts of every operator that has reference statistics.

    Args:
        graph: the network.
        batches: the user's samples.
        tensors: the dense network's external tensors.
        blend: see `corrected_gain_shift`.
        budget_bytes, threads: see `LayerWalk`.
        on_layer: called when an operator is done.

    Returns:
        The changed gains and shifts by tensor name, and the corrected network's outputs.
    """
    track = dict(tensors)
    changed: dict[str, NDArray[np.float32]] = {}
    walk = LayerWalk(graph, batches, {"user": track}, budget_bytes=budget_bytes, threads=threads)
    for operator in graph.artifact.info.operators:
        if operator.reference is None:
            continue
        walk.advance(graph.consumed_at(operator))
        moments = Moments(operator.out_channels)
        for seen in walk.observe(operator.output):
            moments.update(rows(seen["user"], channel_axis(operator), _ROWS_PER_SAMPLE))
        gain, shift = corrected_gain_shift(operator, moments.mean, moments.std, blend)
        changed |= {operator.gain: gain, operator.shift: shift}
        track |= changed
        on_layer()
    return changed, np.concatenate([seen["user"] for seen in walk.observe(graph.output)])
