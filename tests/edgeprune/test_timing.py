"""Measuring, with clocks that stand still unless an arm moves them."""

from __future__ import annotations

import gc
import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprune._machine import Conditions, Watch, describe_machine
from edgeprune._timing import Limits, Ratio, compare_ratios, measure


class Clock:
    """Time that passes only when an arm runs."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def arm(
        self,
        seconds: float,
        noise: random.Random | None = None,
        *,
        jitter: float = 0.05,
        speed: Callable[[float], float] = lambda _now: 1.0,
    ) -> Callable[[], None]:
        """A callable that takes `seconds`, more or less, times what `speed` says."""

        def run() -> None:
            factor = noise.lognormvariate(0.0, jitter) if noise else 1.0
            self.now += seconds * factor * speed(self.now)

        return run


QUIET = Limits(budget_s=20.0)


@pytest.mark.parametrize("seed", range(20))
def test_two_equal_arms_are_no_difference(seed):
    clock, noise = Clock(), random.Random(seed)
    timing = measure(
        {"a": clock.arm(0.03, noise), "b": clock.arm(0.03, noise)},
        reference="a",
        control=clock.arm(0.03, noise),
        limits=QUIET,
        clock=clock,
        seed=seed,
    )
    assert timing["b"].verdict == "no difference"
    assert "no measurable difference" in timing["b"].ratio.sentence(timing["b"].verdict)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("factor", "verdict"), [(1.5, "slower"), (0.5, "faster")])
def test_a_real_difference_is_found(factor, verdict, seed):
    clock, noise = Clock(), random.Random(seed)
    timing = measure(
        {"a": clock.arm(0.03, noise), "b": clock.arm(0.03 * factor, noise)},
        reference="a",
        limits=QUIET,
        clock=clock,
    )
    arm = timing["b"]
    assert arm.verdict == verdict
    assert arm.ratio.low < factor < arm.ratio.high
    assert arm.ratio.median == pytest.approx(factor, rel=0.05)
    assert arm.seconds.median == pytest.approx(0.03 * factor, rel=0.05)
    assert f"times {verdict}" in arm.ratio.sentence(verdict)


def test_a_drift_does_not_fool_the_paired_ratio():
    """A machine that gets six times slower meanwhile, as one that throttles may."""
    clock, noise = Clock(), random.Random(3)
    start = clock.now

    def throttling(now: float) -> float:
        return 1.0 + 0.25 * (now - start)

    def arm(seconds: float) -> Callable[[], None]:
        return clock.arm(seconds, noise, jitter=0.02, speed=throttling)

    timing = measure(
        {"a": arm(0.03), "same": arm(0.03), "more": arm(0.033)},
        reference="a",
        control=arm(0.03),
        limits=QUIET,
        clock=clock,
    )
    assert clock.now - start > 19
    assert timing["a"].seconds.third > 1.5 * timing["a"].seconds.first
    assert timing["same"].verdict == "no difference"
    assert timing["more"].verdict == "slower"
    assert timing["more"].ratio.median == pytest.approx(1.1, rel=0.03)


def test_a_difference_as_large_as_that_of_the_control_is_noise():
    """Two sessions of the same network may differ for good, by where their memory lies."""
    clock, noise = Clock(), random.Random(4)
    timing = measure(
        {"a": clock.arm(0.03, noise, jitter=0.005), "b": clock.arm(0.0306, noise, jitter=0.005)},
        reference="a",
        control=clock.arm(0.0309, noise, jitter=0.005),
        limits=QUIET,
        clock=clock,
    )
    assert timing["b"].ratio.low > 1
    assert timing["b"].verdict == "no difference"
    assert timing.floor == pytest.approx(0.03, abs=0.01)


def test_every_round_has_its_own_order_and_the_seed_decides_it():
    def orders(seed: int) -> list[str]:
        clock, seen = Clock(), []

        def arm(name: str) -> Callable[[], None]:
            run = clock.arm(1.0)
            return lambda: (seen.append(name), run())[1]

        limits = Limits(budget_s=40.0, fewest=6, most=10, precision=0.0)
        measure({n: arm(n) for n in "abc"}, reference="a", limits=limits, clock=clock, seed=seed)
        return seen[4 * limits.warm_up :]

    first = orders(1)
    assert first == orders(1) != orders(2)
    rounds = ["".join(first[i : i + 4]) for i in range(0, len(first), 4)]
    assert len(set(rounds)) > 2
    assert all(sorted(one) == ["a", "a", "b", "c"] for one in rounds)  # the control is "a" again


def test_it_stops_at_the_budget_and_at_the_precision():
    clock, noise = Clock(), random.Random(5)
    arms = {"a": clock.arm(1.0, noise, jitter=0.5), "b": clock.arm(1.0, noise, jitter=0.5)}
    started = clock.now
    timing = measure(arms, reference="a", limits=Limits(budget_s=100.0), clock=clock)
    assert 100 <= clock.now - started < 130
    assert timing.control.width > 0.005
    clock = Clock()
    timing = measure({"a": clock.arm(1.0)}, reference="a", limits=Limits(), clock=clock)
    assert timing.control.runs == Limits().fewest
    timing = measure(
        {"a": clock.arm(1.0, noise)}, reference="a", limits=Limits(budget_s=1e9), clock=clock
    )
    assert timing.control.runs <= Limits().most


def test_progress_ends_at_most_at_one():
    clock, shares = Clock(), []
    measure({"a": clock.arm(3.0)}, reference="a", clock=clock, on_progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_fast_callables_are_averaged_over_many_calls():
    clock = Clock()
    timing = measure(
        {"slow": clock.arm(1.0), "fast": clock.arm(1e-4), "nothing": lambda: None},
        reference="slow",
        clock=clock,
    )
    assert timing["slow"].calls == 1
    assert timing["fast"].calls in (200, 201)
    assert timing["fast"].seconds.median == pytest.approx(1e-4)
    assert timing["nothing"].ratio.median > 0


def test_a_failing_arm_fails_the_measurement_and_garbage_is_collected_again():
    clock, calls = Clock(), []

    def fails() -> None:
        assert len(calls) < 5 or not gc.isenabled()
        calls.append(1)
        clock.now += 1
        if len(calls) > 6:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        measure({"a": clock.arm(1.0), "b": fails}, reference="a", clock=clock)
    assert gc.isenabled()


@pytest.mark.parametrize("runs", range(1, 40))
def test_the_interval_is_that_of_the_sign_test(runs):
    """The exact binomial probability, added up here in another way."""
    ratio = Ratio.of([1 + i / 100 for i in range(runs)])
    place = round((ratio.low - 1) * 100)
    below = sum(math.comb(runs, k) for k in range(place + 1)) / 2**runs
    assert ratio.coverage == pytest.approx(1 - 2 * below)
    assert ratio.high == pytest.approx(1 + (runs - 1 - place) / 100)
    assert (ratio.coverage >= 0.95) == (runs >= 6)
    if runs >= 6:
        tighter = sum(math.comb(runs, k) for k in range(place + 2)) / 2**runs
        assert 1 - 2 * tighter < 0.95


def test_many_runs_do_not_overflow():
    assert Ratio.of([1.0] * 3000).coverage == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_covers_the_median_as_often_as_it_says(seed):
    noise, covered = random.Random(seed), 0
    for _ in range(400):
        ratio = Ratio.of([noise.lognormvariate(0.0, 0.3) for _ in range(30)])
        covered += ratio.low <= 1.0 <= ratio.high
    assert covered >= 0.92 * 400


def test_few_rounds_claim_nothing():
    assert Ratio.of([2.0] * 5).verdict() == "no difference"
    assert Ratio.of([2.0] * 6).verdict() == "slower"
    assert Ratio.of([0.5] * 6).verdict() == "faster"
    clock = Clock()
    limits = Limits(budget_s=1.0, fewest=3)
    timing = measure({"a": clock.arm(9.0)}, reference="a", limits=limits, clock=clock)
    assert "3 rounds are too few to claim a difference" in timing.remarks


def test_a_noisy_machine_is_named():
    clock, noise = Clock(), random.Random(6)
    timing = measure(
        {"a": clock.arm(1.0, noise, jitter=0.3)},
        reference="a",
        limits=Limits(budget_s=200),
        clock=clock,
    )
    assert any("noisy" in remark for remark in timing.remarks)


@pytest.mark.parametrize(
    ("old", "new", "tolerance", "verdict"),
    [
        (1.0, 1.2, 0.03, "slower"),
        (1.2, 1.0, 0.03, "faster"),
        (1.0, 1.02, 0.03, "no difference"),
        (1.0, 1.2, 0.3, "no difference"),
    ],
)
def test_two_runs_are_compared_by_their_intervals(old, new, tolerance, verdict):
    def around(middle: float) -> Ratio:
        return Ratio.of([middle * (1 + step / 1000) for step in range(-10, 11)])

    quotient, told = compare_ratios(around(old), around(new), tolerance)
    assert told == verdict
    assert quotient == pytest.approx(new / old)


def test_the_outcome_becomes_json():
    clock = Clock()
    timing = measure({"a": clock.arm(1.0)}, reference="a", clock=clock)
    data = json.loads(json.dumps(timing.to_dict(), allow_nan=False))
    assert data["arms"][0]["ratio"]["runs"] == 12
    assert data["arms"][0]["verdict"] == "no difference"


class Linux:
    """A ``/proc`` and a ``/sys`` to be written by a test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stat(0, 0, 0)

    def write(self, path: str, text: object) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def stat(self, busy_s: float, idle_s: float, stolen_s: float) -> None:
        busy, idle, stolen = (round(100 * x) for x in (busy_s, idle_s, stolen_s))
        self.write("proc/stat", f"cpu  {busy} 0 0 {idle} 0 0 0 {stolen} 0 0\ncpu0 1 2 3")

    def clock(self, core: int, mhz: int, governor: str = "ondemand") -> None:
        folder = f"sys/devices/system/cpu/cpu{core}/cpufreq"
        self.write(f"{folder}/scaling_cur_freq", mhz * 1000)
        self.write(f"{folder}/scaling_governor", governor)


