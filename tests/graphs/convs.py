"""Convolutions: plain, depthwise, grouped, transposed, followed by what follows them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .activations import activate
from .builder import MOST_CHANNELS, MOST_SPACE, Array, Graph, Layout, Pick, Shared, Value, block
from .norms import batch_norm
from .weights import bias, dense, guise, width


@dataclass(frozen=True)
class Window:
    """Where a kernel looks, one number per axis of space."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    auto: str = "NOTSET"

    def out(self, space: tuple[int, ...]) -> tuple[int, ...]:
        """The space that the result has."""
        rows = zip(
            space, self.kernel, self.stride, self.dilation, self.before, self.after, strict=True
        )
        return tuple((s + b + a - d * (k - 1) - 1) // t + 1 for s, k, t, d, b, a in rows)

    def attributes(self, terse: bool) -> dict[str, Any]:
        """The attributes of the node; a terse tool leaves out what has its default."""
        pads = [*self.before, *self.after] if self.auto == "NOTSET" else None
        every = {
            "kernel_shape": self.kernel,
            "strides": self.stride,
            "dilations": self.dilation,
            "pads": pads,
            "auto_pad": None if self.auto == "NOTSET" else self.auto,
        }
        plain = ((1,) * len(self.kernel), [0] * 2 * len(self.kernel))
        terse_too = {k: v for k, v in every.items() if k != "kernel_shape" and v not in plain}
        return {k: v for k, v in (terse_too if terse else every).items() if v is not None}


def draw_window(x: Value, pick: Pick, *, strides: bool = True) -> Window:
    """Pick a kernel, a stride, a dilation and a padding that fit the space."""
    rank = len(x.space)
    kernel = tuple(k if s > 1 else 1 for s, k in zip(x.space, _kernel(rank, pick), strict=True))
    stride = pick.of(1, 1, 2) if strides and min(x.space) >= 4 else 1
    dilation = pick.of(1, 1, 1, 2) if min(x.space) >= 5 else 1
    spans = [dilation * (k - 1) for k in kernel]
    how = pick.of("same", "same", "valid", "auto", "lopsided")
    room = all(s - span >= 2 for s, span in zip(x.space, spans, strict=True))
    zeros = (0,) * rank
    both = ((stride,) * rank, (dilation,) * rank)
    if how == "valid" and room:
        return Window(kernel, *both, zeros, zeros)
    if how == "auto" and stride == dilation == 1:
        before = tuple(span // 2 for span in spans)
        after = tuple(span - span // 2 for span in spans)
        return Window(kernel, *both, before, after, "SAME_UPPER")
    if how == "lopsided":  # a causal convolution
        return Window(kernel, *both, tuple(spans), zeros)
    before = tuple(span // 2 for span in spans)
    return Window(kernel, *both, before, tuple(span - span // 2 for span in spans))


def _kernel(rank: int, pick: Pick) -> tuple[int, ...]:
    if rank == 3:
        return (pick.of(1, 3, 2),) * 3
    side = pick.of(3, 1, 2, 5)
    return (1, side) if rank == 2 and pick.yes(6) else (side,) * rank


def pointwise(rank: int) -> Window:
    one, zero = (1,) * rank, (0,) * rank
    return Window(one, one, one, zero, zero)


def same(x: Value) -> Window:
    """A window of 3 that keeps the space."""
    kernel = tuple(3 if s > 1 else 1 for s in x.space)
    pads, one = tuple(k // 2 for k in kernel), (1,) * len(kernel)
    return Window(kernel, one, one, pads, pads)


def conv(
    g: Graph,
    x: Value,
    out: int,
    window: Window,
    *,
    group: int = 1,
    offset: bool = True,
    pick: Pick | None = None,
) -> Value:
    """Convolve."""
    shape = (out, x.channels // group, *window.kernel)
    array = dense(g, x, shape, tuple(range(1, len(shape))))
    weight = guise(g, array, pick) if pick else g.const(array)
    attributes = window.attributes(g.style.terse)
    if group > 1 or not g.style.terse:
        attributes["group"] = group
    shift = g.const(bias(g, out)) if offset else ""
    inputs = (x.name, weight, shift) if offset else (x.name, weight)
    name = g.op("Conv", *inputs, **attributes)
    result = x.resized(name, channels=out, space=window.out(x.space)).become(name, 0.0, 1.0)
    if group == 1 and window.auto == "NOTSET":
        g.shared.append(Shared("Conv", weight, shift, x, result, attributes))
    return result


def _finish(g: Graph, x: Value, pick: Pick) -> Value:
    """What follows a convolution: nothing, a normalisation, an activation, both."""
    how = pick.of("nothing", "both", "norm", "activation")
    if how in ("both", "norm"):
        x = batch_norm(g, x)
    return activate(g, x, pick) if how in ("both", "activation") else x


@block("dense", Layout.FIRST, often=2)
def conv_layer(g: Graph, x: Value, pick: Pick) -> Value:
    out, window = width(pick), draw_window(x, pick)
    y = conv(g, x, out, window, offset=pick.of(True, False), pick=pick)
    return _finish(g, y, pick)


@block("dense", Layout.FIRST)
def pointwise_layer(g: Graph, x: Value, pick: Pick) -> Value:
    return _finish(g, conv(g, x, width(pick), pointwise(len(x.space)), pick=pick), pick)


@block("dense", Layout.FIRST, fits=lambda g, x: x.channels >= 2, often=2)
def depthwise_layer(g: Graph, x: Value, pick: Pick) -> Value:
    times = pick.of(1, 1, 2) if 2 * x.channels <= MOST_CHANNELS else 1
    window = draw_window(x, pick)
    y = conv(g, x, times * x.channels, window, group=x.channels, offset=pick.of(True, False))
    return _finish(g, y, pick)


def _groups(x: Value) -> list[int]:
    return [n for n in (2, 3, 4) if x.channels % n == 0 and x.channels > n]


@block("dense", Layout.FIRST, fits=lambda g, x: bool(_groups(x)), often=3)
def grouped_layer(g: Graph, x: Value, pick: Pick) -> Value:
    group = pick.of(*_groups(x))
    out, window = width(pick, group), draw_window(x, pick)
    return _finish(g, conv(g, x, out, window, group=group, offset=pick.of(True, False)), pick)


@block("dense", Layout.FIRST)
def inverted_residual(g: Graph, x: Value, pick: Pick) -> Value:
    """Widen, look around channel by channel, narrow, and add where the shapes allow it."""
    point = pointwise(len(x.space))
    y = activate(g, batch_norm(g, conv(g, x, width(pick), point, offset=False)), pick)
    window = draw_window(y, pick)
    y = conv(g, y, y.channels, window, group=y.channels, offset=False)
    y = activate(g, batch_norm(g, y), pick)
    out = x.channels if pick.of(True, True, False) else width(pick)
    y = batch_norm(g, conv(g, y, out, point, offset=False))
    if y.shape != x.shape:
        return y
    return y.become(g.op("Add", x.name, y.name), x.mean, x.var + y.var)


def _transposed(x: Value, pick: Pick) -> tuple[int, int, int, int]:
    """Pick kernel, stride, padding and output padding."""
    if max(x.space) * 2 <= MOST_SPACE and min(x.space) > 1:
        return pick.of((2, 2, 0, 0), (3, 1, 1, 0), (3, 2, 1, 1), (4, 2, 1, 0))
    return (3, 1, 1, 0) if min(x.space) > 1 else (1, 1, 0, 0)


def conv_transpose(g: Graph, x: Value, out: int, pick: Pick, group: int = 1) -> Value:
    """A transposed convolution."""
    rank, (k, s, p, extra) = len(x.space), _transposed(x, pick)
    shape = (x.channels, out // group, *[k] * rank)
    weight = g.const(_spread(g, x, shape, group, s))
    attributes: dict[str, Any] = {"kernel_shape": [k] * rank, "strides": [s] * rank}
    if p or not g.style.terse:
        attributes |= {"pads": [p] * 2 * rank, "dilations": [1] * rank}
    if extra:
        attributes["output_padding"] = [extra] * rank
    if group > 1 or not g.style.terse:
        attributes["group"] = group
    shift = [g.const(bias(g, out))] if pick.yes() else []
    name = g.op("ConvTranspose", x.name, weight, *shift, **attributes)
    space = [(n - 1) * s + k - 2 * p + extra for n in x.space]
    return x.resized(name, channels=out, space=space).become(name, 0.0, 1.0)


def _spread(g: Graph, x: Value, shape: tuple[int, ...], group: int, stride: int) -> Array:
    """Only some of the kernel meets each position of the result: `stride` apart."""
    weight = g.normal(1.0, *shape)
    met = max(math.prod(shape[2:]) / stride ** (len(shape) - 2), 1.0)
    return weight / math.sqrt(shape[0] / group * met * x.power)


@block("dense", Layout.FIRST)
def conv_transpose_layer(g: Graph, x: Value, pick: Pick) -> Value:
    return _finish(g, conv_transpose(g, x, width(pick), pick), pick)


@block("dense", Layout.FIRST, fits=lambda g, x: bool(_groups(x)), often=2)
def grouped_conv_transpose(g: Graph, x: Value, pick: Pick) -> Value:
    group = pick.of(*_groups(x))
    return _finish(g, conv_transpose(g, x, width(pick, group), pick, group), pick)


@block("dense", Layout.FIRST)
def same_conv_twice(g: Graph, x: Value, pick: Pick) -> Value:
    """One weight, two convolutions, as in a recursive network."""
    first = conv(g, x, x.channels, same(x))
    old = g.shared[-1]
    mid = activate(g, first, pick)
    inputs = (mid.name, old.weight, old.bias) if pick.yes() else (mid.name, old.weight)
    name = g.op("Conv", *inputs, **old.attributes)
    return first.become(name, 0.0, mid.power / x.power)


@block("dense", Layout.FIRST, fits=lambda g, x: len(x.space) == 1, often=2)
def conv_through_two_axes(g: Graph, x: Value, pick: Pick) -> Value:
    """A convolution over time written as one over pictures of height 1."""
    wide = Value(g.op("Unsqueeze", x.name, g.ints(2)), x.layout, (x.channels, 1, x.shape[1]))
    wide = wide.become(wide.name, x.mean, x.var)
    y = conv(g, wide, width(pick), same(wide), pick=pick)
    name = g.op("Squeeze", y.name, g.ints(2))
    return Value(name, x.layout, (y.channels, y.shape[2]), y.mean, y.var)
