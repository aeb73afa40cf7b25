"""How fast this processor multiplies, moves activations and weights, and calls operators.

Small chains of one kind of operator each are timed, and the rates that explain their times best are
fitted to them. Allocation weighs the time that a unit takes by them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ._timing import Limits, measure
from .runtime._ort import make_session, run
from .runtime.costs import Rates

__all__ = ["CHAINS", "Chain", "fit_rates", "measure_rates"]

Float64 = NDArray[np.float64]
_FLOAT_BYTES = 4
_OPSET = 17


@dataclass(frozen=True)
class Chain:
    """Convolutions one after the other.

    Attributes:
        widths: channels before the first, between, and after the last.
        side: of the square picture.
        kernel: side of the kernels.
        depthwise: each channel by itself.
    """

    widths: tuple[int, ...]
    side: int
    kernel: int = 1
    depthwise: bool = False

    def work(self) -> Float64:
        """Multiply-adds, bytes of activations, bytes of weights, operators."""
        pairs = list(zip(self.widths, self.widths[1:], strict=False))
        positions = self.side**2
        weights = sum(self._weights(before, after) for before, after in pairs)
        moved = sum(before + after for before, after in pairs) * positions
        bytes_moved, bytes_of_weights = _FLOAT_BYTES * moved, _FLOAT_BYTES * weights
        return np.array([weights * positions, bytes_moved, bytes_of_weights, len(pairs)], float)

    def _weights(self, before: int, after: int) -> int:
        return after * (1 if self.depthwise else before) * self.kernel**2

    def model(self) -> bytes:
        """The network."""
        rng = np.random.default_rng(0)
        nodes, weights, last = [], [], "x"
        for number, (before, after) in enumerate(zip(self.widths, self.widths[1:], strict=False)):
            inside = 1 if self.depthwise else before
            values = 0.1 * rng.standard_normal((after, inside, self.kernel, self.kernel))
            name, group = f"y{number}", after if self.depthwise else 1
            weights.append(numpy_helper.from_array(values.astype(np.float32), f"w{number}"))
            pads = [self.kernel // 2] * 4
            nodes.append(
                helper.make_node("Conv", [last, f"w{number}"], [name], group=group, pads=pads)
            )
            nodes.append(helper.make_node("Relu", [name], [f"{name}.relu"]))
            last = f"{name}.relu"
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width, self.side, self.side])
            for name, width in (("x", self.widths[0]), (last, self.widths[-1]))
        ]
        graph = helper.make_graph(nodes, "rates", ends[:1], ends[1:], weights)
        opset = [helper.make_opsetid("", _OPSET)]
        return bytes(
            helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
        )


# Narrow ends: what turns the layout of pictures into the processor's own is not to count.
CHAINS = (
    Chain((16, 256, 256, 256, 16), 28),  # multiply-adds
    Chain((16, 96, 96, 16), 28, kernel=3),
    Chain((16, 96, 24, 144, 24, 144, 24), 56),  # bytes of activations
    Chain((32,) * 5, 112, kernel=3, depthwise=True),
    Chain((192, 1152, 192, 1152, 192), 7),
    Chain((64, 1280, 1280, 1280, 64), 1),  # bytes of weights
    Chain((16,) * 33, 7),  # operators
)


def measure_rates(
    threads: int = 1,
    *,
    limits: Limits,
    on_progress: Callable[[float], None] = lambda _share: None,
) -> Rates:
    """Time the chains in turns and fit the rates.

    Args:
        threads: of one operator, as the networks will run.
        limits: how long to measure.
        on_progress: called with the share that is done.
    """
    arms = {str(place): _ready(chain, threads) for place, chain in enumerate(CHAINS)}
    timing = measure(arms, reference="0", limits=limits, on_progress=on_progress)
    seconds = [timing[str(place)].seconds.median for place in range(len(CHAINS))]
    return fit_rates([chain.work() for chain in CHAINS], [1e9 * s for s in seconds])


def _ready(chain: Chain, threads: int) -> Callable[[], object]:
    session = make_session(chain.model(), threads=threads)
    picture = np.random.default_rng(0).standard_normal((1, chain.widths[0], *(chain.side,) * 2))
    return partial(run, session, None, {"x": picture.astype(np.float32)})


def fit_rates(works: Sequence[Float64], times_ns: Sequence[float]) -> Rates:
    """The rates, none negative, whose relative errors have the least squares.

    With so few unknowns every set that may be above zero can be tried (Lawson and Hanson's
    non-negative least squares without the search).
    """
    relative = np.stack(works) / np.asarray(times_ns)[:, None]
    scale = np.maximum(relative.max(0), 1e-30)
    scaled, ones = relative / scale, np.ones(len(relative))
    unknowns = range(relative.shape[1])
    best, least = np.zeros(len(unknowns)), np.inf
    for places in (list(c) for n in unknowns for c in combinations(unknowns, n + 1)):
        found = np.linalg.lstsq(scaled[:, places], ones, rcond=None)[0]
        error = float(np.sum((scaled[:, places] @ found - ones) ** 2))
        if (found >= 0).all() and error < least:
            best, least = np.zeros(len(unknowns)), error
            best[places] = found
    return Rates(*(best / scale).tolist())
