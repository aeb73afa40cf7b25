"""External tensors of an artifact, mapped from the files beside it."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._wire import Tensor
from .errors import ArtifactError

__all__ = ["FloatArray", "forget_pages", "map_tensors"]

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class _External:
    """Where an external tensor stands."""

    location: str
    offset: int
    shape: tuple[int, ...]


def _external(tensor: Tensor, path: Path) -> _External:
    entries = tensor.external
    try:
        place = _External(entries["location"], int(entries.get("offset", 0)), tensor.dims)
    except (KeyError, ValueError) as error:
        raise ArtifactError(
            f"{path} does not say where its tensor {tensor.name!r} stands. Export the model again."
        ) from error
    if min(place.shape, default=0) < 0:
        raise ArtifactError(f"{path}: {tensor.name!r} has a negative size. Export the model again.")
    return place


def map_tensors(path: Path, initializers: Iterable[Tensor]) -> dict[str, FloatArray]:
    """Map every external tensor among them, read-only; ArtifactError if one is astray."""
    allowed = {path.with_suffix(suffix).name for suffix in (".weights", ".masks")}
    buffers: dict[str, FloatArray] = {}
    tensors: dict[str, FloatArray] = {}
    for tensor in initializers:
        if not tensor.external:
            continue
        place = _external(tensor, path)
        if place.location not in allowed:
            raise ArtifactError(
                f"{path} reads external data from {place.location!r}; an artifact reads only "
                f"{' and '.join(sorted(allowed))}. Was the .onnx file renamed alone? Rename all "
                "three files together only by exporting again."
            )
        if place.location not in buffers:
            buffers[place.location] = _map_file(path.with_name(place.location))
        tensors[tensor.name] = _slice(buffers[place.location], place, path)
    return tensors


def forget_pages(tensors: Iterable[NDArray[Any]]) -> None:
    """Give back the memory of mapped files among `tensors`; what is read again is read from disk.

    A session keeps packed copies of its weights, so the pages that it read them from only count.
    """
    maps: dict[int, mmap.mmap] = {}
    for tensor in tensors:
        owner: Any = tensor
        while isinstance(owner, np.ndarray):
            owner = owner.base
        if isinstance(owner, mmap.mmap):
            maps[id(owner)] = owner
    for mapped in maps.values():
        if hasattr(mapped, "madvise"):  # not on Windows
            mapped.madvise(mmap.MADV_DONTNEED)


def _map_file(path: Path) -> FloatArray:
    try:
        return np.memmap(path, dtype="<f4", mode="r")
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"cannot read {path}, which belongs to the model beside it: {error}. Copy the .onnx, "
            ".weights and .masks files together."
        ) from error


def _slice(buffer: FloatArray, place: _External, path: Path) -> FloatArray:
    start, count = place.offset // 4, math.prod(place.shape)
    if place.offset % 4 or place.offset < 0 or start + count > buffer.size:
        raise ArtifactError(
            f"{path.with_name(place.location)} is too short or damaged. Copy the .onnx, .weights "
            "and .masks files together, or export the model again."
        )
    return buffer[start : start + count].reshape(place.shape)
