"""The latencies of late."""

from __future__ import annotations

from collections import deque

import numpy as np

__all__ = ["Latency"]

_REMEMBERED = 1000


class Latency:
    """The last thousand latencies, for their median and 99th percentile."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=_REMEMBERED)

    def add(self, latency_ms: float) -> None:
        """Take in one, in milliseconds."""
        self._values.append(latency_ms)

    def to_dict(self) -> dict[str, float | int | None]:
        """``median``, ``p99`` and ``worst`` in milliseconds, None without any, and the count."""
        values = np.array(self._values.copy())
        if not len(values):
            return {"median": None, "p99": None, "worst": None, "count": 0}
        median, p99 = np.quantile(values, (0.5, 0.99)).tolist()
        return {
            "median": round(median, 3),
            "p99": round(p99, 3),
            "worst": round(float(values.max()), 3),
            "count": len(values),
        }
