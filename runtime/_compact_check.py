"""Does the compacted network compute what the masked one computes?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from ._ort import make_session, run
from .errors import ArtifactError, CompactError, InputError
from .network._graph import Input
from .network._session import batches, random_feeds

__all__ = ["TOLERANCE", "Verdict", "check_model", "compare"]

TOLERANCE = 1e-4
"""Largest difference allowed, relative to the largest output."""

_SEEDS = (0, 1)
_BATCHES = (1, 3)
_BATCH_OF_SAMPLES = 16
_SMALLEST_SCALE = 1e-3  # outputs smaller than this are what cancellation leaves of larger ones

Feeds = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Verdict:
    """Largest relative errors that were seen."""

    random: float
    samples: float | None
    samples_checked: int


def check_model(model: onnx.ModelProto) -> None:
    """Check that a model is valid ONNX, shapes included; CompactError if not."""
    try:
        _check(model)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CompactError(
            f"the compacted network is no valid ONNX model: {error}. Nothing was written. "
            "Please report this network."
        ) from error


def _check(model: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        # GroupNormalization 18 was taken back by ONNX 1.16; networks have it all the same.
        if "deprecated" not in str(error):
            raise
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)


def compare(
    masked: Any, compacted: bytes, inputs: Sequence[Input], samples: Iterable[NDArray[Any]]
) -> Verdict:
    """Compare a session and a model on random inputs of batch 1 and 3, and on the samples.

    Raises:
        CompactError: they differ by more than `TOLERANCE`, an output is not finite, or the model
            does not run.
    """
    try:
        return _compared(masked, make_session(compacted), inputs, samples)
    except (ArtifactError, InputError) as error:
        raise CompactError(
            f"the compacted network does not run: {error}. Nothing was written. Please report "
            "this network."
        ) from error


def _compared(
    masked: Any, compacted: Any, inputs: Sequence[Input], samples: Iterable[NDArray[Any]]
) -> Verdict:

    def worst(many: Iterable[Feeds], what: str) -> float | None:
        error = max((_error(masked, compacted, feeds) for feeds in many), default=None)
        _refuse(error, what)
        return error

    random = worst(_random(inputs), "random inputs")
    listed = _checked(samples, inputs)
    real = worst(_batched(listed, inputs), "the samples")
    return Verdict(random or 0.0, real, len(listed))


def _random(inputs: Sequence[Input]) -> Iterable[Feeds]:
    return (random_feeds(inputs, batch, seed) for seed in _SEEDS for batch in _BATCHES)


def _checked(samples: Iterable[NDArray[Any]], inputs: Sequence[Input]) -> list[NDArray[Any]]:
    dtype = helper.tensor_dtype_to_np_dtype(inputs[0].elem_type)
    found = [np.asarray(sample, dtype) for sample in samples]
    if found and len(inputs) > 1:
        raise CompactError(
            f"the network has {len(inputs)} inputs, and samples are given for one only. "
            "Nothing was written; compact it without samples."
        )
    for sample in found:
        if sample.shape != tuple(inputs[0].shape[1:]):
            raise CompactError(
                f"a sample has shape {sample.shape}, expected {tuple(inputs[0].shape[1:])} "
                "(without the batch). Nothing was written."
            )
    return found


def _batched(samples: Sequence[NDArray[Any]], inputs: Sequence[Input]) -> Iterable[Feeds]:
    """Batches of samples; the last one is filled up where the network has a fixed batch."""
    fixed = inputs[0].shape[0] if inputs[0].shape else None
    missing = -len(samples) % fixed if fixed else 0
    filled = [*samples, *([samples[-1]] * missing if samples else [])]
    for batch in batches(filled, fixed or _BATCH_OF_SAMPLES):
        yield {inputs[0].name: batch}


def _error(masked: Any, compacted: Any, feeds: Feeds) -> float:
    pairs = zip(run(masked, None, feeds), run(compacted, None, feeds), strict=True)
    return max(_difference(np.asarray(wanted), np.asarray(got)) for wanted, got in pairs)


def _difference(wanted: NDArray[Any], got: NDArray[Any]) -> float:
    if wanted.shape != got.shape or wanted.dtype != got.dtype:
        raise CompactError(
            f"the compacted network answers with {got.dtype} {got.shape}, the masked one with "
            f"{wanted.dtype} {wanted.shape}. Nothing was written. Please report this network."
        )
    if not wanted.size or wanted.dtype.kind not in "fiub":
        return 0.0
    wanted, got = wanted.astype(np.float64), got.astype(np.float64)
    if not (np.isfinite(wanted).all() and np.isfinite(got).all()):
        raise CompactError(
            "the network's output is not finite (NaN or infinity). Nothing was written; try other "
            "masks."
        )
    return float(np.abs(wanted - got).max()) / max(float(np.abs(wanted).max()), _SMALLEST_SCALE)


def _refuse(error: float | None, what: str) -> None:
    if error is not None and not error <= TOLERANCE:
        raise CompactError(
            f"the compacted network differs from the masked one by {error:.3g} on {what}; at most "
            f"{TOLERANCE:g} is accepted. Nothing was written. Please report this network."
        )
