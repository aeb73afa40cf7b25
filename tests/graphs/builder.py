"""The graph under construction: values that know their shape and spread, constants, nodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]
T = TypeVar("T")

MOST_CHANNELS = 24
MOST_SPACE = 12
VOCABULARY = 10  # words; every integer input holds indices below this
SMALL_CONSTANT = 32  # elements; what tools write as Constant nodes, or share when it is equal


class Layout(Enum):
    """Where the channels are: (N, C), (N, C, *space), (N, *space, C)."""

    FLAT = "flat"
    FIRST = "first"
    LAST = "last"


@dataclass(frozen=True)
class Value:
    """A float tensor. The shape leaves out the batch; mean and variance are estimates."""

    name: str
    layout: Layout
    shape: tuple[int, ...]
    mean: float = 0.0
    var: float = 1.0

    @property
    def channels(self) -> int:
        return self.shape[0] if self.layout is Layout.FIRST else self.shape[-1]

    @property
    def space(self) -> tuple[int, ...]:
        return self.shape[1:] if self.layout is Layout.FIRST else self.shape[:-1]

    @property
    def axis(self) -> int:
        """The axis of the channels, counted with the batch."""
        return 1 if self.layout is Layout.FIRST else len(self.shape)

    @property
    def space_axes(self) -> list[int]:
        """The axes of space, counted with the batch."""
        return [axis for axis in range(1, len(self.shape) + 1) if axis != self.axis]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def power(self) -> float:
        return self.mean**2 + self.var

    def become(self, name: str, mean: float | None = None, var: float | None = None) -> Value:
        """Another tensor of the same shape."""
        mean = self.mean if mean is None else mean
        return replace(self, name=name, mean=mean, var=self.var if var is None else var)

    def resized(self, name: str, *, channels: int = 0, space: Sequence[int] | None = None) -> Value:
        """Another tensor with the same spread and other sizes."""
        channels, space = channels or self.channels, self.space if space is None else tuple(space)
        first = self.layout is Layout.FIRST
        shape = (channels, *space) if first else (*space, channels)
        return replace(self, name=name, shape=shape)


class Pick:
    """Small choices read off one drawn number; 0, what hypothesis shrinks to, means the first."""

    def __init__(self, code: int) -> None:
        self._code = code

    def below(self, count: int) -> int:
        self._code, chosen = divmod(self._code, max(count, 1))
        return chosen

    @property
    def rest(self) -> int:
        """What is left of the number, for another to read choices off."""
        return self._code

    def of(self, *options: T) -> T:
        return options[self.below(len(options))]

    def yes(self, one_in: int = 2) -> bool:
        return self.below(one_in) == one_in - 1


@dataclass(frozen=True)
class Style:
    """Habits of the tool that writes the graph."""

    constants: str = "initializers"  # or "small nodes", "nodes"
    names: str = "plain"  # or "torch", "numbers"
    shared_constants: bool = False  # equal small constants are written once
    terse: bool = False  # attributes that have their default are left out
    value_info: bool = False

    @staticmethod
    def read(pick: Pick) -> Style:
        return Style(
            pick.of("initializers", "small nodes", "nodes"),
            pick.of("plain", "torch", "numbers"),
            pick.yes(),
            pick.yes(),
            pick.yes(),
        )


@dataclass(frozen=True)
class Shared:
    """A weight that a later operator may read again."""

    kind: str  # the operator
    weight: str
    bias: str
    source: Value
    result: Value
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass
class Graph:
    """Nodes and constants so far. `values` are what later blocks may start from."""

    opset: int
    rng: np.random.Generator
    style: Style = Style()
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    shared: list[Shared] = field(default_factory=list)
    blocks: dict[str, str] = field(default_factory=dict)  # which block wrote a value
    batches: dict[tuple[str, str], str] = field(default_factory=dict)
    count: int = 0
    _equal: dict[Any, str] = field(default_factory=dict)

    def mark(self) -> Callable[[], None]:
        """Return what puts the graph back into its present state."""
        lists: tuple[list[Any], ...] = (self.nodes, self.constants, self.values, self.shared)
        sizes = [len(items) for items in lists]
        equal, batches = dict(self._equal), dict(self.batches)

        def rollback() -> None:
            for items, size in zip(lists, sizes, strict=True):
                del items[size:]
            self._equal, self.batches = equal, batches

        return rollback

    @property
    def size(self) -> int:
        """How many nodes there are, besides Constant."""
        return sum(node.op_type != "Constant" for node in self.nodes)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of one output and return the output's name."""
        return self.many(kind, inputs, 1, **attributes)[0]

    def many(self, kind: str, inputs: Iterable[str], outputs: int, **attributes: Any) -> list[str]:
        """Add a node and return the names of its outputs."""
        name, tensor = self._names(kind)
        names = [tensor if not i else f"{tensor}.{i}" for i in range(outputs)]
        given = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=name, **given))
        return names

    def const(self, array: Any, *, dtype: Any = np.float32) -> str:
        """Add a constant and return its name."""
        array = np.asarray(array, dtype)
        small = array.size <= SMALL_CONSTANT
        key = (array.dtype.str, array.shape, array.tobytes()) if small else None
        if self.style.shared_constants and key in self._equal:
            return self._equal[key]
        as_node = self.style.constants == "nodes" or (
            small and self.style.constants != "initializers"
        )
        name = self._constant_node(array) if as_node else self._initializer(array)
        if key is not None:
            self._equal[key] = name
        return name

    def ints(self, *values: int) -> str:
        """Add a list of integers, as axes, shapes and indices are written."""
        return self.const(values, dtype=np.int64)

    def keep(self, value: Value) -> Value:
        """Let later blocks start from this value."""
        self.values.append(value)
        return value

    def _names(self, kind: str) -> tuple[str, str]:
        self.count += 1
        low = f"{kind.lower()}_{self.count}"
        return {
            "plain": (low, f"{low}_out"),
            "torch": (f"/{low}/{kind}", f"/{low}/{kind}_output_0"),
            "numbers": ("", str(self.count)),
        }[self.style.names]

    def _initializer(self, array: Array) -> str:
        self.count += 1
        name = f"{'onnx::' if self.style.names == 'numbers' else 'c.'}{self.count}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def _constant_node(self, array: Array) -> str:
        if array.dtype == np.int64 and array.ndim == 1 and self.style.terse:
            return self.op("Constant", value_ints=array.tolist())
        if array.dtype == np.float32 and array.ndim == 0 and self.style.terse:
            return self.op("Constant", value_float=float(array))
        return self.op("Constant", value=numpy_helper.from_array(array))

    def uniform(self, low: float, high: float, *shape: int) -> Array:
        return self.rng.uniform(low, high, shape).astype(np.float32)

    def normal(self, std: float, *shape: int) -> Array:
        return (std * self.rng.standard_normal(shape)).astype(np.float32)

    def per_channel(self, x: Value, array: Array) -> Array:
        """Shape one number a channel so that it broadcasts over space."""
        ones = len(x.space) if x.layout is Layout.FIRST else 0
        return array.reshape(-1, *[1] * ones)


