"""The computer that a figure was measured on, and what disturbed it meanwhile.

Linux tells it in ``/proc`` and ``/sys``; what it does not tell (a virtual machine has no clock, a
small board no throttle counter) is None and is never guessed.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["Conditions", "Machine", "Watch", "describe_machine"]

_ROOT = Path("/")
_PACKAGES = ("edgeprune", "numpy", "onnx", "onnxruntime")
_CPU_NAMES = ("model name", "Model", "Hardware", "cpu model")
_CPUS = "sys/devices/system/cpu"
_PI_FLAGS = "sys/devices/platform/soc/soc:firmware/get_throttled"
_PI_NOW = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit"}
_LOOK_EVERY_S = 0.5
_BUSY = 0.05  # of the processor, used by others: more than an idle desktop does
_STOLEN = 0.01
_SHORTEST_S = 1.0  # the kernel counts in hundredths of a second
_CLOCK_CHANGE = 0.05
_HOT_C = 80.0  # where small boards begin to throttle


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace").strip("\0\n ")
    except OSError:
        return None


def _number(path: Path) -> float | None:
    try:
        return float(_read(path) or "")
    except ValueError:
        return None


@dataclass(frozen=True)
class Machine:
    """What a figure has to be read with.

    Attributes:
        cpu: the processor's or the board's name.
        architecture: as in ``x86_64`` or ``aarch64``.
        cores: that this process may use.
        governor: of the clock; None where there is none to be seen.
        system: operating system and its release.
        versions: of Python and of the packages that count.
    """

    cpu: str
    architecture: str
    cores: int
    governor: str | None
    system: str
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "versions": dict(self.versions)}

    def sentence(self) -> str:
        """All of it in one line."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        governor = "unknown" if self.governor is None else self.governor
        return (
            f"{self.cpu} ({self.architecture}), {self.cores} cores, governor {governor}, "
            f"{self.system}; {versions}"
        )


def describe_machine(root: Path = _ROOT) -> Machine:
    """Describe this computer; `root` stands for ``/`` in tests."""
    return Machine(
        cpu=_cpu_name(root),
        architecture=platform.machine(),
        cores=_cores(),
        governor=", ".join(sorted(set(_governors(root)))) or None,
        system=f"{platform.system()} {platform.release()}",
        versions={"python": platform.python_version(), **dict(_versions())},
    )


def _cpu_name(root: Path) -> str:
    board = _read(root / "proc/device-tree/model")
    if board:
        return board
    lines = (_read(root / "proc/cpuinfo") or "").splitlines()
    fields = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    found = next((fields[name] for name in _CPU_NAMES if fields.get(name)), "")
    return found or platform.processor() or platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _governors(root: Path) -> Iterator[str]:
    for path in sorted((root / _CPUS).glob("cpu[0-9]*/cpufreq/scaling_governor")):
        governor = _read(path)
        if governor:
            yield governor


def _versions() -> Iterator[tuple[str, str]]:
    for name in _PACKAGES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue


@dataclass(frozen=True)
class Conditions:
    """What went on beside a measurement; None is what the system does not tell.

    Attributes:
        seconds: how long was watched.
        others: share of the whole processor that other processes used.
        stolen: share that the hypervisor withheld.
        clock_mhz: lowest and highest clock that was seen, all cores together.
        temperature_c: hottest sensor at the start, and the most that was seen.
        throttled: what limited the clock, as the system names it.
        governor: of the clock.
    """

    seconds: float
    others: float | None = None
    stolen: float | None = None
    clock_mhz: tuple[float, float] | None = None
    temperature_c: tuple[float, float] | None = None
    throttled: tuple[str, ...] = ()
    governor: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    def remarks(self) -> tuple[str, ...]:
        """What a reader of the figures must know, in sentences; nothing if all was quiet."""
        return tuple(self._load_remarks()) + tuple(self._clock_remarks())

    def _load_remarks(self) -> Iterator[str]:
        if self.others is not None and self.others > _BUSY:
            yield (
                f"other processes used {100 * self.others:.0f} % of the processor meanwhile; close "
                "them and measure again"
            )
        if self.stolen is not None and self.stolen > _STOLEN:
            yield f"the hypervisor withheld {100 * self.stolen:.0f} % of the processor"

    def _clock_remarks(self) -> Iterator[str]:
        if self.clock_mhz is not None and self.clock_mhz[1] > self.clock_mhz[0] * (
            1 + _CLOCK_CHANGE
        ):
            low, high = self.clock_mhz
            advice = "" if self.governor == "performance" else f" (governor {self.governor})"
            yield f"the clock changed between {low:.0f} and {high:.0f} MHz{advice}"
        if self.throttled:
            yield f"the processor was slowed down: {', '.join(self.throttled)}; cool it"
        elif self.temperature_c is not None and self.temperature_c[1] >= _HOT_C:
            yield f"a sensor reached {self.temperature_c[1]:.0f} °C; the board may throttle"


