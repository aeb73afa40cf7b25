"""What a personalisation in the background costs the samples that are answered meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune import LiveResult, LiveSample, Service, ServiceSettings
from edgeprune.devices import open_folder, preprocess_from_dict
from edgeprune.runtime.artifact import Artifact

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

BLOCK = 100
WAITING = 100  # samples that it learns from


def test_inference_while_personalising(effnet: Path, data: Path, tmp_path: Path) -> None:
    """All of a personalisation and the swap; blocks in which its process is stopped are idle."""
    preprocess = preprocess_from_dict(Artifact.open(effnet).info.preprocess)
    classes = sorted((data / "tiny-imagenet" / "adapt").iterdir())[:10]
    files = [file for wnid in classes for file in sorted(wnid.iterdir())[: WAITING // 10]]
    folder = open_folder(files, preprocess)
    arrays = [folder[index].array for index in range(WAITING)]
    settings = ServiceSettings(threads=1, learn_after=100_000)
    idle, busy = list[LiveResult](), list[LiveResult]()
    with Service(effnet, profile="user", settings=settings, store=tmp_path) as service:
        _answer(service, arrays, WAITING, teaches=True)
        service.personalize_now()
        while (worker := _worker(service)) is None:
            time.sleep(0.001)
        while _worker(service) is not None:
            # In turn, so that the machine's moods hit both; the process may have ended just now.
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGSTOP)
                idle += _answer(service, arrays, BLOCK)
                os.kill(worker, signal.SIGCONT)
            busy += _answer(service, arrays, BLOCK)
        idle += _answer(service, arrays, BLOCK)
        assert service.status()["counts"]["personalizations"] == 1
    assert (busy[0].state, busy[-1].state) == ("dense", "personalized")
    swap = next(n for n, result in enumerate(busy) if result.state == "personalized")
    near = [result.latency_ms for result in busy[max(swap - 10, 0) : swap + 10]]
    print(f"\nidle {_figures(idle)}; personalising {_figures(busy)}")
    print(f"worst of the ten before and after the swap: {max(near):.1f} ms")
    ratio = _p99(busy) / _p99(idle)
    print(f"p99 while personalising is {ratio:.2f} times that of idle")
    assert ratio <= 1.5


def _worker(service: Service) -> int | None:
    pid: int | None = service.status()["learning"]["worker_pid"]
    return pid


def _answer(
    service: Service, arrays: list[NDArray[np.float32]], count: int, *, teaches: bool = False
) -> list[LiveResult]:
    return [
        service.process(LiveSample(arrays[n % len(arrays)], time.monotonic(), n, "test", teaches))
        for n in range(count)
    ]


def _p99(results: list[LiveResult]) -> float:
    return float(np.quantile([result.latency_ms for result in results], 0.99))


def _figures(results: list[LiveResult]) -> str:
    latencies = [result.latency_ms for result in results]
    median, p99, worst = np.quantile(latencies, (0.5, 0.99, 1.0))
    count = len(latencies)
    return f"median {median:.1f} ms, p99 {p99:.1f} ms, worst {worst:.1f} ms ({count} samples)"