@pytest.fixture
def linux(tmp_path: Path) -> Linux:
    return Linux(tmp_path)


def watch(linux: Linux, clock: Clock, own: list[float] | None = None) -> Watch:
    times = iter(own or [0.0, 0.0])
    return Watch(linux.root, clock=clock, own_seconds=lambda: next(times))


def test_a_quiet_machine_needs_no_remark(linux):
    clock = Clock()
    seen = watch(linux, clock, [5.0, 14.0])
    clock.now += 10
    linux.stat(9.2, 10.8, 0.0)
    conditions = seen.finish()
    assert conditions.seconds == 10
    assert conditions.others == pytest.approx(0.01)
    assert conditions.stolen == 0
    assert conditions.remarks() == ()


def test_other_processes_and_the_hypervisor_are_named(linux):
    clock = Clock()
    seen = watch(linux, clock, [0.0, 4.0])
    linux.stat(10.0, 8.0, 2.0)
    conditions = seen.finish()
    assert conditions.others == pytest.approx(0.3)
    load, stolen = conditions.remarks()
    assert "30 %" in load
    assert "10 %" in stolen


def test_clocks_and_temperatures(linux):
    clock = Clock()
    linux.clock(0, 1500)
    linux.clock(1, 1500)
    linux.write("sys/class/thermal/thermal_zone0/temp", 51000)
    linux.write("sys/class/thermal/thermal_zone1/temp", 40000)
    seen = watch(linux, clock)
    linux.clock(1, 600)
    linux.write("sys/class/thermal/thermal_zone0/temp", 82000)
    seen.look()  # too soon after the last look
    linux.clock(1, 800)
    clock.now += 1
    seen.look()
    conditions = seen.finish()
    assert conditions.clock_mhz == (800, 1500)
    assert conditions.temperature_c == (51, 82)
    changed, hot = conditions.remarks()
    assert "between 800 and 1500 MHz (governor ondemand)" in changed
    assert "82 °C" in hot


