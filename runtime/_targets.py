"""What pruned layers are to imitate, written down while the dense network is watched.

To fit a layer again takes what the dense network says there, at some positions of the samples. The
pass that watches it has all of that in its hands: no second run of the dense network beside the
pruned one is needed, and nothing of it is kept between layers. Where the readers of a site
are linear in what stands at each position, which is so for 1×1 convolutions and linear layers,
their own outputs say all that their weights can be fitted to, and are narrower than the site.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ._external import FloatArray
from ._graph import Graph
from ._half import halved, widened
from ._plan import Site, channel_axis, sites_reading
from .artifact import Operator
from .statistics import CrossMoments, rows

__all__ = [
    "ROWS_FOR_WEIGHTS",
    "TARGETS_SHARE",
    "SiteMoments",
    "Taker",
    "Target",
    "Targets",
    "targets_of",
]

# Positions of one sample are alike: more of them cost and teach little.
ROWS_FOR_WEIGHTS = 32  # twice as many gave the same agreement on development users
_ROWS_PER_UNIT = 40  # a layer of few units has seen enough before the samples are through
_MOST_SAMPLES = 1000  # to go over again and again: of more there are fewer rows of each
_FEWEST_ROWS = 8
_FEWEST_PER_UNIT = 2  # however little memory there is, as long as the samples hold so many
TARGETS_SHARE = 5 / 16  # the part of the memory for activations that targets may take
_BYTES = 2
_BLOCK_BYTES = 1_000_000


class Taker(Protocol):
    """Takes tensors out of the pass that watches the dense network."""

    @property
    def outputs(self) -> Sequence[str]:
        """Names of the tensors that it takes."""
        ...

    @property
    def nodes(self) -> Sequence[Any]:
        """Nodes that make those of them which are none of the network's own."""
        ...

    def take(self, place: int, first: int, values: Mapping[str, FloatArray]) -> None:
        """Take in batch number `place`, which begins with sample number `first`."""
        ...


@dataclass(frozen=True)
class Target:
    """What the readers of one site are fitted to.

    Attributes:
        site: where they read.
        tensors: the readers' outputs where `own`; else the site's own tensor.
        own: whether they are.
        every: how many batches lie between those that the fit looks at.
    """

    site: Site
    tensors: tuple[str, ...]
    own: bool
    every: int


