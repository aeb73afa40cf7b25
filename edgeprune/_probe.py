"""Running a network on input that serves no purpose but to compare or to time it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._sources import OnUnusable, model_preprocess, reasons
from .devices import open_folder
from .runtime._ort import run
from .runtime.artifact import Artifact, ChannelGroup, ModelInfo
from .runtime.errors import InputError, NotEnoughSamples
from .runtime.network._ranges import integer_ranges

__all__ = [
    "BoolArray",
    "Feeds",
    "masked_tensors",
    "outputs_of",
    "random_feeds",
    "random_masks",
    "sample_feeds",
    "some_samples",
    "worst_error",
]

BoolArray = NDArray[np.bool_]
Feeds = dict[str, NDArray[Any]]
_SMALLEST_SCALE = 1e-3  # outputs smaller than this are what cancellation leaves of larger ones
_BATCH = 8


def random_feeds(artifact: Artifact, batch: int, seed: int) -> Feeds:
    """Random values for every input: normal where they are floats, else what it can be fed."""
    rng = np.random.default_rng([seed, batch])
    ranges = integer_ranges(artifact.model)
    feeds: Feeds = {}
    for item in artifact.info.inputs:
        sizes = [batch if size is None else size for size in item.shape]
        dtype = np.dtype(item.dtype)
        if dtype.kind == "f":
            feeds[item.name] = rng.standard_normal(sizes, np.float32).astype(dtype)
        else:
            feeds[item.name] = rng.integers(*ranges.get(item.name, (0, 2)), sizes).astype(dtype)
    return feeds


def sample_feeds(info: ModelInfo, samples: Sequence[NDArray[Any]]) -> Iterator[Feeds]:
    """Samples in batches, for a model of one input.

    Where the network takes one number of samples only, the last ones are repeated to fill it.
    """
    fixed = info.input_shape[0] if info.input_shape else None
    size = fixed or _BATCH
    for start in range(0, len(samples), size):
        part = list(samples[start : start + size])
        part += [part[-1]] * ((size - len(part)) if fixed else 0)
        yield {info.input_name: np.stack(part)}


def outputs_of(session: Any, feeds: Feeds) -> list[NDArray[Any]]:
    """Every output of a session of ONNX Runtime."""
    return [np.asarray(value) for value in run(session, None, feeds)]


def some_samples(
    artifact: Artifact, folder: str | Path, most: int, on_unusable: OnUnusable | None = None
) -> list[NDArray[np.float32]]:
    """An even choice of a folder's samples, preprocessed for the model.

    Raises:
        InputError: the model has no preprocessing, or other inputs than one of floats.
        SourceError, NotEnoughSamples: the folder holds nothing that can be used.
    """
    if not artifact.info.single:
        raise InputError(
            f"{artifact.path} does not take one input of floats and give one output, so it cannot "
            "be run on files."
        )
    found = open_folder(folder, model_preprocess(artifact))
    chosen = np.linspace(0, len(found) - 1, min(most, len(found))).astype(int).tolist()
    loaded = [found.load(index) for index in chosen]
    for path, reason in found.rejected if on_unusable is not None else ():
        assert on_unusable is not None
        on_unusable(path, reason)
    samples = [sample.array for sample in loaded if sample is not None]
    if not samples:
        raise NotEnoughSamples(f"no file in {folder} can be used. {reasons(found.rejected)}")
    return samples


def random_masks(
    groups: Iterable[ChannelGroup], shares: Mapping[str, float], rng: np.random.Generator
) -> dict[str, BoolArray]:
    """Masks that remove so large a share of each group at random, and leave at least one unit."""
    masks: dict[str, BoolArray] = {}
    for group in groups:
        kept = max(1, round(group.units * (1 - shares[group.name])))
        masks[group.name] = np.zeros(group.units, np.bool_)
        masks[group.name][rng.permutation(group.units)[:kept]] = True
    return masks


def masked_tensors(
    artifact: Artifact, masks: Mapping[str, BoolArray] | None = None
) -> dict[str, NDArray[np.float32]]:
    """All external tensors: the weights, neutral gains and shifts, and these masks."""
    tensors = dict(artifact.tensors) | dict(artifact.neutral_masks)
    groups = artifact.info.group_by_name
    for name, mask in (masks or {}).items():
        tensors[groups[name].mask] = mask.astype(np.float32)
    return tensors


def worst_error(expected: Sequence[NDArray[Any]], got: Sequence[NDArray[Any]]) -> float:
    """Largest difference of any output, relative to the largest value that it should hold.

    Infinite where shapes or numbers of outputs differ, where whole numbers differ, and where one
    is finite and the other is not.
    """
    if len(expected) != len(got):
        return float("inf")
    pairs = zip(expected, got, strict=True)
    return max((_difference(np.asarray(a), np.asarray(b)) for a, b in pairs), default=0.0)


def _difference(expected: NDArray[Any], got: NDArray[Any]) -> float:
    if expected.shape != got.shape:
        return float("inf")
    if expected.dtype.kind != "f":
        return 0.0 if np.array_equal(expected, got) else float("inf")
    finite = np.isfinite(expected)
    if not np.array_equal(expected[~finite], got[~finite], equal_nan=True):
        return float("inf")
    wanted, had = expected[finite].astype(np.float64), got[finite].astype(np.float64)
    if not np.isfinite(had).all():
        return float("inf")
    scale = max(_SMALLEST_SCALE, float(np.abs(wanted).max(initial=0.0)))
    return float(np.abs(wanted - had).max(initial=0.0)) / scale
