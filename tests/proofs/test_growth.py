"""How the time of a personalisation grows with samples, layers and units."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeprune
from edgeprune.runtime import allocation, repair
from edgeprune.runtime.artifact import Artifact
from edgeprune.runtime.personalize import personalize
from edgeprune.runtime.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

STREAM, SIDE, ROUNDS = 32, 12, 3


def _network(folder: Path, layers: int, units: int) -> Artifact:
    """Blocks that widen a stream of 32 channels to `units` at each of 12 × 12 positions."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    blocks: list[Any] = [nn.Conv2d(3, STREAM, 1), nn.ReLU()]
    for _ in range(layers):
        blocks += [nn.Conv2d(STREAM, units, 1), nn.ReLU(), nn.Conv2d(units, STREAM, 1), nn.ReLU()]
    net = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(STREAM, 10))
    for layer in net:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    path = folder / f"{layers}x{units}.onnx"
    edgeprune.export(net.eval(), torch.zeros(1, 3, SIDE, SIDE), path, dynamo=False)
    return Artifact.open(path)


class _Solving:
    """Seconds of processor time in linear algebra that grows faster than the units."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds, self._depth = 0.0, 0
        for module, name in (
            (repair, "spd_inverse"),
            (repair.Elimination, "__init__"),
            (repair.Elimination, "remove"),
            (repair.CrossMoments, "merge"),
            (allocation, "fit_mixing"),
        ):
            monkeypatch.setattr(module, name, self._timed(getattr(module, name)))

    def _timed(self, inner: Any) -> Any:
        def timed(*args: Any, **options: Any) -> Any:
            self._depth += 1
            started = time.process_time()
            try:
                return inner(*args, **options)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.process_time() - started

        return timed


def _seconds(artifact: Artifact, samples: int, solving: _Solving) -> tuple[float, float]:
    """Processor time of ``deep``, and of its linear algebra; the least of three."""
    rng = np.random.default_rng(0)
    colours = 2 * rng.normal(size=(samples, 3, 1, 1))  # or all pictures would look alike
    pictures = (rng.normal(size=(samples, 3, SIDE, SIDE)) + colours).astype(np.float32)
    settings = Settings(
        sparsity=0.5, threads=1, min_agreement=0.0, prior="off", max_samples=samples
    )
    found = []
    for _ in range(ROUNDS):
        solving.seconds = 0.0
        started = time.process_time()
        personalize(artifact, pictures, settings)
        found.append((time.process_time() - started, solving.seconds))
    return min(found)


def _slope(sizes: list[int], seconds: list[float]) -> float:
    """The exponent of growth between the largest two sizes."""
    return float(np.log(seconds[-1] / seconds[-2]) / np.log(sizes[-1] / sizes[-2]))


def _say(what: str, sizes: list[int], found: list[tuple[float, float]]) -> None:
    for size, (whole, solved) in zip(sizes, found, strict=True):
        print(f"{size} {what}: {whole:.2f} s, of it {solved:.2f} s linear algebra")


def test_time_by_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact, solving = _network(tmp_path, 4, 128), _Solving(monkeypatch)
    sizes = [100, 200, 400, 800]
    found = [_seconds(artifact, samples, solving) for samples in sizes]
    _say("samples", sizes, found)
    assert _slope(sizes, [whole for whole, _ in found]) < 1.15


def test_time_by_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    solving, sizes = _Solving(monkeypatch), [4, 8, 16]
    found = [_seconds(_network(tmp_path, layers, 128), 100, solving) for layers in sizes]
    _say("layers", sizes, found)
    # A group's answers are measured on what is behind it: eight samples times half the network.
    assert _slope(sizes, [whole for whole, _ in found]) < 1.4


def test_time_by_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    solving, sizes = _Solving(monkeypatch), [64, 128, 256, 512, 1024]
    found = [_seconds(_network(tmp_path, 4, units), 100, solving) for units in sizes]
    _say("units", sizes, found)
    assert _slope(sizes, [whole - solved for whole, solved in found]) < 1.15
    assert _slope(sizes, [solved for _, solved in found]) < 3.0
