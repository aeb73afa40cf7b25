"""The statistics pass: watching the dense network on the user's samples.

Only what somebody will read is gathered, of the sites that matter. Means come from every sample,
by pooled probes inside ONNX Runtime's blocked layout. Single positions, whose variance counts, are
picked inside that layout as well, and looked at of some batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._external import FloatArray
from ._graph import Graph
from ._ort import run, trim_memory
from ._plan import Site
from ._stream import Batches
from ._targets import Taker
from .scoring import SiteStatistics
from .statistics import Moments, rows

__all__ = ["POSITIONS_EVERY", "ROWS_PER_SAMPLE", "Watched", "Watcher", "watch"]

POSITIONS_EVERY = 8
ROWS_PER_SAMPLE = 32
_LOOKED_INTO = 30  # samples, of a stream that is shorter than `POSITIONS_EVERY` times as many
_NOTED = 48  # the same where the repair learns from what is written down
_SAMPLES_AT_ONCE = 32


@dataclass
class Watched:
    """What the statistics pass saw.

    ``statistics`` are by tensor, for every site that was watched; ``outputs`` the network's outputs
    and ``features`` what its head reads, sample by sample; ``held_outputs`` and ``held_features``
    the same of the samples that are held out. ``said`` are rows of the tensors that were to be
    written down, batch by batch of those that were looked into, whose samples `looked_into` names.
    Of a long stream ``outputs`` and ``features`` are those of an even choice: of the samples that
    stand at ``places`` of it.
    """

    samples: int = 0
    places: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    said: Mapping[str, list[FloatArray]] = field(default_factory=dict)
    looked_into: list[int] = field(default_factory=list)
    held_outputs: FloatArray = field(default_factory=lambda: np.empty(0, np.float32))
    held_features: FloatArray | None = None
    statistics: Mapping[str, SiteStatistics] = field(default_factory=dict)
    outputs: FloatArray = field(default_factory=lambda: np.empty(0, np.float32))
    features: FloatArray | None = None


class Watcher:
    """A network that gathers statistics while it runs.

    Args:
        graph: the network.
        tensors: its external tensors.
        sites: what to watch; with none of them it only runs.
        means: gather the means over positions, of every sample.
        positions: gather single positions, of some samples.
        noted: tensors of which to write down rows of the same samples, and their channel axes.
        every: how many batches lie between those that are looked into.
        takers: what else takes something out of every batch.
        threads: threads of one operator.

    Attributes:
        statistics: by tensor, of all batches that were merged; see `merge`.
    """

    def __init__(
        self,
        graph: Graph,
        tensors: Mapping[str, FloatArray],
        sites: Sequence[Site] = (),
        *,
        means: bool = True,
        positions: bool = True,
        noted: Mapping[str, int] | None = None,
        every: int = POSITIONS_EVERY,
        takers: Sequence[Taker] = (),
        threads: int,
    ) -> None:
        self.statistics = {
            site.tensor: SiteStatistics(Moments(len(site.units)), Moments(len(site.units)))
            for site in sites
        }
        self.said: dict[str, list[FloatArray]] = {tensor: [] for tensor in noted or {}}
        self._sites, self._means = tuple(sites), means
        self._noted, self._every = dict(noted or {}), every
        self._input = graph.input
        head = graph.artifact.info.head
        features = () if head is None else (graph.artifact.info.operator_by_name[head].input,)
        self._always = (graph.output, *features)
        made = {s.tensor: graph.mean_nodes(s.tensor, s.channel_axis) for s in sites if means}
        self._probes = {tensor: name for tensor, (name, _) in made.items()}
        single = {site.tensor: site.channel_axis for site in sites if positions}
        picked = {
            tensor: graph.picked_nodes(tensor, axis, ROWS_PER_SAMPLE)
            for tensor, axis in (single | self._noted).items()
        }
        self._picked = {tensor: name for tensor, (name, _) in picked.items()}
        self._positions = positions
        self._takers = tuple(takers)
        taken = [name for taker in takers for name in taker.outputs]
        nodes = [node for _, those in (*made.values(), *picked.values()) for node in those]
        nodes += [node for taker in takers for node in taker.nodes]
        outputs = (*self._always, *self._probes.values(), *self._picked.values(), *taken)
        self._part = _Part(graph, tensors, outputs, _once(nodes), threads)
        self._batches = self._samples = 0
        self._waiting: list[Mapping[str, NDArray[np.float32]]] = []
        self._samples_waiting = 0

    def run(self, batch: NDArray[np.float32]) -> list[FloatArray]:
        """Run the network; return its output and, where it has a head, what that reads."""
        values = self._part({self._input: batch})
        for taker in self._takers:
            taker.take(self._batches, self._samples, values)
        if self.looks_into_next:
            self._look_into(values)
        self._batches += 1
        self._samples += len(batch)
        if self._probes:
            self._waiting.append({t: values[name] for t, name in self._probes.items()})
            self._samples_waiting += len(batch)
            if self._samples_waiting >= _SAMPLES_AT_ONCE:
                self.merge()
        return [values[name] for name in self._always]

    @property
    def looks_into_next(self) -> bool:
        """Whether the next batch will be looked into."""
        return bool(self._picked) and self._batches % self._every == 0

    def ask(self, batch: NDArray[np.float32]) -> list[FloatArray]:
        """As `run`, but gather nothing."""
        values = self._part({self._input: batch})
        return [values[name] for name in self._always]

    def merge(self) -> None:
        """Take in the means of the last batches; one by one they would cost a tenth."""
        for site in self._sites if self._waiting else ():
            values = [_mean(each[site.tensor], site.channel_axis) for each in self._waiting]
            self.statistics[site.tensor].pooled.update(np.concatenate(values))
        self._waiting, self._samples_waiting = [], 0

    def _look_into(self, values: Mapping[str, NDArray[np.float32]]) -> None:
        for site in self._sites if self._positions else ():
            value = values[self._picked[site.tensor]]
            found = rows(value, site.channel_axis, ROWS_PER_SAMPLE)
            self.statistics[site.tensor].positions.update(found)
        for tensor, axis in self._noted.items():
            found = rows(values[self._picked[tensor]], axis, ROWS_PER_SAMPLE)
            self.said[tensor].append(found.copy() if found.base is not None else found)


class _Part:
    """A session that gives some of a network's tensors by name."""

    def __init__(
        self,
        graph: Graph,
        tensors: Mapping[str, FloatArray],
        outputs: Sequence[str],
        nodes: Sequence[Any],
        threads: int,
    ) -> None:
        self._outputs = list(dict.fromkeys(outputs))
        self._session = graph.session([graph.input], self._outputs, tensors, threads, nodes)

    def __call__(self, feeds: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        return dict(zip(self._outputs, run(self._session, self._outputs, feeds), strict=True))


def _once(nodes: Sequence[Any]) -> list[Any]:
    """Nodes without those that make the same once more."""
    return list({node.output[0]: node for node in nodes}.values())


def _mean(value: NDArray[np.float32], channel_axis: int) -> NDArray[np.float32]:
    moved = np.moveaxis(value, channel_axis, 1)
    return np.asarray(moved.reshape(*moved.shape[:2], -1).mean(2), np.float32)


def watch(
    graph: Graph,
    batches: Batches,
    tensors: Mapping[str, FloatArray],
    *,
    threads: int,
    sites: Sequence[Site] = (),
    means: bool = True,
    positions: bool = True,
    noted: Mapping[str, int] | None = None,
    takers: Sequence[Taker] = (),
    held_out: Iterable[NDArray[np.float32]] = (),
    most_kept: int | None = None,
    on_samples: Callable[[int], None] = lambda _: None,
) -> Watched:
    """Run the network once over all samples and gather statistics.

    Args:
        graph: the network.
        batches: the user's samples.
        tensors: the network's external tensors.
        threads: threads of one operator.
        sites, means, positions, noted, takers: what to gather, see `Watcher`.
        held_out: batches of samples to ask only.
        most_kept: of how many samples outputs and features are kept at the most; None for all.
        on_samples: called with the number of samples after each batch.
    """
    wanted = _NOTED if noted else _LOOKED_INTO
    alone = bool(noted) and not means and not takers and len(batches) > wanted
    every = 1 if alone else int(np.clip(len(batches) // wanted, 1, POSITIONS_EVERY))
    gather = partial(
        Watcher,
        graph,
        tensors,
        sites,
        means=means,
        positions=positions,
        noted=noted,
        every=every,
        takers=takers,
        threads=threads,
    )
    total = len(batches)
    most, seen = min(total, most_kept or total), Watched()
    if alone:
        plain = partial(Watcher, graph, tensors, means=False, positions=False, threads=threads)
        return _watch_some(seen, batches, held_out, (gather, plain), on_samples, most=most)
    watcher = gather()
    seen.statistics, seen.said = watcher.statistics, watcher.said
    places = np.linspace(0, total - 1, most).astype(np.int64)
    found: list[list[FloatArray]] = []
    looked_into: list[range] = []
    for batch in batches:
        if watcher.looks_into_next:
            looked_into.append(range(seen.samples, seen.samples + len(batch)))
        kept = places[(places >= seen.samples) & (places < seen.samples + len(batch))]
        found.append([values[kept - seen.samples] for values in watcher.run(batch)])
        seen.samples += len(batch)
        on_samples(len(batch))
    watcher.merge()
    # By now the unusable samples are known, and places in the stream are places in `indices`.
    seen.looked_into = [batches.indices[place] for part in looked_into for place in part]
    seen.outputs, seen.features = _joined(found)
    seen.places = places[places < seen.samples]
    held = _asked(watcher.ask, held_out, on_samples)
    seen.held_outputs, seen.held_features = _joined(held)
    return seen


def _watch_some(
    seen: Watched,
    batches: Batches,
    held_out: Iterable[NDArray[np.float32]],
    watchers: tuple[Callable[[], Watcher], Callable[[], Watcher]],
    on_samples: Callable[[int], None],
    *,
    most: int,
) -> Watched:
    """As `watch`, where only samples that are looked into give anything but answers.

    These run as the last, with probes. All others run as the plain network does, in a session of
    its own: tensors that are looked at cannot be fused away, which costs a twentieth of every run.
    """
    (gather, plain), some = watchers, _spread(batches.indices, _NOTED)
    others = batches.subset([index for index in batches.indices if index not in set(some)])
    kept_of_some = round(most * len(some) / max(len(batches), 1))
    ask, kept = plain().ask, _spread(range(len(others)), most - kept_of_some)
    found = _asked(ask, others, on_samples, kept)
    held = _asked(ask, held_out, on_samples)
    seen.held_outputs, seen.held_features = _joined(held)
    del ask  # and its session: two of them would be twice the weights
    trim_memory()
    watcher, looked_into = gather(), batches.subset(some)
    kept_too = _spread(range(len(some)), kept_of_some)
    found += _asked(watcher.run, looked_into, on_samples, kept_too)
    # Where some cannot be used, others that were only asked before take their place.
    instead = batches.subset(_spread(others.indices, len(some) - len(looked_into)))
    _asked(watcher.run, instead, lambda _: None)
    seen.statistics, seen.said = watcher.statistics, watcher.said
    seen.looked_into = [*looked_into.indices, *instead.indices]
    place = {index: n for n, index in enumerate(batches.indices)}
    batches.indices = sorted([*others.indices, *looked_into.indices], key=place.__getitem__)
    place = {index: n for n, index in enumerate(batches.indices)}
    parts = ((others.indices, kept), (looked_into.indices, kept_too))
    places = [place[had[n]] for had, chosen in parts for n in chosen if n < len(had)]
    outputs, features = _joined(found)
    order = np.argsort(places)
    seen.places = np.array(places, np.int64)[order]
    seen.samples = len(batches.indices)
    seen.outputs, seen.features = outputs[order], None if features is None else features[order]
    return seen


def _spread(indices: Sequence[int], count: int) -> list[int]:
    """So many of `indices`, evenly spread, or all."""
    places = np.linspace(0, max(len(indices) - 1, 0), min(count, len(indices))).astype(int)
    return [indices[place] for place in places]


def _asked(
    ask: Callable[[NDArray[np.float32]], list[FloatArray]],
    batches: Iterable[NDArray[np.float32]],
    on_samples: Callable[[int], None],
    kept: Sequence[int] | None = None,
) -> list[list[FloatArray]]:
    """What a network says of the samples at some places, or of all, batch by batch."""
    found, samples, wanted = [], 0, None if kept is None else set(kept)
    for batch in batches:
        chosen = [n for n in range(len(batch)) if wanted is None or samples + n in wanted]
        # Copies: what a run returns keeps its session's whole arena from being freed.
        found.append([values[chosen] for values in ask(batch)])
        samples += len(batch)
        on_samples(len(batch))
    return found


def _joined(found: Sequence[Sequence[FloatArray]]) -> tuple[FloatArray, FloatArray | None]:
    """Outputs, and features if there are any, of all batches."""
    if not found:
        return np.empty(0, np.float32), None
    outputs, *features = (np.concatenate(part) for part in zip(*found, strict=True))
    return outputs, features[0] if features else None
