"""Walking through a network layer after layer, with several versions of it side by side.

Repair fits each layer while the layers before it are already pruned. Recomputing the whole prefix
for every layer costs as many forward passes as there are layers. Here the activations of all
samples are kept at one cut, where the network is narrow, and the cut moves on as the layers are
done: each node then runs two times at most, whatever the depth. Where the cut would not fit the
memory budget it stays behind, and the stretch from there is recomputed: memory is bounded, the
result is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._graph import Graph
from ._ort import run
from ._stream import Batches

__all__ = ["LayerWalk"]

Tensors = dict[str, NDArray[Any]]


class LayerWalk:
    """Versions of one network ("tracks") run over the same samples up to a moving cut.

    Args:
        graph: the network.
        batches: its samples, in batches that can be gone over again.
        tracks: for each track its external tensors; the caller changes them as layers are fitted,
            but only those of operators that stand at or after the cut.
        budget_bytes: the most that activations kept at a cut may take.
        threads: threads of one operator.
    """

    def __init__(
        self,
        graph: Graph,
        batches: Batches,
        tracks: Mapping[str, Mapping[str, NDArray[Any]]],
        *,
        budget_bytes: int,
        threads: int,
    ) -> None:
        self.graph = graph
        self.batches = batches
        self.tracks = tracks
        self.budget_bytes = budget_bytes
        self.threads = threads
        self.position = 0
        self.kept_bytes = 0
        self._feeds: tuple[str, ...] = (graph.input,)
        self._kept: dict[str, list[Tensors]] | None = None

    def observe(self, tensor: str) -> Iterator[dict[str, NDArray[np.float32]]]:
        """Give the values of `tensor` batch by batch, for every track: ``(batch, …)`` float32."""
        sessions = {track: self._session(track, (tensor,)) for track in self.tracks}
        for feeds in self._fed():
            yield {
                track: self._compute(sessions[track], feeds[track], (tensor,))[tensor]
                for track in self.tracks
            }

    def advance(self, limit: int) -> bool:
        """Move the cut to the narrowest place after it and not beyond `limit`, if that fits.

        Every operator before `limit` must have its final tensors. Returns whether it moved.
        """
        target = self._narrowest(limit)
        if target is None:
            return False
        names = self.graph.live(target)
        sessions = {track: self._session(track, names) for track in self.tracks}
        kept: dict[str, list[Tensors]] = {track: [] for track in self.tracks}
        for index, feeds in enumerate(self._fed()):
            for track in self.tracks:
                kept[track].append(self._compute(sessions[track], feeds[track], names))
                if self._kept is not None:
                    self._kept[track][index] = {}  # never two cuts in memory
        self.position, self._feeds, self._kept = target, names, kept
        self.kept_bytes = sum(v.nbytes for t in kept.values() for b in t for v in b.values())
        return True

    def _narrowest(self, limit: int) -> int | None:
        count = len(self.batches) * len(self.tracks)
        sizes = {p: self.graph.live_bytes(p) for p in range(self.position + 1, limit + 1)}
        fitting = [
            (size, -p)
            for p, size in sizes.items()
            if size is not None and size * count <= self.budget_bytes
        ]
        return -min(fitting)[1] if fitting else None

    def _fed(self) -> Iterator[Mapping[str, Tensors]]:
        if self._kept is None:
            for batch in self.batches:
                yield {track: {self.graph.input: batch} for track in self.tracks}
            return
        for index in range(len(next(iter(self._kept.values())))):
            yield {track: kept[index] for track, kept in self._kept.items()}

    def _session(self, track: str, outputs: Sequence[str]) -> Any:
        wanted = [name for name in outputs if name not in self._feeds]
        if not wanted:
            return None
        return self.graph.session(self._feeds, wanted, self.tracks[track], self.threads)

    @staticmethod
    def _compute(session: Any, feeds: Tensors, outputs: Sequence[str]) -> Tensors:
        known = {name: feeds[name] for name in outputs if name in feeds}
        if session is None:
            return known
        used = {value.name: feeds[value.name] for value in session.get_inputs()}
        names = [value.name for value in session.get_outputs()]
        return known | dict(zip(names, run(session, names, used), strict=True))
