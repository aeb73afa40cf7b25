"""Dependency analysis: which unit does each element of each tensor carry?

Three lines that hold the idea. ``conv1`` writes channels 1 2 3, ``relu`` passes 1 2 3, ``conv2``
writes 4 5 6, the residual ``Add`` of both ties 1=4, 2=5, 3=6, and ``flatten`` of a 2 × 2 map hands
1 1 1 1 2 2 2 2 3 3 3 3 to the classifier: so pruning unit 1 removes its first four columns.

An operator without a rule freezes what it reads, and says so; it never leads to a wrong edit.
What mixes channels (a softmax, a dot product of query and key) ties them into one unit: an
attention head is pruned whole, because nothing less leaves the other heads as they are.

Units can be removed only if that leaves every tensor a box: their numbers may change along one
axis of a tensor and no other. `analyse` freezes what would leave holes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import onnx

from ._graph import Graph, subgraphs
from ._units import Ids, Units, compressed

__all__ = ["Dense", "Join", "Layout", "analyse", "describe"]

Kind = Literal["dense", "grouped", "recurrent", "embedding"]


@dataclass(frozen=True)
class Dense:
    """An operator with weights: the units that it reads, channel by channel, and writes.

    ``dense`` and ``recurrent`` operators carry the masks of what they read; a ``recurrent`` one
    those of what it writes as well, because it reads that one step later. A ``grouped``
    convolution works within the units that it stands in, an ``embedding`` only writes.
    `weight` and `bias` are places of constants: a node's name and which of its inputs it is.
    """

    node: onnx.NodeProto
    kind: Kind
    reads: Ids
    writes: Ids
    in_axis: int | None
    out_axis: int
    output: str
    weight: tuple[str, int]
    bias: tuple[str, int] | None = None

    def parameters(self, nodes: Mapping[str, onnx.NodeProto]) -> list[str]:
        """Names of its weight, recurrence and bias; `nodes` are the network's, by name."""
        places = [self.weight, *([self.bias] if self.bias else [])]
        places += [(self.node.name, 2)] if self.kind == "recurrent" else []
        return [nodes[name].input[place] for name, place in places]


@dataclass(frozen=True)
class Join:
    """A node that passes on or combines activations channel by channel."""

    node: onnx.NodeProto
    ids: Ids


@dataclass
class Layout:
    """What the analysis knows so far, and in the end its result.

    ``ids`` holds the units of each activation; ``cuts`` for constants, by node name and input
    place, the units along those of their axes that shrink when units are removed.
    """

    graph: Graph
    units: Units = field(default_factory=Units)
    ids: dict[str, Ids] = field(default_factory=dict)
    dense: list[Dense] = field(default_factory=list)
    passed: list[Join] = field(default_factory=list)
    joins: list[Join] = field(default_factory=list)
    summing: set[str] = field(default_factory=set)
    """Names of the products of two activations that sum over units, as attention's do."""
    cuts: dict[tuple[str, int], dict[int, Ids]] = field(default_factory=dict)
    frozen: dict[int, str] = field(default_factory=dict)
    """After the analysis: for each class that cannot be pruned, by its root, why."""
    refused: dict[str, str] = field(default_factory=dict)
    """For each node that is not understood, by its name, why: its own weights stay as well."""

    @cached_property
    def readers(self) -> Mapping[str, list[onnx.NodeProto]]:
        """The nodes that read each tensor."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.nodes:
            for name in dict.fromkeys(node.input):
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def nodes(self) -> Mapping[str, onnx.NodeProto]:
        """The nodes by name."""
        return {node.name: node for node in self.graph.nodes}

    def sizes(self, name: str) -> tuple[int, ...]:
        """Sizes of an activation or a constant, for a batch of three."""
        if name in self.graph.constants:
            return self.graph.constants[name].shape
        return self.graph.sizes_at_three[name]

    def rank(self, name: str) -> int:
        """Number of axes of an activation or a constant."""
        return len(self.sizes(name))

    def dynamic(self, name: str, axis: int) -> bool:
        """Whether the size of this axis depends on the batch."""
        return name in self.graph.shapes and self.graph.shapes[name][axis] is None

    def known(self, node: onnx.NodeProto) -> bool:
        """Whether the rank of every activation that the node reads and writes is known."""
        names = [*self.graph.activations(node), *(name for name in node.output if name)]
        return all(name in self.graph.shapes for name in names)

    def full(self, name: str) -> Ids:
        """Units of an activation, one for each element, for a batch of three."""
        return np.broadcast_to(self.ids[name], self.sizes(name))

    def put(self, node: onnx.NodeProto, name: str, ids: Ids) -> bool:
        """Set the units of a tensor that `node` writes; freeze what would cut into the batch.

        An axis of the batch may carry units beside it, as (batch · heads, time, size) does.
        """
        ids = compressed(ids)
        cuts = (
            self.dynamic(name, axis) and not _beside_batch(ids, axis) for axis in range(ids.ndim)
        )
        if any(cuts):
            self.units.freeze(ids, f"{describe(node)} lines it up with the batch")
            ids = np.zeros((1,) * ids.ndim, np.int64)
        self.ids[name] = ids
        return bool(ids.any())

    def batched(self, name: str, axis: int) -> bool:
        """Whether units stand beside the batch on an axis."""
        return self.ids[name].shape[axis] > 1 and self.dynamic(name, axis)

    def follow(self, node: onnx.NodeProto, ids: Ids) -> None:
        """Set the units of a node's first output, which follow from its inputs."""
        if self.put(node, node.output[0], ids):
            self.passed.append(Join(node, self.ids[node.output[0]]))

    def along(self, name: str, axis: int) -> Ids | None:
        """Units along one axis, written out; `None` if they change along another axis too."""
        ids = self.ids[name]
        axis %= max(ids.ndim, 1)
        if ids.ndim == 0 or any(n > 1 for k, n in enumerate(ids.shape) if k != axis):
            return None
        return np.broadcast_to(ids.reshape(-1), self.sizes(name)[axis : axis + 1])

    def tied(self, node: onnx.NodeProto, ids: Ids, axes: Iterable[int]) -> Ids:
        """Make one unit of all along `axes`, which `node` mixes."""
        return self.units.tie_along(ids, axes, f"{describe(node)} mixes it")

    def cut(self, node: onnx.NodeProto, place: int, axes: Mapping[int, Ids]) -> None:
        """Note the units along axes of the constant at an input of `node`."""
        self.cuts[node.name, place] = dict(axes)

    def freeze(self, node: onnx.NodeProto, why: str) -> None:
        """Freeze all that a node reads; what it writes cannot be pruned."""
        for name in self.graph.activations(node):
            if name in self.ids:
                self.units.freeze(self.ids[name], f"{describe(node)} {why}")
        self.refused[node.name] = f"{describe(node)} {why}"
        self.pass_nothing(node)

    def pass_nothing(self, node: onnx.NodeProto) -> None:
        """What the node writes carries no units."""
        for name in node.output:
            if name:
                rank = len(self.graph.shapes.get(name, ()))
                self.ids[name] = np.zeros((1,) * rank, np.int64)

    def resolved(self, ids: Ids) -> Ids:
        """After the analysis: roots of what can be pruned, 0 for all else."""
        return self._table[ids]

    def resolve(self) -> None:
        """Fix the outcome: see `resolved`."""
        roots = self.units.roots(np.arange(len(self.units)))
        stuck = np.zeros(len(roots), bool)
        stuck[list(self.frozen)] = True
        self._table: Ids = np.where(stuck[roots], 0, roots)


