"""Measuring what is faster, and not believing it too soon.

Several callables take turns in one process, in another random order in every round. Each round
gives one ratio of each arm to the reference, so what is slow for a while is slow for both::

    timing = measure({"dense": run_dense, "small": run_small}, reference="dense", control=again)
    timing["small"].verdict     # "faster", "slower" or "no difference"

The control is the reference once more: what it differs from itself is noise, and a ratio inside
that is no difference.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from ._machine import Conditions, Watch

__all__ = ["Arm", "Limits", "Ratio", "Spread", "Timing", "Verdict", "compare_ratios", "measure"]

Verdict = Literal["faster", "slower", "no difference"]
Run = Callable[[], object]
_CONTROL = "\0control"
_LEVEL = 0.95
_ONE_IN = 20  # such intervals miss the median
_SHORTEST_S = 1e-9
_MOST_CALLS = 10_000
_NOISY = 0.10  # quartiles of the reference against itself this far apart: the machine is noisy


@dataclass(frozen=True)
class Limits:
    """How long to measure.

    Attributes:
        budget_s: after so many seconds no new round begins.
        fewest: rounds to run whatever they take.
        most: rounds to run at most.
        precision: stop when every interval is at most this wide to each side. Only the width
            counts: whoever stops when a difference shows will find one.
        warm_up: untimed calls of each arm before the first round.
        block_s: a fast callable is called again until it took so long; the mean counts.
        settle_s: callables faster than this are called once untimed before each timing, so that
            their data are back in the caches.
    """

    budget_s: float = 10.0
    fewest: int = 12
    most: int = 400
    precision: float = 0.005
    warm_up: int = 3
    block_s: float = 0.02
    settle_s: float = 0.1


@dataclass(frozen=True)
class Spread:
    """Median, first and third quartile."""

    median: float
    first: float
    third: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of some values."""
        first, median, third = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
        return cls(median, first, third)


@dataclass(frozen=True)
class Ratio:
    """Paired ratios of times, one of each round.

    Attributes:
        median, first, third: of the rounds.
        low, high: interval of the median by the sign test: two order statistics, whatever the
            distribution.
        coverage: of that interval, at least 0.95 from six rounds on.
        runs: number of rounds.
    """

    median: float
    first: float
    third: float
    low: float
    high: float
    coverage: float
    runs: int

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Ratio:
        """Of the ratios of the rounds."""
        ordered = sorted(ratios)
        place, coverage = _sign_test_place(len(ordered))
        spread = Spread.of(ordered)
        return cls(
            **asdict(spread),
            low=ordered[place],
            high=ordered[-1 - place],
            coverage=coverage,
            runs=len(ordered),
        )

    @property
    def width(self) -> float:
        """Half of the interval's width, relative."""
        return math.sqrt(self.high / self.low) - 1

    def verdict(self, floor: float = 0.0) -> Verdict:
        """What may be claimed where differences up to `floor` are noise."""
        if self.coverage >= _LEVEL and self.high < 1 / (1 + floor):
            return "faster"
        if self.coverage >= _LEVEL and self.low > 1 + floor:
            return "slower"
        return "no difference"

    def sentence(self, verdict: Verdict) -> str:
        """A verdict with its figures."""
        spread = (
            f"time ratio {self.median:.3f}, {100 * self.coverage:.0f} % interval {self.low:.3f} to "
            f"{self.high:.3f}, {self.runs} rounds"
        )
        if verdict == "no difference":
            return f"no measurable difference ({spread})"
        factor = 1 / self.median if verdict == "faster" else self.median
        return f"{factor:.2f} times {verdict} ({spread})"


@lru_cache
def _sign_test_place(count: int) -> tuple[int, float]:
    """Place from both ends of the ordered values that bounds the median, and the coverage.

    Of six values the extremes: the median lies outside with probability 2 · (1/2)⁶ = 0.031. Below
    six not even the extremes reach 95 %.
    """
    place, outside, term = 0, 1, 1
    while True:
        term = term * (count - place) // (place + 1)
        if 2 * (outside + term) * _ONE_IN > 2**count:  # in whole numbers: 2**1024 is no float
            return place, 1 - 2 * outside / 2**count
        outside += term
        place += 1


@dataclass(frozen=True)
class Arm:
    """One callable's times.

    Attributes:
        name: of the arm.
        seconds: of one call.
        ratio: to the reference, round by round.
        verdict: what may be claimed.
        calls: that were averaged in each round.
    """

    name: str
    seconds: Spread
    ratio: Ratio
    verdict: Verdict
    calls: int