def targets_of(graph: Graph, groups: Collection[str], samples: int) -> list[Target]:
    """Targets of the sites that hold units of any of `groups`, in the order in which they run.

    Of a long stream no target is taken of every batch; then all are taken of some of the same.
    """
    found = [_target(graph, site, samples) for site in sites_reading(graph, groups)]
    least = min((target.every for target in found), default=1)
    least = max(least, -(-samples // _MOST_SAMPLES))
    return [replace(target, every=max(target.every // least, 1) * least) for target in found]


def _target(graph: Graph, site: Site, samples: int) -> Target:
    channels = len(site.units)
    outputs = sum(operator.out_channels for operator in site.operators)
    # What is taught to the head is carried over by how its input's channels are mixed.
    own = outputs < channels and all(
        _at_each_position(graph, site, operator) for operator in site.operators
    )
    names = tuple(operator.output for operator in site.operators) if own else (site.tensor,)
    wanted = -(-channels * _ROWS_PER_UNIT // ROWS_FOR_WEIGHTS)
    return Target(site, names, own, max(1, samples // max(wanted, 1)))


def _at_each_position(graph: Graph, site: Site, operator: Operator) -> bool:
    """Whether it makes each position of its output of the same one of its input, and is no head."""
    info = graph.artifact.info
    if operator.name == info.head or operator.in_channels != len(site.units):
        return False
    weight = graph.artifact.tensors[operator.weight]
    pointwise = weight.size == operator.in_channels * operator.out_channels
    axis = channel_axis(operator)
    before = _positions(graph, site.tensor, axis)
    return pointwise and before is not None and before == _positions(graph, operator.output, axis)


def _positions(graph: Graph, tensor: str, axis: int) -> tuple[int | None, ...] | None:
    """The sizes of a tensor but its channels and the batch; None where one is unknown."""
    sizes = list(graph.shapes.get(tensor, (None, None)))[1:]
    if None in sizes:
        return None
    del sizes[axis - 1 if axis > 0 else axis]
    return tuple(sizes)


class Targets:
    """Rows of what `targets` name, of the batches that their fits look at.

    Args:
        graph: the network.
        targets: what to write down.
        samples: how many there are at the most.
        budget_bytes: what may be written at the most; fewer rows of each sample where it is short,
            and of fewer samples where that is not enough.

    Attributes:
        targets: as given, of fewer batches where the memory is short.
        step: how many batches lie between those that any of them is taken of.
        limit: rows of a sample.
    """

    def __init__(
        self, graph: Graph, targets: Sequence[Target], samples: int, budget_bytes: int
    ) -> None:
        names = {name: target for target in targets for name in target.tensors}
        widths = {o.output: o.out_channels for t in targets for o in t.site.operators}
        row = sum(
            _BYTES * widths.get(name, len(target.site.units)) // target.every
            for name, target in names.items()
            if len(graph.shapes.get(name, (1, 1, 1))) > 2  # others have one row a sample
        )
        room = budget_bytes / max(samples * row, 1)
        self.limit = int(np.clip(room, _FEWEST_ROWS, ROWS_FOR_WEIGHTS))
        fewer = math.ceil(_FEWEST_ROWS / max(room, 1 / max(samples, 1)))
        widest = max((len(target.site.units) for target in targets), default=1)
        fewer = max(1, min(fewer, samples * _FEWEST_ROWS // (_FEWEST_PER_UNIT * widest)))
        self.targets = tuple(replace(target, every=target.every * fewer) for target in targets)
        self.step = min((target.every for target in self.targets), default=1)
        self._every = {name: target.every * fewer for name, target in names.items()}
        self._axes = {name: target.site.channel_axis for name, target in names.items()}
        made = {n: graph.picked_nodes(n, self._axes[n], self.limit) for n in names}
        self._picked = {name: picked for name, (picked, _) in made.items()}
        self.outputs: Sequence[str] = tuple(self._picked.values())
        self.nodes: Sequence[Any] = tuple(node for _, nodes in made.values() for node in nodes)
        self._rows = {name: _Rows() for name in names}

    def take(self, place: int, first: int, values: Mapping[str, FloatArray]) -> None:
        """See `Taker`."""
        for name, every in self._every.items():
            if place % every == 0:
                found = rows(values[self._picked[name]], self._axes[name], self.limit)
                self._rows[name].append(halved(found))

    def said(self, target: Target, number: int) -> NDArray[np.float32]:
        """Rows of the `number`-th batch that was looked at, tensors side by side; float32."""
        parts = [widened(self._rows[name].batches[number]) for name in target.tensors]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


class _Rows:
    """Batches of rows side by side in large blocks: small arrays would leave holes in the heap."""

    def __init__(self) -> None:
        self.batches: list[NDArray[Any]] = []
        self._left: NDArray[Any] | None = None

    def append(self, values: NDArray[Any]) -> None:
        """Copy a batch."""
        if self._left is None or len(self._left) < len(values):
            count = max(len(values), _BLOCK_BYTES // max(values.itemsize * values.shape[1], 1))
            self._left = np.empty((count, values.shape[1]), values.dtype)
        mine, self._left = self._left[: len(values)], self._left[len(values) :]
        mine[:] = values
        self.batches.append(mine)


class SiteMoments:
    """Moments of what the dense network makes of some samples, at sites.

    Args:
        graph: the network.
        sites: where.
        step: how many samples lie between those that count.
        limit: rows of a sample.

    Attributes:
        moments: by tensor.
    """

    def __init__(self, graph: Graph, sites: Sequence[Site], step: int, limit: int) -> None:
        self.moments = {site.tensor: CrossMoments(len(site.units), single=True) for site in sites}
        self._axes = {site.tensor: site.channel_axis for site in sites}
        self._step, self._limit = step, limit
        made = {t: graph.picked_nodes(t, axis, limit) for t, axis in self._axes.items()}
        self._picked = {tensor: picked for tensor, (picked, _) in made.items()}
        self.outputs: Sequence[str] = tuple(self._picked.values())
        self.nodes: Sequence[Any] = tuple(node for _, nodes in made.values() for node in nodes)

    def take(self, place: int, first: int, values: Mapping[str, FloatArray]) -> None:
        """See `Taker`."""
        size = len(next(iter(values.values())))
        mine = slice(-first % self._step, size, self._step)
        if mine.start >= size:
            return
        for tensor, axis in self._axes.items():
            self.moments[tensor].update(rows(values[self._picked[tensor]][mine], axis, self._limit))

    def settle(self) -> Mapping[str, CrossMoments]:
        """The moments, with no rows left to be taken in: these would take as much memory again."""
        for one in self.moments.values():
            one.merge()
        return self.moments