@dataclass(frozen=True)
class _Jiffies:
    """Seconds since boot over all cores: busy (with us and others), stolen, and altogether."""

    busy: float
    stolen: float
    total: float


def _jiffies(root: Path) -> _Jiffies | None:
    first = (_read(root / "proc/stat") or "").partition("\n")[0].split()
    if len(first) < 9 or first[0] != "cpu":
        return None
    per_second = os.sysconf("SC_CLK_TCK")
    user, nice, system, idle, waiting, irq, soft, stolen = (int(x) / per_second for x in first[1:9])
    busy = user + nice + system + irq + soft
    return _Jiffies(busy, stolen, busy + idle + waiting + stolen)


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Watch:
    """Looks at the machine from time to time while something else is measured.

    ::

        watch = Watch()
        for _ in range(rounds):
            ...
            watch.look()
        print(watch.finish().remarks())
    """

    def __init__(
        self,
        root: Path = _ROOT,
        *,
        clock: Callable[[], float] = time.perf_counter,
        own_seconds: Callable[[], float] = _own_seconds,
    ) -> None:
        self._root, self._clock, self._own_seconds = root, clock, own_seconds
        self._started = self._looked = clock()
        self._own = own_seconds()
        self._jiffies = _jiffies(root)
        self._clocks: list[float] = []
        self._temperatures: list[float] = []
        self._flags: dict[str, None] = {}
        self._throttles = self._throttle_counts()
        self._sample()

    def look(self) -> None:
        """Read clocks, temperatures and throttling, at most twice a second."""
        if self._clock() - self._looked >= _LOOK_EVERY_S:
            self._sample()
            self._looked = self._clock()

    def finish(self) -> Conditions:
        """Look once more and sum up."""
        self._sample()
        counted = self._throttle_counts()
        for name, count in counted.items():
            if count > self._throttles.get(name, count):
                self._flags[name.replace("_", " ")] = None
        others, stolen = self._load()
        return Conditions(
            seconds=self._clock() - self._started,
            others=others,
            stolen=stolen,
            clock_mhz=(min(self._clocks), max(self._clocks)) if self._clocks else None,
            temperature_c=(
                (self._temperatures[0], max(self._temperatures)) if self._temperatures else None
            ),
            throttled=tuple(self._flags),
            governor=next(_governors(self._root), None),
        )

    def _load(self) -> tuple[float | None, float | None]:
        now = _jiffies(self._root)
        if now is None or self._jiffies is None:
            return None, None
        total = now.total - self._jiffies.total
        if total < _SHORTEST_S:
            return None, None
        own = self._own_seconds() - self._own
        others = max(0.0, now.busy - self._jiffies.busy - own) / total
        return others, max(0.0, now.stolen - self._jiffies.stolen) / total

    def _sample(self) -> None:
        clocks = (self._root / _CPUS).glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
        self._clocks += [khz / 1000 for khz in map(_number, clocks) if khz]
        zones = (self._root / "sys/class/thermal").glob("thermal_zone*/temp")
        temperatures = [milli / 1000 for milli in map(_number, zones) if milli is not None]
        if temperatures:
            self._temperatures.append(max(temperatures))
        self._sample_raspberry_pi()

    def _sample_raspberry_pi(self) -> None:
        try:
            bits = int(_read(self._root / _PI_FLAGS) or "0", 16)
        except ValueError:
            return
        self._flags |= {name: None for bit, name in _PI_NOW.items() if bits >> bit & 1}

    def _throttle_counts(self) -> dict[str, float]:
        totals: dict[str, float] = {}
        for path in (self._root / _CPUS).glob("cpu[0-9]*/thermal_throttle/*_throttle_count"):
            name = path.name.removesuffix("_count")
            totals[name] = totals.get(name, 0.0) + (_number(path) or 0.0)
        return totals