@dataclass(frozen=True)
class Timing:
    """The outcome of `measure`.

    Attributes:
        reference: name of the arm that the ratios are to.
        arms: all arms, the reference among them.
        control: the reference against itself.
        floor: the largest difference that is noise, taken from the control.
        conditions: what went on beside it.
        remarks: what a reader must know, in sentences.
    """

    reference: str
    arms: tuple[Arm, ...]
    control: Ratio
    floor: float
    conditions: Conditions
    remarks: tuple[str, ...]

    def __getitem__(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def measure(
    arms: Mapping[str, Run],
    *,
    reference: str,
    control: Run | None = None,
    limits: Limits | None = None,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    watch: Watch | None = None,
    on_progress: Callable[[float], None] = lambda _share: None,
) -> Timing:
    """Time callables in turns.

    Args:
        arms: the callables by name.
        reference: the name of one of them.
        control: the same work as the reference, set up a second time (a second session, say), so
            that the noise of the setting up is seen, too; None runs the reference twice.
        limits: how long.
        seed: of the order of the arms.
        clock: seconds, for tests.
        watch: looks at the machine; None for a new one.
        on_progress: called with the share of the budget that is used.
    """
    limits = limits or Limits()
    runs = {**arms, _CONTROL: control or arms[reference]}
    watch = watch or Watch()
    stopwatch = _Stopwatch(runs, limits, clock)
    order, shuffle = list(runs), random.Random(seed).shuffle
    times: dict[str, list[float]] = {name: [] for name in runs}
    started = clock()
    with _no_garbage_collection():
        while True:
            shuffle(order)
            for name in order:
                times[name].append(stopwatch.time(name))
            watch.look()
            used = (clock() - started) / limits.budget_s
            on_progress(min(used, 1.0))
            ratios = _ratios(times, reference)
            if _enough(list(ratios.values()), used, limits):
                break
    return _timing(times, ratios, reference, stopwatch.calls, watch.finish())


def _ratios(times: Mapping[str, Sequence[float]], reference: str) -> dict[str, Ratio]:
    base = times[reference]
    return {
        name: Ratio.of([mine / its for mine, its in zip(values, base, strict=True)])
        for name, values in times.items()
    }


def _enough(ratios: Sequence[Ratio], used: float, limits: Limits) -> bool:
    rounds = ratios[0].runs
    if rounds >= limits.most:
        return True
    if rounds < limits.fewest:
        return False
    return used >= 1 or all(ratio.width <= limits.precision for ratio in ratios)


def _timing(
    times: Mapping[str, Sequence[float]],
    ratios: Mapping[str, Ratio],
    reference: str,
    calls: Mapping[str, int],
    conditions: Conditions,
) -> Timing:
    control = ratios[_CONTROL]
    floor = max(control.high, 1 / control.low) - 1
    arms = tuple(
        Arm(name, Spread.of(times[name]), ratio, ratio.verdict(floor), calls[name])
        for name, ratio in ratios.items()
        if name != _CONTROL
    )
    remarks = (*_noise(control), *conditions.remarks())
    return Timing(reference, arms, control, floor, conditions, remarks)


def _noise(control: Ratio) -> Iterator[str]:
    spread = control.third / control.first - 1
    if spread > _NOISY:
        yield (
            "this machine is noisy: the reference against itself varies by "
            f"{100 * spread:.0f} % between quartiles"
        )
    if control.coverage < _LEVEL:
        yield f"{control.runs} rounds are too few to claim a difference"


def compare_ratios(old: Ratio, new: Ratio, tolerance: float) -> tuple[float, Verdict]:
    """Compare a ratio with that of an earlier run: their quotient, and what may be claimed.

    The intervals must be apart by more than `tolerance`: they cover the rounds of one run, not how
    two runs of the same code differ.
    """
    quotient = new.median / old.median
    if new.low / old.high > 1 + tolerance:
        return quotient, "slower"
    if new.high / old.low < 1 / (1 + tolerance):
        return quotient, "faster"
    return quotient, "no difference"


class _Stopwatch:
    """Times one call of each arm, averaged over as many as its speed needs."""

    def __init__(self, runs: Mapping[str, Run], limits: Limits, clock: Callable[[], float]) -> None:
        self._runs, self._clock = runs, clock
        took = {name: self._warm(run, limits.warm_up) for name, run in runs.items()}
        self.calls = {
            name: min(_MOST_CALLS, max(1, math.ceil(limits.block_s / seconds)))
            for name, seconds in took.items()
        }
        self._settle = {name for name, seconds in took.items() if seconds < limits.settle_s}

    def _warm(self, run: Run, times: int) -> float:
        """The fastest of a few calls."""
        took = []
        for _ in range(max(times, 1)):
            started = self._clock()
            run()
            took.append(self._clock() - started)
        return max(min(took), _SHORTEST_S)

    def time(self, name: str) -> float:
        """Seconds of one call."""
        run, calls = self._runs[name], self.calls[name]
        if name in self._settle:
            run()
        started = self._clock()
        for _ in range(calls):
            run()
        return max(self._clock() - started, _SHORTEST_S) / calls


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
