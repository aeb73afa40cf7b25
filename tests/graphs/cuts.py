"""Split, Slice, Gather and shuffle on channels; constants by channel."""

from __future__ import annotations

import numpy as np

from .activations import activate, apply, recentre
from .builder import MOST_CHANNELS, Graph, Layout, Pick, Value, block
from .joins import concat, look_around, multiplied
from .shaping import reshape, slice_axis, split, transpose

LAST_INDEX = np.iinfo(np.int64).max


def _parts(g: Graph, x: Value, sizes: list[int], pick: Pick) -> list[Value]:
    axis = x.axis if x.layout is Layout.FIRST or pick.of(True, False) else -1
    names = split(g, x.name, sizes, axis, pick)
    return [x.resized(n, channels=s) for n, s in zip(names, sizes, strict=True)]


@block("cut", fits=lambda g, x: x.channels >= 4 and x.channels % 2 == 0)
def gated_linear_unit(g: Graph, x: Value, pick: Pick) -> Value:
    a, b = _parts(g, x, [x.channels // 2] * 2, pick)
    return multiplied(g, a, apply(g, recentre(g, b), pick.of("sigmoid", "tanh")))


@block("cut", fits=lambda g, x: 4 <= x.channels <= MOST_CHANNELS)
def split_and_join(g: Graph, x: Value, pick: Pick) -> Value:
    """One part goes through a layer and comes back in its place, or in another."""
    first = pick.of(x.channels // 2, 1, x.channels // 3)
    a, b = _parts(g, x, [first, x.channels - first], pick)
    b = activate(g, look_around(g, b, pick.of(b.channels, 4, 6), pick), pick)
    parts = [a, b] if pick.of(True, False) else [b, a]
    fits = sum(v.channels for v in parts) <= MOST_CHANNELS
    return concat(g, *parts) if fits else b


@block("cut", fits=lambda g, x: x.channels >= 6)
def split_in_three(g: Graph, x: Value, pick: Pick) -> Value:
    """Parts of three sizes come back in another order; one may be lost."""
    third = x.channels // 3
    sizes = pick.of([third, third, x.channels - 2 * third], [2, 1, x.channels - 3])
    parts = _parts(g, x, sizes, pick)
    order = pick.of((2, 0, 1), (1, 2), (0, 2))
    return concat(g, *(parts[i] for i in order))


@block("cut", fits=lambda g, x: x.channels >= 6 and x.channels % 3 == 0)
def split_and_add(g: Graph, x: Value, pick: Pick) -> Value:
    """Equal parts are added: channel i goes together with i + n."""
    parts = _parts(g, x, [x.channels // 3] * 3, pick)
    name = g.op("Add", g.op("Add", parts[0].name, parts[1].name), parts[2].name)
    return parts[0].become(name, 3 * x.mean, 3 * x.var)


@block("cut", fits=lambda g, x: x.channels >= 4)
def slice_channels(g: Graph, x: Value, pick: Pick) -> Value:
    bounds = pick.of((1, LAST_INDEX, 1), (0, x.channels - 1, 1), (0, -2, 1), (1, LAST_INDEX, 2))
    axis = x.axis if pick.of(True, False) else x.axis - len(x.shape) - 1
    name = slice_axis(g, x.name, axis, bounds)
    return x.resized(name, channels=len(range(x.channels)[slice(*bounds)]))


@block("cut", fits=lambda g, x: x.channels >= 4)
def overlapping_slices(g: Graph, x: Value, pick: Pick) -> Value:
    """Two slices share channels and are added."""
    size = x.channels - pick.of(1, 2)
    low = slice_axis(g, x.name, x.axis, (0, size, 1))
    high = slice_axis(g, x.name, x.axis, (x.channels - size, x.channels, 1))
    return x.resized(g.op("Add", low, high), channels=size).become(
        g.nodes[-1].output[0], 2 * x.mean, 2 * x.var
    )


@block("cut", fits=lambda g, x: 4 <= x.channels <= MOST_CHANNELS)
def gather_channels(g: Graph, x: Value, pick: Pick) -> Value:
    """A permutation, a choice, or some channels more than once."""
    how = pick.of("permute", "choose", "repeat")
    n, rng = x.channels, g.rng
    indices = {
        "permute": rng.permutation(n),
        "choose": np.sort(rng.permutation(n)[: max(n // 2, 2)]),
        "repeat": rng.integers(0, n, n),
    }[how]
    axis = x.axis if pick.of(True, False) else x.axis - len(x.shape) - 1
    name = g.op("Gather", x.name, g.const(indices, dtype=np.int64), axis=axis)
    return x.resized(name, channels=len(indices))


@block("cut", Layout.FIRST, fits=lambda g, x: x.channels % 2 == 0 or x.channels % 3 == 0)
def channel_shuffle(g: Graph, x: Value, pick: Pick) -> Value:
    groups = pick.of(*[n for n in (2, 3, 4) if x.channels % n == 0])
    cut = reshape(g, x.name, (groups, x.channels // groups, *x.space), pick)
    rest = range(3, 3 + len(x.space))
    turned = transpose(g, cut, 0, 2, 1, *rest)
    return x.become(reshape(g, turned, x.shape, pick))


@block("cut", Layout.FIRST, fits=lambda g, x: x.channels >= 4 and x.channels % 2 == 0)
def shuffle_unit(g: Graph, x: Value, pick: Pick) -> Value:
    """ShuffleNet v2: half goes through a layer, all are joined and shuffled."""
    a, b = _parts(g, x, [x.channels // 2] * 2, pick)
    b = activate(g, look_around(g, b, b.channels, pick), pick)
    return channel_shuffle(g, concat(g, a, b), Pick(0))


@block("constant")
def by_channel(g: Graph, x: Value, pick: Pick) -> Value:
    """Add, Sub, Mul, Div, Max, Min with one number a channel or with one for all."""
    kind = pick.of("Mul", "Add", "Sub", "Div", "Max", "Min")
    whole = pick.yes(3)
    low, high = {"Mul": (0.5, 2), "Div": (0.5, 2), "Max": (-2, -0.2), "Min": (0.2, 2)}.get(
        kind, (-0.5, 0.5)
    )
    values = g.uniform(low, high, 1 if whole else x.channels)
    if kind in ("Max", "Min"):  # relative to where the values are, so that some always pass
        values = values * np.float32(x.var**0.5) + np.float32(x.mean)
    array = _with_batch(g, x, values, pick)
    if whole and pick.yes():
        array = array.reshape(())
    flipped = kind not in ("Div", "Sub") and pick.yes()
    terms = (g.const(array), x.name) if flipped else (x.name, g.const(array))
    return _after(x, g.op(kind, *terms), kind)


def _with_batch(g: Graph, x: Value, values: np.ndarray, pick: Pick) -> np.ndarray:
    """(C, 1, 1) or (1, C, 1, 1)."""
    array = g.per_channel(x, values)
    missing = len(x.shape) + 1 - array.ndim
    return array.reshape(*[1] * missing, *array.shape) if pick.yes() else array


def _after(x: Value, name: str, kind: str) -> Value:
    factor = {"Mul": 1.25, "Div": 0.9}.get(kind, 1.0)
    if kind in ("Max", "Min"):
        shift = 0.2 * x.var**0.5
        return x.become(name, x.mean + (shift if kind == "Max" else -shift), 0.7 * x.var)
    return x.become(name, factor * x.mean, factor**2 * 1.2 * x.var)


@block("constant")
def constant_minus(g: Graph, x: Value, pick: Pick) -> Value:
    """1 - x, and per-channel kin."""
    one = (
        g.const(1.0) if pick.of(True, False) else g.const(g.per_channel(x, g.normal(1, x.channels)))
    )
    return x.become(g.op("Sub", one, x.name), 1 - x.mean, x.var)


@block("constant")
def scale_and_shift(g: Graph, x: Value, pick: Pick) -> Value:
    """An affine layer per channel: LayerScale, a BatchNorm that was written out."""
    gain = g.const(_with_batch(g, x, g.uniform(0.5, 1.5, x.channels), pick))
    shift = g.const(_with_batch(g, x, g.normal(0.3, x.channels), pick))
    if pick.of(True, False):
        return x.become(g.op("Add", g.op("Mul", x.name, gain), shift))
    return x.become(g.op("Mul", g.op("Sub", x.name, shift), gain))


@block("constant", Layout.FIRST, Layout.LAST, fits=lambda g, x: x.size <= 400)
def position_embedding(g: Graph, x: Value, pick: Pick) -> Value:
    """A constant for every channel at every position, or at every position for all channels."""
    shape = x.shape
    if pick.yes(3):
        ones = dict.fromkeys([x.axis - 1], 1)
        shape = tuple(ones.get(i, n) for i, n in enumerate(shape))
    array = g.normal(0.5, *shape)
    array = array[None] if pick.of(True, False) else array
    return x.become(g.op("Add", x.name, g.const(array)), x.mean, x.var + 0.25)


@block("constant", often=2)
def temperature(g: Graph, x: Value, pick: Pick) -> Value:
    """A scalar factor, behind an operator that does nothing."""
    kind = pick.of("Identity", "Dropout", "Cast")
    name = g.op(kind, x.name, to=11 if kind == "Cast" else None)
    if kind == "Cast":  # to double, and back
        name = g.op("Cast", name, to=1)
    return x.become(g.op("Mul", name, g.const(0.7)), 0.7 * x.mean, 0.49 * x.var)
