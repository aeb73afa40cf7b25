"""External tensors of an artifact, mapped from the files beside it."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._wire import Tensor
from .errors import ArtifactError

__all__ = ["FloatArray", "forget_pages", "left_in_files", "map_tensors"]

FloatArray = NDArray[np.float32]


_SMALL_BYTES = 4096  # to map less by itself is not worth it


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


def left_in_files(
    initializers: Iterable[Any], values: Mapping[str, NDArray[Any]], folder: Path
) -> dict[str, NDArray[Any]]:
    """Let initializers whose values are mapped from a file in `folder` be read from there.

    ONNX Runtime then reads tensor after tensor and forgets each; handed over, all of them count
    while it makes its own copies, a quarter of what building a session takes.

    Args:
        initializers: tensors (``TensorProto``) of external data, changed in place.
        values: theirs by name.
        folder: where the files have to be.

    Returns:
        The values that must be handed over.
    """
    given = dict(values)
    for tensor in initializers:
        place = _place_in_file(given.get(tensor.name), folder)
        if place is not None:
            length = given.pop(tensor.name).nbytes
            del tensor.external_data[:]
            entries = {"location": place[0], "offset": str(place[1]), "length": str(length)}
            for key, text in entries.items():
                tensor.external_data.add(key=key, value=text)
    return given


def _place_in_file(value: NDArray[Any] | None, folder: Path) -> tuple[str, int] | None:
    """The file that a whole array is mapped from and the offset in it; None if it is not."""
    if value is None or value.nbytes < _SMALL_BYTES or not value.flags.c_contiguous:
        return None
    owner: Any = value
    while isinstance(owner, np.ndarray) and not isinstance(owner, _Mapped):
        owner = owner.base
    while isinstance(owner, _Mapped) and isinstance(owner.base, _Mapped):
        owner = owner.base
    if not isinstance(owner, _Mapped) or owner.file is None or owner.file[0].parent != folder:
        return None
    path, identity = owner.file
    unchanged = path.exists() and _identity(path.stat()) == identity
    return (path.name, value.ctypes.data - owner.ctypes.data) if unchanged else None


class _Mapped(np.memmap[Any, Any]):
    """A mapped file that knows which one it is: another may since have taken its name."""

    file: tuple[Path, tuple[int, ...]] | None = None


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _map_file(path: Path) -> FloatArray:
    try:
        mapped = _Mapped(path, dtype="<f4", mode="r")
        mapped.file = path.resolve(), _identity(path.stat())
        return mapped
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