_POINTS, _WEIGHTS = np.polynomial.hermite_e.hermegauss(31)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def moments(function: Callable[[Array], Array], x: Value) -> tuple[float, float]:
    """Mean and variance of a function of a normal variable that is spread as `x` is."""
    y = function(x.mean + math.sqrt(x.var) * _POINTS)
    mean = float(_WEIGHTS @ y)
    return mean, max(float(_WEIGHTS @ (y - mean) ** 2), 1e-6)


Block = Callable[[Graph, Value, Pick], Value]
Fits = Callable[[Graph, Value], bool]


@dataclass(frozen=True)
class Entry:
    """A block, and where it may stand."""

    name: str
    role: str
    build: Block
    layouts: tuple[Layout, ...]
    fits: Fits
    since: int

    def applies(self, g: Graph, x: Value) -> bool:
        return g.opset >= self.since and x.layout in self.layouts and self.fits(g, x)


CATALOG: list[Entry] = []


def block(
    role: str,
    *layouts: Layout,
    fits: Fits = lambda g, x: True,
    since: int = 17,
    often: int = 1,
) -> Callable[[Block], Block]:
    """Enter a block into the catalog; without layouts it stands anywhere.

    What fits few values or opsets is entered `often`, so that it is not drawn too seldom.
    """

    def enter(build: Block) -> Block:
        entry = Entry(build.__name__, role, build, layouts or tuple(Layout), fits, since)
        CATALOG.extend([entry] * often)
        return build

    return enter
