"""Does the artifact, in plain ONNX Runtime, compute what the source network computes?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.errors import ExportError
from ._graph import Shape
from ._session import Runner, batches

__all__ = ["TOLERANCE", "Check", "Verdict", "verify"]

TOLERANCE = 1e-4
"""Largest difference allowed, relative to the largest output where that exceeds 1."""

_SEEDS = (0, 1, 2)
_BATCHES = (1, 3)

Check = Callable[[NDArray[Any]], NDArray[Any]]
"""The source network as a function of a batch."""


@dataclass(frozen=True)
class Verdict:
    """Largest relative errors that were seen."""

    worst_error_random: float
    worst_error_samples: float | None
    samples_checked: int


def verify(draft: Path, source: Check, shape: Shape, samples: Sequence[NDArray[Any]]) -> Verdict:
    """Compare on random inputs of several batch sizes, and on the samples.

    Raises:
        ExportError: the outputs differ by more than `TOLERANCE`, or are not finite.
    """
    artifact = Runner(draft)
    random = max(_error(artifact, source, values) for values in _random_inputs(shape))
    _refuse(random, "random inputs")
    real = max((_error(artifact, source, values) for values in batches(samples)), default=None)
    _refuse(real, "the samples")
    return Verdict(random, real, len(samples))


def _random_inputs(shape: Shape) -> list[NDArray[Any]]:
    return [
        np.random.default_rng(seed).standard_normal((batch, *_sizes(shape)), np.float32)
        for seed in _SEEDS
        for batch in _BATCHES
    ]


def _sizes(shape: Shape) -> list[int]:
    return [size for size in shape[1:] if size is not None]


def _error(artifact: Runner, source: Check, values: NDArray[Any]) -> float:
    expected, got = np.asarray(source(values)), np.asarray(artifact(values)[0])
    if expected.shape != got.shape:
        raise ExportError(
            f"the artifact answers with shape {got.shape}, the source network with "
            f"{expected.shape}. Nothing was written."
        )
    if not (np.isfinite(expected).all() and np.isfinite(got).all()):
        raise ExportError(
            "the network's output is not finite (NaN or infinity). Check its weights; "
            "nothing was written."
        )
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    return float(np.abs(expected - got).max(initial=0.0)) / scale


def _refuse(error: float | None, what: str) -> None:
    if error is not None and not error <= TOLERANCE:
        raise ExportError(
            f"the artifact differs from the source network by {error:.3g} on {what}; at most "
            f"{TOLERANCE:g} is accepted. Nothing was written. Please report this network."
        )
