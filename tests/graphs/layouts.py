"""From pictures to vectors, to sequences, and back."""

from __future__ import annotations

import math

from .builder import MOST_CHANNELS, MOST_SPACE, Graph, Layout, Pick, Value, block
from .shaping import reduce, reshape, squeeze, transpose, unsqueeze
from .space import averaged, pooled

MOST_FEATURES = 400
# Numbers of positions that make a picture of at least two rows, and its height and width.
_SIDES: dict[int, tuple[int, int]] = {
    n: (a, n // a) for a in range(2, 7) for n in range(a * a, MOST_SPACE * a + 1, a)
}


@block("reshape", Layout.FIRST)
def channels_last(g: Graph, x: Value, pick: Pick) -> Value:
    n = len(x.shape)
    return _as(x, transpose(g, x.name, 0, *range(2, n + 1), 1), Layout.LAST, (*x.space, x.channels))


@block("reshape", Layout.LAST)
def channels_first(g: Graph, x: Value, pick: Pick) -> Value:
    n = len(x.shape)
    return _as(x, transpose(g, x.name, 0, n, *range(1, n)), Layout.FIRST, (x.channels, *x.space))


def _as(x: Value, name: str, layout: Layout, shape: tuple[int, ...]) -> Value:
    return Value(name, layout, shape, x.mean, x.var)


def _few_positions(x: Value) -> bool:
    return len(x.space) >= 2 and math.prod(x.space) <= 3 * MOST_SPACE


@block("reshape", Layout.FIRST, fits=lambda g, x: _few_positions(x))
def tokens(g: Graph, x: Value, pick: Pick) -> Value:
    """Positions become a sequence, as in a vision transformer."""
    count = math.prod(x.space)
    rows = reshape(g, x.name, (x.channels, count), pick)
    return _as(x, transpose(g, rows, 0, 2, 1), Layout.LAST, (count, x.channels))


@block("reshape", Layout.LAST, fits=lambda g, x: len(x.shape) == 2 and x.shape[0] in _SIDES)
def picture(g: Graph, x: Value, pick: Pick) -> Value:
    """A sequence becomes a picture."""
    side = (x.channels, *_SIDES[x.shape[0]])
    y = reshape(g, transpose(g, x.name, 0, 2, 1), side, pick)
    return _as(x, y, Layout.FIRST, side)


@block("reshape", Layout.FIRST)
def global_average(g: Graph, x: Value, pick: Pick) -> Value:
    return pooled(g, x, pick)


@block("reshape", Layout.FIRST)
def global_max(g: Graph, x: Value, pick: Pick) -> Value:
    single = pick.of(True, True, False)
    pool = "GlobalMaxPool"
    name = g.op(pool, x.name) if single else reduce(g, "ReduceMax", x.name, x.space_axes)
    one = (1,) * len(x.space)
    spread = 1.5 if x.size > 4 * x.channels else 0.5
    return x.resized(name, space=one).become(name, x.mean + spread * x.var**0.5, 0.4 * x.var)


@block("reshape", Layout.FIRST, Layout.LAST)
def mean_over_space(g: Graph, x: Value, pick: Pick) -> Value:
    """ReduceMean without the reduced axes; some tools count axes from the end."""
    axes = x.space_axes
    if pick.yes(3):
        axes = [axis - len(x.shape) - 1 for axis in axes]
    y = averaged(x, reduce(g, "ReduceMean", x.name, axes, keepdims=0))
    return _as(y, y.name, Layout.FLAT, (x.channels,))


@block("reshape", Layout.FIRST)
def pool_and_flatten(g: Graph, x: Value, pick: Pick) -> Value:
    y = pooled(g, x, pick)
    how = pick.of("flatten", "reshape", "squeeze")
    return _as(y, _flat(g, y, pick, how), Layout.FLAT, (x.channels,))


def _flat(g: Graph, x: Value, pick: Pick, how: str) -> str:
    if how == "squeeze":
        return squeeze(g, x.name, *x.space_axes)
    if how == "flatten":
        return g.op("Flatten", x.name, axis=None if g.style.terse else 1)
    return reshape(g, x.name, (x.size,), pick)


@block("reshape", Layout.FIRST, Layout.LAST, fits=lambda g, x: x.size <= MOST_FEATURES)
def flatten(g: Graph, x: Value, pick: Pick) -> Value:
    name = _flat(g, x, pick, pick.of("flatten", "reshape"))
    return _as(x, name, Layout.FLAT, (x.size,))


@block("reshape", Layout.LAST, fits=lambda g, x: len(x.shape) == 2)
def one_position(g: Graph, x: Value, pick: Pick) -> Value:
    """The first or the last position of a sequence."""
    index = g.const(pick.of(-1, 0), dtype="int64")
    return _as(x, g.op("Gather", x.name, index, axis=1), Layout.FLAT, (x.channels,))


@block("reshape", Layout.FLAT, fits=lambda g, x: x.channels <= MOST_CHANNELS)
def picture_of_one(g: Graph, x: Value, pick: Pick) -> Value:
    """Features become channels of a single position."""
    rank = pick.of(2, 1)
    name = unsqueeze(g, x.name, *range(2, 2 + rank))
    return _as(x, name, Layout.FIRST, (x.channels, *[1] * rank))


def _pictures(x: Value) -> list[tuple[int, ...]]:
    sides = [(s, s) for s in (2, 3, 4)] + [(s,) for s in (2, 4, 5, 8)]
    found = [(x.channels // math.prod(side), *side) for side in sides]
    return [s for s in found if math.prod(s) == x.channels and 2 <= s[0] <= MOST_CHANNELS]


@block("reshape", Layout.FLAT, fits=lambda g, x: bool(_pictures(x)))
def generate_picture(g: Graph, x: Value, pick: Pick) -> Value:
    """Features are cut into channels and space, as at the start of a generator."""
    shape = pick.of(*_pictures(x))
    return _as(x, reshape(g, x.name, shape, pick), Layout.FIRST, shape)


@block("reshape", Layout.FLAT, fits=lambda g, x: bool(_pictures(x)))
def generate_sequence(g: Graph, x: Value, pick: Pick) -> Value:
    shape = pick.of(*_pictures(x))
    time = math.prod(shape[1:])
    shape = (time, shape[0])
    return _as(x, reshape(g, x.name, shape, pick), Layout.LAST, shape)


@block("reshape", Layout.FLAT, fits=lambda g, x: x.channels <= MOST_CHANNELS)
def repeat_over_time(g: Graph, x: Value, pick: Pick) -> Value:
    """Features at every position of a sequence, each with its own position embedding."""
    time = pick.of(4, 3, 6)
    wide = g.op("Expand", unsqueeze(g, x.name, 1), g.ints(1, time, 1))
    name = g.op("Add", wide, g.const(g.normal(1.0, time, x.channels)))
    return _as(x.become(name, x.mean, x.var + 1), name, Layout.LAST, (time, x.channels))