def test_throttling_of_a_pc_and_of_a_raspberry_pi(linux):
    counter = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    flags = "sys/devices/platform/soc/soc:firmware/get_throttled"
    linux.write(counter, 7)
    linux.write(flags, "50000")  # what was long ago does not count
    seen = watch(linux, Clock())
    linux.write(counter, 9)
    linux.write(flags, "50005")
    conditions = seen.finish()
    assert conditions.throttled == ("under-voltage", "throttled", "core throttle")
    assert "slowed down: under-voltage, throttled, core throttle" in conditions.remarks()[0]


def test_what_the_system_does_not_tell_is_none(tmp_path):
    conditions = Watch(tmp_path / "nothing").finish()
    assert (conditions.others, conditions.stolen, conditions.clock_mhz) == (None, None, None)
    assert conditions.remarks() == ()
    assert json.loads(json.dumps(conditions.to_dict()))["temperature_c"] is None


def test_rubbish_in_sys_is_passed_over(linux):
    linux.write("sys/class/thermal/thermal_zone0/temp", "N/A")
    linux.write("sys/devices/platform/soc/soc:firmware/get_throttled", "??")
    linux.write("proc/stat", "cpu 1 2")
    assert watch(linux, Clock()).finish() == Conditions(seconds=0.0)


def test_the_machine_is_described(linux):
    linux.write("proc/cpuinfo", "processor : 0\nmodel name\t: Some CPU @ 2 GHz\n")
    linux.clock(0, 1500, "performance")
    machine = describe_machine(linux.root)
    assert machine.cpu == "Some CPU @ 2 GHz"
    assert machine.governor == "performance"
    assert machine.cores >= 1
    assert set(machine.versions) >= {"python", "edgeprune", "numpy", "onnxruntime"}
    assert json.loads(json.dumps(machine.to_dict()))["cpu"] in machine.sentence()
    linux.write("proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0")
    assert describe_machine(linux.root).cpu == "Raspberry Pi 4 Model B Rev 1.4"


def test_this_machine_is_described():
    machine = describe_machine()
    assert machine.cpu
    assert Watch().finish().seconds >= 0
