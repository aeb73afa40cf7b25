"""Does the artifact, in plain ONNX Runtime, compute what the source network computes?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.errors import ExportError
from ..runtime.network._graph import Input
from ..runtime.network._session import Runner, batches, random_feeds

__all__ = ["TOLERANCE", "Check", "Verdict", "verify"]

TOLERANCE = 1e-4
"""Largest difference allowed, relative to the largest output."""

_SMALLEST_SCALE = 1e-3  # outputs smaller than this are what cancellation leaves of larger ones

_BATCHES = (1, 3, 2)

Check = Callable[[Mapping[str, NDArray[Any]]], Sequence[NDArray[Any]]]
"""The source network as a function of its inputs by name; it gives all its outputs."""


@dataclass(frozen=True)
class Verdict:
    """Largest relative errors that were seen."""

    worst_error_random: float
    worst_error_samples: float | None
    samples_checked: int


def verify(
    draft: Path, source: Check, inputs: Sequence[Input], samples: Sequence[NDArray[Any]]
) -> Verdict:
    """Compare on random inputs of several batch sizes, and on the samples.

    Raises:
        ExportError: the outputs differ by more than `TOLERANCE`, or are not finite.
    """
    artifact = Runner(draft)
    feeds = [random_feeds(inputs, batch, seed) for seed, batch in enumerate(_BATCHES)]
    random = max(_error(artifact, source, values) for values in feeds)
    _refuse(random, "random inputs")
    first = inputs[0].name
    real = max((_error(artifact, source, {first: v}) for v in batches(samples)), default=None)
    _refuse(real, "the samples")
    return Verdict(random, real, len(samples))


def _error(artifact: Runner, source: Check, feeds: Mapping[str, NDArray[Any]]) -> float:
    expected, got = source(feeds), artifact(feeds)
    if len(expected) != len(got):
        raise ExportError(
            f"the artifact has {len(got)} outputs, the source network {len(expected)}. "
            "Nothing was written."
        )
    return max(
        _difference(np.asarray(a), np.asarray(b)) for a, b in zip(expected, got, strict=True)
    )


def _difference(expected: NDArray[Any], got: NDArray[Any]) -> float:
    if expected.shape != got.shape:
        raise ExportError(
            f"the artifact answers with shape {got.shape}, the source network with "
            f"{expected.shape}. Nothing was written."
        )
    if expected.dtype.kind != "f":
        return 0.0 if np.array_equal(expected, got) else float("inf")
    if not (np.isfinite(expected).all() and np.isfinite(got).all()):
        raise ExportError(
            "the network's output is not finite (NaN or infinity). Check its weights; "
            "nothing was written."
        )
    scale = max(_SMALLEST_SCALE, float(np.abs(expected).max(initial=0.0)))
    return float(np.abs(expected - got).max(initial=0.0)) / scale


def _refuse(error: float | None, what: str) -> None:
    if error is not None and not error <= TOLERANCE:
        raise ExportError(
            f"the artifact differs from the source network by {error:.3g} on {what}; at most "
            f"{TOLERANCE:g} is accepted. Nothing was written. Please report this network."
        )
