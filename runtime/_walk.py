"""Walking through a network layer after layer, with several versions of it side by side.

Repair fits each layer while the layers before it are already pruned. Recomputing the whole prefix
for every layer costs as many forward passes as there are layers. Here the activations of all
samples are kept at one cut, where the network is narrow, and the cut moves on as the layers are
done: each node then runs two times at most, whatever the depth, and only once in a track whose
tensors never change, because what it is asked for and its next cut come out of one run. Where the
cut would not fit the memory budget it stays behind, and the stretch from there is recomputed:
memory is bounded, the result is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._graph import Graph
from ._half import halved, widened
from ._ort import give_back, run
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
        fixed: those tracks that move on while they are observed: the caller changes nothing of
            them before the tensor that is.
        budget_bytes: the most that activations kept at a cut may take.
        half: keep them in half precision, as far as its range goes.
        threads: threads of one operator.
        masks: of groups whose pruned units need not be run; in force in every track. The caller
            adds to them as groups are decided.
    """

    def __init__(
        self,
        graph: Graph,
        batches: Batches,
        tracks: Mapping[str, Mapping[str, NDArray[Any]]],
        *,
        fixed: Collection[str] = (),
        budget_bytes: int,
        threads: int,
        half: bool = False,
        masks: Mapping[str, NDArray[np.bool_]] | None = None,
    ) -> None:
        self.graph = graph
        self.batches = batches
        self.tracks = dict(tracks)
        self.budget_bytes = budget_bytes
        self.threads = threads
        self.fixed = frozenset(fixed)
        self.half = half
        self.masks = masks
        self.position = 0
        self.kept_bytes = 0
        self._feeds: tuple[str, ...] = (graph.input,)
        self._kept: dict[str, list[Tensors]] | None = None
        self._ahead: tuple[int, dict[str, list[Tensors]]] | None = None

    def observe(
        self,
        tensor: str,
        *,
        then: int | None = None,
        exactly: bool = False,
        every: int = 1,
        nodes: Sequence[Any] = (),
    ) -> Iterator[dict[str, NDArray[np.float32]]]:
        """Give the values of `tensor` batch by batch, for every track: ``(batch, …)`` float32.

        With `then` and `exactly`, what `advance` will be called with next, fixed tracks are moved
        on in the same run; nothing else may be observed before that. Only `every` so many batches
        are looked at. `nodes` make the tensor where it is none of the network's own.
        """
        target = None if then is None else self._target(then, exactly)
        names = () if target is None else self.graph.live(target)
        wanted = {track: (tensor, *(names if track in self.fixed else ())) for track in self.tracks}
        runs = self._runs(wanted, nodes)
        ahead: dict[str, list[Tensors]] = {track: [] for track in self.fixed}
        step = every if target is None else 1  # what nobody looks at need not be read
        for index, feeds in enumerate(self._fed(step)):
            looked_at = index * step % every == 0
            values = {t: runs[t](feeds[t]) for t in (runs if looked_at else self.fixed)}
            if target is not None:
                for track, kept in ahead.items():
                    kept.append(self._packed({name: values[track][name] for name in names}))
                    self._forget(track, index)
            if looked_at:
                yield {track: found[tensor] for track, found in values.items()}
        if target is not None:
            self._ahead = (target, ahead)

    def can_advance(self, limit: int, *, exactly: bool = False) -> bool:
        """Whether `advance` would move the cut."""
        return self._target(limit, exactly) is not None

    def advance(self, limit: int, *, exactly: bool = False) -> bool:
        """Move the cut to the narrowest place after it and not beyond `limit`, if that fits.

        With `exactly` it moves to `limit` itself, if that fits. Every operator before it must have
        its final tensors. Returns whether it moved.
        """
        target = self._target(limit, exactly)
        if target is None:
            return False
        names = self.graph.live(target)
        there, kept = self._ahead or (target, {})
        if there != target:
            raise ValueError(f"observed up to {there}, but asked to advance to {target}")
        self._ahead = None
        kept = {**kept, **self._carried(names, [t for t in self.tracks if t not in kept])}
        self.position, self._feeds, self._kept = target, names, kept
        give_back(tensor for tensors in self.tracks.values() for tensor in tensors.values())
        self.kept_bytes = sum(v.nbytes for t in kept.values() for b in t for v in b.values())
        return True

    def _carried(self, names: Sequence[str], tracks: Sequence[str]) -> dict[str, list[Tensors]]:
        """The tensors of some tracks at the next cut, one session after the other."""
        alike: dict[int, list[str]] = {}
        for track in tracks:
            alike.setdefault(id(self.tracks[track]), []).append(track)
        kept: dict[str, list[Tensors]] = {track: [] for track in tracks}
        for those in alike.values():
            compute = self._run(those[0], names)
            for index, feeds in enumerate(self._fed()):
                for track in those:
                    kept[track].append(self._packed(compute(feeds[track])))
                    self._forget(track, index)
        return kept

    def fork(self, track: str, new: str, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Begin another track at the cut, with what stands there of `track`.

        Tracks with the same mapping of tensors run in the same session.
        """
        self.tracks[new] = tensors
        if self._kept is not None:
            self._kept[new] = list(self._kept[track])

    def holds(self, tensor: str) -> bool:
        """Whether `tensor` stands at the cut."""
        return self._kept is not None and tensor in self._feeds

    def rescale(
        self,
        track: str,
        tensor: str,
        gain: NDArray[np.float64],
        shift: NDArray[np.float64],
        channel_axis: int,
    ) -> None:
        """Put a gain and a shift, ``(channels,)`` each, on what is kept of `tensor` at the cut."""
        for batch in (self._kept or {})[track]:
            shape = [1] * batch[tensor].ndim
            shape[channel_axis] = -1
            batch[tensor] *= gain.astype(np.float32).reshape(shape)
            batch[tensor] += shift.astype(np.float32).reshape(shape)

    def _forget(self, track: str, index: int) -> None:
        """Drop a batch at the old cut: never two cuts in memory."""
        if self._kept is not None:
            self._kept[track][index] = {}

    def _target(self, limit: int, exactly: bool) -> int | None:
        if not exactly or limit <= self.position:
            return self._narrowest(limit)
        size = self.graph.live_bytes(limit)
        fits = size is not None and size * self._copies() <= self.budget_bytes
        return limit if fits and len(self.tracks) == 1 else self._narrowest(limit - 1)

    def _copies(self) -> float:
        """How many times a sample's tensors are kept."""
        return len(self.batches) * len(self.tracks) / (2 if self.half else 1)

    def _packed(self, values: Tensors) -> Tensors:
        if self.half:
            return {name: halved(value) for name, value in values.items()}
        # What a run returns stands in its session's arena, which would stay as long as it does.
        return {n: value if value.flags.owndata else value.copy() for n, value in values.items()}

    def _unpacked(self, values: Tensors) -> Tensors:
        return {name: widened(value) for name, value in values.items()} if self.half else values

    def _narrowest(self, limit: int) -> int | None:
        count = self._copies()
        sizes = {p: self.graph.live_bytes(p) for p in range(self.position + 1, limit + 1)}
        fitting = [
            (size, -p)
            for p, size in sizes.items()
            if size is not None and size * count <= self.budget_bytes
        ]
        return -min(fitting)[1] if fitting else None

    def _fed(self, step: int = 1) -> Iterator[Mapping[str, Tensors]]:
        """What stands at the cut, of every `step`-th batch."""
        if self._kept is None:
            for batch in self.batches if step == 1 else self.batches.every(step):
                yield {track: {self.graph.input: batch} for track in self.tracks}
            return
        for index in range(0, len(next(iter(self._kept.values()))), step):
            yield {track: self._unpacked(kept[index]) for track, kept in self._kept.items()}

    def _runs(
        self, wanted: Mapping[str, Sequence[str]], nodes: Sequence[Any] = ()
    ) -> dict[str, Callable[[Tensors], Tensors]]:
        """What computes the tensors wanted of each track from what stands at the cut."""
        made: dict[tuple[int, Sequence[str]], Callable[[Tensors], Tensors]] = {}
        for track, outputs in wanted.items():
            key = (id(self.tracks[track]), outputs)
            if key not in made:
                made[key] = self._run(track, outputs, nodes)
        return {track: made[id(self.tracks[track]), outputs] for track, outputs in wanted.items()}

    def _run(
        self, track: str, outputs: Sequence[str], nodes: Sequence[Any] = ()
    ) -> Callable[[Tensors], Tensors]:
        """What computes `outputs` from what stands at the cut."""
        wanted = [name for name in dict.fromkeys(outputs) if name not in self._feeds]
        given = [name for name in outputs if name in self._feeds]
        if not wanted:
            return lambda feeds: {name: feeds[name] for name in given}
        session = self.graph.session(
            self._feeds, wanted, self.tracks[track], self.threads, nodes, masks=self.masks
        )
        used = [value.name for value in session.get_inputs()]

        def compute(feeds: Tensors) -> Tensors:
            values = run(session, wanted, {name: feeds[name] for name in used})
            return {name: feeds[name] for name in given} | dict(zip(wanted, values, strict=True))

        return compute
