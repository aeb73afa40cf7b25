"""From drawn choices to a whole model: inputs, steps, outputs, and nothing that is not used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import TensorProto, helper

from . import (  # noqa: F401 - importing them enters their blocks into the catalog
    activations,
    convs,
    cuts,
    dense,
    exotic,
    joins,
    layouts,
    norms,
    recurrent,
    sequences,
    space,
)
from .builder import (
    CATALOG,
    MOST_CHANNELS,
    VOCABULARY,
    Entry,
    Graph,
    Layout,
    Pick,
    Shared,
    Style,
    Value,
)
from .dense import linear
from .joins import added, as_vector, bring, concat, project
from .weights import width

RESERVE = 6  # nodes that the head may take
ROLE_WEIGHTS = {
    "dense": 5,
    "activation": 2,
    "norm": 2,
    "join": 2,
    "gate": 2,
    "cut": 2,
    "constant": 1,
    "space": 2,
    "reshape": 2,
    "attention": 2,
    "recurrent": 3,
    "sequence": 1,
    "softmax": 1,
    "exotic": 2,
}
ROLES = tuple(role for role, times in ROLE_WEIGHTS.items() for _ in range(times))


@dataclass(frozen=True)
class Step:
    """One block: its role, which block on which value, and how it is written."""

    role: str
    choice: int = 0
    detail: int = 0


@dataclass(frozen=True)
class Frame:
    """What surrounds the steps: numbers for the weights, the spelling, the inputs, the outputs."""

    opset: int = 17
    code: int = 0

    BYTES: ClassVar[int] = 18

    @property
    def codes(self) -> tuple[int, int, int, int]:
        weights, rest = self.code % 2**16, self.code >> 16
        return weights, rest % 2**32, (rest >> 32) % 2**48, rest >> 80


def build_model(frame: Frame, steps: list[Step], max_nodes: int = 40) -> onnx.ModelProto:
    """Build the model that some choices stand for. Zeros and few steps mean a simple model."""
    seed, style, entrance, exits = frame.codes
    pick, rng = Pick(entrance), np.random.default_rng(seed)
    g = Graph(frame.opset, rng, Style.read(Pick(style)))
    inputs = _start(g, pick)
    second = g.values[1] if len(inputs) == 2 else None
    when = pick.below(4)
    if pick.below(3):  # attention takes many nodes and seldom finds room later
        steps = sorted(steps, key=lambda step: step.role != "attention")
    if pick.below(3):  # most networks start with a layer of their own
        steps = [Step("dense", detail=pick.rest), *steps]
    for number, step in enumerate(steps):
        if second and number == when:
            _meet(g, second, pick, max_nodes - RESERVE)
        _take(g, step, max_nodes - RESERVE)
    if second and when >= len(steps):
        _meet(g, second, pick, max_nodes - RESERVE)
    outputs = _outputs(g, {value.name for value in inputs}, Pick(exits), max_nodes)
    return _model(g, inputs, outputs)


# What stands at the entrance.


def _start(g: Graph, pick: Pick) -> list[Any]:
    """Enter one input or two."""
    first = _first_value(pick)
    common = ("twin", "vector", "sequence")
    kind = pick.of(*["none"] * 8, *common, *common, "tokens", "tokens")
    info = [_info("input", first.shape)]
    if kind == "tokens":
        return [*info, _enter_tokens(g, first, pick)]
    others = {
        "twin": Value("input.2", first.layout, first.shape),
        "vector": Value("input.2", Layout.FLAT, (pick.of(6, 4, 10),)),
        "sequence": Value("input.2", Layout.LAST, (pick.of(4, 3, 7), pick.of(6, 4, 9))),
    }
    g.values = [first, *([others[kind]] if kind in others else [])]
    return [_info(value.name, value.shape) for value in g.values]


def _first_value(pick: Pick) -> Value:
    kinds = {"picture": 12, "signal": 2, "sequence": 6, "features": 1, "volume": 1}
    kind = pick.of(*[name for name, times in kinds.items() for _ in range(times)])
    side = pick.of(6, 8, 4, 12, 5)
    layout, shape = {
        "picture": (Layout.FIRST, (pick.of(3, 1, 4, 2), side, pick.of(side, side, 7))),
        "signal": (Layout.FIRST, (pick.of(4, 1, 6), side)),
        "sequence": (Layout.LAST, (pick.of(4, 3, 6, 8), pick.of(6, 8, 4, 12, 5))),
        "features": (Layout.FLAT, (pick.of(8, 6, 12, 16),)),
        "volume": (Layout.FIRST, (pick.of(2, 1), 4, 4, pick.of(4, 5))),
    }[kind]
    return Value("input", layout, shape)


def _enter_tokens(g: Graph, first: Value, pick: Pick) -> Any:
    time, size = pick.of(4, 3, 6), pick.of(6, 8, 4)
    table = g.const(g.normal(1.0, VOCABULARY, size))
    name = g.op("Gather", table, "tokens", axis=None if g.style.terse else 0)
    rows = Value(name, Layout.LAST, (time, size))
    g.values = [first, rows]
    g.shared.append(Shared("Gather", table, "", rows, rows))
    return _info("tokens", (time,), TensorProto.INT64)


def _info(name: str, shape: tuple[int, ...], dtype: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, dtype, ["batch", *shape])


def _meet(g: Graph, second: Value, pick: Pick, most: int) -> None:
    """Let the second input into the branch that is being built, or drop it for lack of room."""
    g.values.remove(second)
    undo, x = g.mark(), g.values[-1]
    if x.channels > MOST_CHANNELS:
        x = g.keep(linear(g, x, width(pick), pick))
    g.keep(_together(g, x, second, pick))
    if g.size > most:
        undo()
    else:  # as the oldest: steps start from the newest
        g.values.insert(0, second)


def _together(g: Graph, x: Value, other: Value, pick: Pick) -> Value:
    """Join two branches: channel by channel where their space is the same, or by a mean."""
    small = other.channels <= MOST_CHANNELS
    if not small or (x.layout, x.space) != (other.layout, other.space) or pick.yes():
        return bring(g, x, other, pick)
    if other.channels + x.channels <= MOST_CHANNELS and pick.of(True, False):
        return concat(g, x, other)
    if other.shape == x.shape and pick.of(True, False):
        return added(g, x, other)
    return added(g, x, project(g, other, x.channels, pick))


# What stands between.


def _take(g: Graph, step: Step, most: int) -> None:
    """Add the block that a step stands for, unless the graph would get too large."""
    pick = Pick(step.choice)
    found = _source(g, step.role, pick)
    if found is None:
        return
    x, entries = found
    undo, entry = g.mark(), pick.of(*entries)
    y = g.keep(entry.build(g, x, Pick(step.detail)))
    g.blocks[y.name] = entry.name
    if g.size > most:
        undo()


def _source(g: Graph, role: str, pick: Pick) -> tuple[Value, list[Entry]] | None:
    """The newest value, or now and then an older one, and which blocks of the role fit it."""
    newest = g.values[::-1]
    if pick.yes(4):
        newest = newest[pick.below(len(newest)) :]
    for x in newest:
        entries = [e for e in CATALOG if e.role == role and e.applies(g, x)]
        if entries:
            return x, entries
    return None


# What stands at the exit.


def _outputs(g: Graph, inputs: set[str], pick: Pick, max_nodes: int) -> list[Value]:
    """Pick one value to three: the newest, then what nothing reads, then any."""
    if pick.below(3):
        _gather(g, pick, max_nodes - RESERVE)
    main = _head(g, g.values[-1], pick, max_nodes)
    if main.name in inputs:
        main = project(g, main, 4, pick)
    others = [v for v in _unread_first(g, inputs) if v.name != main.name]
    return [main, *others[: pick.of(0, 0, 0, 1, 1, 2)]]


def _unread_first(g: Graph, inputs: set[str]) -> list[Value]:
    read = {name for node in g.nodes for name in node.input}
    inner = [v for v in reversed(g.values) if v.name not in inputs]
    return sorted(inner, key=lambda v: v.name in read)


def _gather(g: Graph, pick: Pick, most: int) -> None:
    """Let branches that nothing reads come back to the newest value, as long as there is room."""
    read = {name for node in g.nodes for name in node.input}
    for value in g.values[-2::-1]:
        if value.name in read or g.values[-1].channels > MOST_CHANNELS:
            continue
        undo = g.mark()
        g.keep(_together(g, g.values[-1], value, pick))
        if g.size > most:
            undo()


def _head(g: Graph, x: Value, pick: Pick, max_nodes: int) -> Value:
    undo = g.mark()
    how = pick.of("none", "classifier", "classifier", "probabilities", "projection")
    y = x
    if how in ("classifier", "probabilities"):
        y = linear(g, as_vector(g, x, pick), pick.of(4, 3, 10), pick)
    if how == "probabilities":
        y = y.become(g.op("Softmax", y.name, axis=pick.of(1, -1)))
    if how == "projection":
        y = project(g, x, pick.of(4, 2, 6), pick)
    if g.size <= max_nodes:
        return y
    undo()
    return x


def _model(g: Graph, inputs: list[Any], outputs: list[Value]) -> onnx.ModelProto:
    nodes, used = _live(g.nodes, {value.name for value in outputs})
    graph = helper.make_graph(
        nodes,
        "model",
        [value for value in inputs if value.name in used],
        [_info(value.name, value.shape) for value in outputs],
        [tensor for tensor in g.constants if tensor.name in used],
    )
    opsets = [helper.make_opsetid("", g.opset)]
    model = helper.make_model(graph, ir_version=10, opset_imports=opsets, producer_name="tests")
    written = {name for node in nodes for name in node.output}
    model.doc_string = " ".join(b for name, b in g.blocks.items() if name in written)
    return onnx.shape_inference.infer_shapes(model) if g.style.value_info else model


def _live(nodes: list[Any], wanted: set[str]) -> tuple[list[Any], set[str]]:
    """The nodes that contribute to the wanted tensors, and the names of all that is read."""
    used, kept = set(wanted), []
    for node in reversed(nodes):
        if used.isdisjoint(node.output):
            continue
        kept.append(node)
        used |= set(node.input)
        for attribute in node.attribute:
            used |= {name for inner in attribute.g.node for name in inner.input}
    return kept[::-1], used
