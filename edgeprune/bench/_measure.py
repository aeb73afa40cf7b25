"""What a piece of work takes: seconds, and memory on top of what was there before."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Cost", "measured"]

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # Linux 4.0: proc(5)


@dataclass
class Cost:
    """Wall time, processor time, and the peak of this process's memory above its start.

    On a machine that others use, too, processor time is what can be compared. The memory is None
    where it is unknown.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    added_bytes: int | None = None


@contextlib.contextmanager
def measured() -> Iterator[Cost]:
    """Fill in the cost of what is done inside.

    What was freed before is given back to the system first: else a first arm would pay for the
    memory that the next ones use again.
    """
    cost = Cost()
    before = _start()
    started, cpu_started = time.perf_counter(), time.process_time()
    try:
        yield cost
    finally:
        cost.seconds = time.perf_counter() - started
        cost.cpu_seconds = time.process_time() - cpu_started
        peak = _kilobytes("VmHWM") if before is not None else None
        if before is not None and peak is not None:
            cost.added_bytes = max(peak - before, 0) * 1024


def _start() -> int | None:
    """Give free memory back, forget the peak, and say what is in use."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        _CLEAR.write_text(_RESET_PEAK)
    except (OSError, AttributeError):  # not Linux, not glibc, or not allowed
        return None
    return _kilobytes("VmRSS")


def _kilobytes(name: str) -> int | None:
    try:
        lines = _STATUS.read_text("ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(name + ":")), None)
