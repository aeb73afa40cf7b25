"""What a personalisation in the background costs the samples that are answered meanwhile."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune import LiveSample, Service, ServiceSettings
from edgeprune.devices import open_folder, preprocess_from_dict
from edgeprune.runtime.artifact import Artifact

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

ROUNDS = 8
SAMPLES = 150  # of each kind in a round
WARM_UP = 10


def test_inference_while_personalising(effnet: Path, data: Path, tmp_path: Path) -> None:
    preprocess = preprocess_from_dict(Artifact.open(effnet).info.preprocess)
    folder = open_folder(data / "imagenet-sample", preprocess)
    arrays = [folder[index].array for index in range(100)]
    settings = ServiceSettings(threads=1, learn_after=100_000, drift=False)
    idle, busy = list[float](), list[float]()
    with Service(effnet, profile="user", settings=settings, store=tmp_path) as service:
        _answer(service, arrays, len(arrays))
        for _ in range(ROUNDS):  # in turn, so that what else the machine does hits both
            idle += _answer(service, arrays, SAMPLES)[WARM_UP:]
            service.personalize_now()
            while service.status()["learning"]["step"] in (None, "starting"):
                time.sleep(0.01)
            busy += _answer(service, arrays, SAMPLES)[WARM_UP:]
            assert service.status()["learning"]["state"] == "learning"
            service.pause()
            service.resume()
    print(f"\nidle {_figures(idle)}; personalising {_figures(busy)}")
    ratio = np.quantile(busy, 0.99) / np.quantile(idle, 0.99)
    print(f"p99 while personalising is {ratio:.2f} times that of idle")
    assert ratio <= 1.5


def _answer(service: Service, arrays: list[NDArray[np.float32]], count: int) -> list[float]:
    """Latencies of so many samples in milliseconds."""
    return [
        service.process(LiveSample(arrays[n % len(arrays)], time.monotonic(), n, "test")).latency_ms
        for n in range(count)
    ]


def _figures(latencies: list[float]) -> str:
    median, p99, worst = np.quantile(latencies, (0.5, 0.99, 1.0))
    count = len(latencies)
    return f"median {median:.1f} ms, p99 {p99:.1f} ms, worst {worst:.1f} ms ({count} samples)"
