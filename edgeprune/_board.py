"""What this board's processor likes: found once by measuring, and remembered.

ONNX Runtime's convolutions work on blocks of channels, whose size depends on the processor: a
network with 47 channels may run several times slower than one with 48. Which multiple pays is
measured on small networks of pruned sizes, each rounded up to every multiple on offer: rounding up
to a large multiple is quick for each channel and keeps many of them. How fast the processor
multiplies and moves data is measured as well, for what a unit takes: see `edgeprune._board_rates`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from ._board_rates import measure_rates
from ._machine import Machine, describe_machine
from ._timing import Limits, Ratio, measure
from .runtime._atomic import explained, make_folder, write_atomically
from .runtime._ort import make_session, run
from .runtime.costs import DEFAULT_RATES, Rates
from .runtime.store import default_root

__all__ = [
    "FALLBACK",
    "MULTIPLES",
    "Board",
    "best_multiple",
    "board_path",
    "calibrate",
    "channel_multiple",
    "load_board",
    "rates",
    "save_board",
]

MULTIPLES = (1, 2, 4, 8, 16, 32)
FALLBACK = 16  # what x86 with AVX2 or AVX-512 wants, and no worse than the rest elsewhere
_FORMAT = 2
_FILE = "board.json"
# Widths as pruning leaves them, no multiples of anything, and the sides of their pictures.
_NETWORKS = ((27, 56), (51, 28), (99, 14), (149, 7))
_STEM = 16
_LIMITS = Limits(budget_s=20.0, fewest=15, most=100)
_RATES_SHARE = 0.3  # of the time to measure
_PRECISE = 0.005  # what is slower by less is as good


@dataclass(frozen=True)
class Board:
    """What was measured on one machine.

    Attributes:
        cpu, architecture, onnxruntime: what it holds for.
        threads: of one operator.
        channel_multiple: to which compaction should round channels up here.
        ratios: time with each multiple against a multiple of 16: median of the rounds.
        rates: nanoseconds for each multiply-add, byte of activations, byte of weights and operator.
        created: when, ISO 8601 in UTC.
        remarks: what disturbed the measurement.
    """

    cpu: str
    architecture: str
    onnxruntime: str
    threads: int
    channel_multiple: int
    ratios: dict[int, float]
    rates: Rates
    created: str
    remarks: tuple[str, ...] = ()

    def fits(self, machine: Machine) -> bool:
        """Whether it was measured on such a machine, with this ONNX Runtime."""
        mine = (self.cpu, self.architecture, self.onnxruntime)
        return mine == (machine.cpu, machine.architecture, machine.versions.get("onnxruntime"))

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"edgeprune_board": _FORMAT, **asdict(self)}


def calibrate(
    threads: int = 1,
    *,
    limits: Limits = _LIMITS,
    on_progress: Callable[[float], None] = lambda _share: None,
) -> Board:
    """Measure which multiple of channels is fastest after rounding up, and how fast work is done.

    Args:
        threads: of one operator, as the networks will run.
        limits: how long to measure, about 20 seconds if not said.
        on_progress: called with the share that is done.

    Returns:
        The board, not stored: see `save_board`.
    """
    arms = {str(multiple): _rounded_networks(multiple, threads) for multiple in MULTIPLES}
    timing = measure(
        arms,
        reference=str(FALLBACK),
        control=_rounded_networks(FALLBACK, threads),
        limits=replace(limits, budget_s=limits.budget_s * (1 - _RATES_SHARE)),
        on_progress=lambda share: on_progress(share * (1 - _RATES_SHARE)),
    )
    found = measure_rates(
        threads,
        limits=replace(limits, budget_s=limits.budget_s * _RATES_SHARE),
        on_progress=lambda share: on_progress(1 - _RATES_SHARE * (1 - share)),
    )
    machine = describe_machine()
    return Board(
        machine.cpu,
        machine.architecture,
        machine.versions["onnxruntime"],
        threads,
        best_multiple({int(arm.name): arm.ratio for arm in timing.arms}),
        {int(arm.name): arm.ratio.median for arm in timing.arms},
        found,
        datetime.now(UTC).isoformat(timespec="seconds"),
        timing.remarks,
    )


def best_multiple(ratios: dict[int, Ratio]) -> int:
    """The smallest multiple that is no slower than the fastest: it keeps the fewest channels."""
    fastest = min(ratio.median for ratio in ratios.values())
    return min(m for m, ratio in ratios.items() if ratio.median <= fastest * (1 + _PRECISE))


def _rounded_networks(multiple: int, threads: int) -> Callable[[], object]:
    """Run each of the networks, rounded up."""
    rng = np.random.default_rng(0)
    ready = [
        (
            make_session(_network(-(-width // multiple) * multiple, side), threads=threads),
            {"x": rng.standard_normal((1, _STEM, side, side)).astype(np.float32)},
        )
        for width, side in _NETWORKS
    ]

    def run_all() -> None:
        for session, feeds in ready:
            run(session, None, feeds)

    return run_all


def _network(width: int, side: int) -> bytes:
    """An inverted bottleneck and a plain convolution, the two that networks are made of."""
    convolutions = [
        ("expand", (width, _STEM, 1, 1), 1),
        ("depthwise", (width, 1, 3, 3), width),
        ("square", (width, width, 1, 1), 1),
        ("plain", (width, width, 3, 3), 1),
        ("project", (_STEM, width, 1, 1), 1),
    ]
    nodes, weights, last = [], [], "x"
    rng = np.random.default_rng(width)
    for name, shape, group in convolutions:
        weight = 0.1 * rng.standard_normal(shape).astype(np.float32)
        weights.append(numpy_helper.from_array(weight.astype(np.float32), f"{name}.weight"))
        pad = shape[2] // 2
        nodes.append(
            helper.make_node("Conv", [last, f"{name}.weight"], [name], group=group, pads=[pad] * 4)
        )
        nodes.append(helper.make_node("Relu", [name], [f"{name}.relu"]))
        last = f"{name}.relu"
    image = [1, _STEM, side, side]
    graph = helper.make_graph(
        nodes,
        "calibration",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, image)],
        weights,
    )
    opset = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())


def board_path() -> Path:
    """Where the board is remembered: beside the profiles."""
    return default_root().parent / _FILE


def save_board(board: Board) -> Path:
    """Remember a board.

    Raises:
        ProfileError: the file cannot be written; what was remembered still is.
    """
    path = board_path()
    with explained(path.parent, "create"):
        make_folder(path.parent)
    write_atomically(path, json.dumps(board.to_dict(), indent=2).encode())
    return path


def load_board(machine: Machine | None = None) -> Board | None:
    """The board that was remembered, if there is one and it was measured on such a machine."""
    try:
        data = json.loads(board_path().read_text("utf-8"))
        if data.pop("edgeprune_board") != _FORMAT:
            return None
        ratios = {int(multiple): float(ratio) for multiple, ratio in data.pop("ratios").items()}
        remarks = tuple(str(remark) for remark in data.pop("remarks"))
        measured = Rates(**{name: float(rate) for name, rate in data.pop("rates").items()})
        board = Board(**data, ratios=ratios, rates=measured, remarks=remarks)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # a cache that cannot be read is one that is not there
    sane = board.channel_multiple in MULTIPLES and measured.usable
    usable = sane and board.fits(machine or describe_machine())
    return board if usable else None


def channel_multiple(fallback: int = FALLBACK) -> int:
    """The multiple that was measured for this board, else the fallback."""
    board = load_board()
    return fallback if board is None else board.channel_multiple


def rates() -> Rates:
    """The rates that were measured for this board, else usual ones."""
    board = load_board()
    return DEFAULT_RATES if board is None else board.rates
