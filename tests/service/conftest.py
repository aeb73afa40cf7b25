"""The bundled keyword network and the demo's sounds, as a live stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edgeprune
from edgeprune import LiveSample, Service, ServiceEvent, ServiceSettings, Settings
from edgeprune.devices import open_folder, preprocess_from_dict
from edgeprune.runtime.artifact import Artifact
from edgeprune.runtime.session import Session

ASSETS = Path(edgeprune.__file__).parent / "assets"
MODEL = ASSETS / "digits.onnx"
DEADLINE_S = 60.0
FAST = Settings(sparsity=0.25, allocation="uniform", threads=1)


@dataclass
class Sounds:
    """Real inputs of the model, and what the network as trained says of them."""

    arrays: list[NDArray[np.float32]]
    logits: NDArray[np.float32]

    def of(self, *digits: int) -> list[NDArray[np.float32]]:
        """Those that are heard as one of the digits."""
        heard = self.logits.argmax(1)
        return [a for a, digit in zip(self.arrays, heard, strict=True) if digit in digits]


@dataclass
class Events:
    """What a service told, to be waited for."""

    all: list[ServiceEvent] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __call__(self, event: ServiceEvent) -> None:
        with self.changed:
            self.all.append(event)
            self.changed.notify_all()

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.all]

    def wait(self, kind: str, count: int = 1) -> ServiceEvent:
        """The event of this kind that came as number `count`."""
        with self.changed:
            there = self.changed.wait_for(lambda: self.kinds.count(kind) >= count, DEADLINE_S)
            assert there, f"no {kind} in {self.kinds}"
            return [event for event in self.all if event.kind == kind][count - 1]


@pytest.fixture(scope="session")
def sounds() -> Sounds:
    artifact = Artifact.open(MODEL)
    folder = open_folder(ASSETS / "demo" / "adapt", preprocess_from_dict(artifact.info.preprocess))
    arrays = [folder[index].array for index in range(len(folder))]
    return Sounds(arrays, Session(artifact, threads=1).run(np.stack(arrays)))


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def make(tmp_path: Path, events: Events) -> Iterator[Callable[..., Service]]:
    """Open services on one store; all are closed at the end."""
    services: list[Service] = []

    def build(profile: str = "anna", **settings: Any) -> Service:
        # Not behind all other programs: a machine that runs tests is busy.
        base: dict[str, Any] = {"personalize": FAST, "threads": 1, "worker_nice": 0}
        chosen = ServiceSettings(**(base | settings))
        service = Service(MODEL, profile=profile, settings=chosen, store=tmp_path, on_event=events)
        services.append(service)
        return service

    yield build
    for service in services:
        service.close()


def stream(
    arrays: Sequence[NDArray[np.float32]], count: int, *, first: int = 0, seed: int = 0
) -> Iterator[LiveSample]:
    """So many samples in random order, numbered."""
    order = np.random.default_rng(seed).integers(0, len(arrays), count)
    for number, index in enumerate(order.tolist(), first):
        yield LiveSample(arrays[index], time.monotonic(), number, "test")


def feed(
    service: Service, arrays: Sequence[NDArray[np.float32]], count: int, **how: Any
) -> list[Any]:
    """Process so many samples, and return the answers."""
    return [service.process(sample) for sample in stream(arrays, count, **how)]
