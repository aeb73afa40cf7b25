"""The statistics pass: watching the dense network on the user's samples.

Pooled probes on every site cost about a tenth of a forward pass; single positions are looked at
only on every `POSITIONS_EVERY`-th batch, where activations leave ONNX Runtime's blocked layout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ._external import FloatArray
from ._graph import Graph
from ._ort import run
from ._plan import Site, find_sites
from ._stream import Batches
from .scoring import SiteStatistics
from .statistics import Moments, rows

__all__ = ["POSITIONS_EVERY", "Watched", "watch"]

POSITIONS_EVERY = 8
_ROWS_PER_SAMPLE = 32
_SAMPLES_AT_ONCE = 32


@dataclass
class Watched:
    """What the statistics pass saw."""

    samples: int = 0
    statistics: Mapping[str, SiteStatistics] = field(default_factory=dict)
    outputs: FloatArray = field(default_factory=lambda: np.empty(0, np.float32))


def watch(
    graph: Graph,
    batches: Batches,
    tensors: Mapping[str, FloatArray],
    *,
    threads: int,
    on_samples: Callable[[int], None] = lambda _: None,
) -> Watched:
    """Run the network once over all samples and gather statistics of every site.

    Args:
        graph: the network.
        batches: the user's samples.
        tensors: the network's external tensors.
        threads: threads of one operator.
        on_samples: called with the number of samples after each batch.

    Returns:
        Moments by site and the network's outputs.
    """
    sites = find_sites(graph)
    names = [site.tensor for site in sites]
    pooled, probes = graph.probed_session(names, tensors, threads)
    full = graph.session([graph.input], [graph.output, *names], tensors, threads)
    statistics = {
        site.tensor: SiteStatistics(Moments(len(site.units)), Moments(len(site.units)))
        for site in sites
    }
    seen = Watched(statistics=statistics)
    outputs: list[FloatArray] = []
    waiting: list[list[NDArray[np.float32]]] = []
    for number, batch in enumerate(batches):
        feeds = {graph.input: batch}
        if number % POSITIONS_EVERY == 0:
            output, *values = run(full, [graph.output, *names], feeds)
            for site, value in zip(sites, values, strict=True):
                _update_both(statistics[site.tensor], value, site.channel_axis)
        else:
            output, *values = run(pooled, [graph.output, *probes], feeds)
            waiting.append(values)
            if len(waiting) * len(batch) >= _SAMPLES_AT_ONCE:
                _merge(sites, waiting, statistics)
        outputs.append(output)
        seen.samples += len(batch)
        on_samples(len(batch))
    _merge(sites, waiting, statistics)
    if outputs:
        seen.outputs = np.concatenate(outputs)
    return seen


def _merge(
    sites: list[Site],
    waiting: list[list[NDArray[np.float32]]],
    statistics: Mapping[str, SiteStatistics],
) -> None:
    """Take in the probes of some batches and forget them: one by one they would cost a tenth."""
    if not waiting:
        return
    for site, values in zip(sites, zip(*waiting, strict=True), strict=True):
        together = np.concatenate([_pooled(value, site.channel_axis) for value in values])
        statistics[site.tensor].pooled.update(together)
    waiting.clear()


def _pooled(value: NDArray[np.float32], channel_axis: int) -> NDArray[np.float32]:
    moved = np.moveaxis(value, channel_axis, 1)
    return np.asarray(moved.reshape(*moved.shape[:2], -1).mean(2), np.float32)


def _update_both(statistics: SiteStatistics, value: NDArray[np.float32], channel_axis: int) -> None:
    statistics.pooled.update(_pooled(value, channel_axis))
    statistics.positions.update(rows(value, channel_axis, _ROWS_PER_SAMPLE))