def _beside_batch(ids: Ids, axis: int) -> bool:
    """Whether the units on an axis for a batch of three are the same for each of the three.

    They are where the batch comes first, 1 2 1 2 1 2, and where it comes last, 1 1 1 2 2 2.
    """
    rows = np.moveaxis(ids, axis, 0).reshape(ids.shape[axis], -1)
    if len(rows) == 1:
        return True
    if len(rows) % 3:
        return False
    first, last = rows.reshape(3, -1), rows.reshape(-1, 3, rows.shape[1])
    return bool((first == first[:1]).all() or (last == last[:, :1]).all())


def describe(node: onnx.NodeProto) -> str:
    """Name a node for the user."""
    return f"{node.op_type} {node.name or node.output[0]!r}"


def analyse(graph: Graph) -> Layout:
    """Follow the units through a graph whose shapes are known and whose nodes have unique names."""
    layout = Layout(graph)
    for item in graph.inputs:
        layout.ids[item.name] = np.zeros((1,) * len(item.shape), np.int64)
    for node in graph.nodes:
        _apply_rule(layout, node)
    for name in graph.outputs:
        if name in layout.ids:
            layout.units.freeze(layout.ids[name], "network output")
    _freeze_holes(layout)
    return layout


def _apply_rule(layout: Layout, node: onnx.NodeProto) -> None:
    from ._rules import PRODUCERS, RULES

    rule = RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    reads = [layout.ids[name] for name in layout.graph.activations(node)]
    if subgraphs(node):
        layout.freeze(node, "holds a sub-graph, which is not looked into")
    elif rule is None:
        layout.freeze(node, "is not understood channel by channel")
    elif not layout.known(node):
        layout.freeze(node, "has no known shape")
    # A node that reads no units: only one with weights can begin some.
    elif node.op_type in PRODUCERS or any(ids.any() for ids in reads):
        rule(layout, node)
    else:
        layout.pass_nothing(node)


def _freeze_holes(layout: Layout) -> None:
    """Freeze, until nothing changes, the units whose removal would not leave every tensor a box."""
    layout.frozen = dict(layout.units.reasons())
    layout.frozen.pop(0, None)
    layout.resolve()
    carriers = [(name, ids) for name, ids in layout.ids.items() if ids.any()]
    while True:
        found = _holes(layout, carriers)
        if not found:
            return
        layout.frozen |= {root: why for root, why in found.items() if root not in layout.frozen}
        layout.resolve()


def _holes(layout: Layout, carriers: Sequence[tuple[str, Ids]]) -> dict[int, str]:
    mixers, found = layout.units.mixers(), dict[int, str]()
    for name, raw in carriers:
        ids = compressed(layout.resolved(raw))
        varying = sum(size > 1 for size in ids.shape)
        if varying == 1 or not ids.any():
            continue
        why = f"its removal would leave holes in {name!r}" if varying else "it has one unit"
        for root in np.unique(ids[ids > 0]).tolist():
            found.setdefault(root, why if varying else mixers.get(root, why))
    return found
