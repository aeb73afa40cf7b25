"""A5: what A4 made, with the masked units physically gone."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._timing import Limits, measure
from ..runtime._ort import make_session, run
from ..runtime.compact import compact
from ._arms_ours import asked, personalized
from ._cells import CellKey
from ._measure import measured
from ._workbench import Answer, Workbench

__all__ = ["compacted"]

_TIMED = Limits(budget_s=3.0, fewest=12)


def compacted(bench: Workbench, key: CellKey) -> Answer:
    """A5: personalised as A4, compacted for the board's channel multiple, scored and timed."""
    answer = personalized(bench, key)
    settings = replace(bench.settings, sparsity=asked(key.sparsity))
    profile = bench.personalized(settings, key.samples or 0).profile
    if profile is None:
        return answer
    with tempfile.TemporaryDirectory(prefix="edgeprune-bench-") as folder:
        path = Path(folder) / "compacted.onnx"
        with measured() as cost:
            report = compact(
                bench.artifact, profile, path, channel_multiple=settings.channel_multiple
            )
        session = make_session(path)
    cost.seconds += answer.cost.seconds
    cost.cpu_seconds += answer.cost.cpu_seconds
    if cost.added_bytes is not None and answer.cost.added_bytes is not None:
        cost.added_bytes = max(cost.added_bytes, answer.cost.added_bytes)
    sizes = {
        "macs": 1 - report.macs_after / report.macs_before,
        "weights": 1 - report.parameters_after / report.parameters_before,
        "bytes": report.bytes_after,
        "bytes_before": report.bytes_before,
    }
    logits = bench.logits_of(session)
    more = {**answer.more, "compacted": sizes, **_latency(bench, session)}
    return replace(answer, logits=logits, cost=cost, more=more)


def _latency(bench: Workbench, session: Any) -> dict[str, Any]:
    """Time of one sample, compacted against dense, taken in turns on one thread."""
    dense, control = (make_session(bench.artifact.graph, bench.tensors) for _ in range(2))
    one = bench.test[0][None]

    def runs(of: Any) -> NDArray[np.float32]:
        return np.asarray(run(of, None, {bench.info.input_name: one})[0])

    timing = measure(
        {"dense": lambda: runs(dense), "compacted": lambda: runs(session)},
        reference="dense",
        control=lambda: runs(control),
        limits=_TIMED,
    )
    arm = timing["compacted"]
    ratio = {"median": arm.ratio.median, "low": arm.ratio.low, "high": arm.ratio.high}
    return {"latency_ratio": ratio, "latency_verdict": arm.verdict}
