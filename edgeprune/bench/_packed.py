"""Preprocessed samples in memory, decoded once for all arms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .._sources import reasons
from ..devices import ImagePreprocess, Preprocess, open_folder
from ..runtime.errors import NotEnoughSamples

__all__ = ["ArrayStream", "Packed", "Stream"]

FloatArray = NDArray[np.float32]


class Packed:
    """Samples by index, kept as bytes where the preprocessing ends in bytes: a quarter of it.

    A picture's values are ``(byte − mean) / std``; where that gives back every float bit for bit,
    the byte is kept, elsewhere the floats are.

    Raises:
        NotEnoughSamples: a file cannot be used; a comparison needs the same files for all arms.
    """

    def __init__(self, paths: Sequence[Path], preprocess: Preprocess) -> None:
        self._scale = _scale(preprocess)
        folder = open_folder(list(paths), preprocess)
        self._samples = [self._read(folder.load(index)) for index in range(len(folder))]
        if folder.rejected:
            raise NotEnoughSamples(
                f"{len(folder.rejected)} of {len(folder)} files cannot be used, and a comparison "
                f"needs them all. {reasons(folder.rejected)}"
            )

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> FloatArray:
        sample = self._samples[index]
        if self._scale is None or sample.dtype != np.uint8:
            return np.asarray(sample, np.float32)
        mean, std = self._scale
        return (sample.astype(np.float32) - mean) / std

    def _read(self, sample: object) -> NDArray[np.float32] | NDArray[np.uint8]:
        values: FloatArray = getattr(sample, "array", np.empty(0, np.float32))
        if self._scale is None:
            return values
        mean, std = self._scale
        packed = np.clip(np.rint(values * std + mean), 0, 255).astype(np.uint8)
        exact = np.array_equal((packed.astype(np.float32) - mean) / std, values)
        return packed if exact else values


def _scale(preprocess: Preprocess) -> tuple[FloatArray, FloatArray] | None:
    if not isinstance(preprocess, ImagePreprocess):
        return None
    shape = (-1, 1, 1) if preprocess.layout == "NCHW" else (-1,)
    mean, std = (np.array(v, np.float32).reshape(shape) for v in (preprocess.mean, preprocess.std))
    return mean, std


class Stream:
    """Some of the samples in an order of their own: what the runtime takes for a source."""

    def __init__(self, samples: Packed | NDArray[np.float32], order: Sequence[int]) -> None:
        self._samples = samples
        self.order = list(order)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> FloatArray:
        return np.asarray(self._samples[self.order[index]], np.float32)

    def first(self, count: int) -> Stream:
        """The first `count` samples, or all if there are fewer."""
        return Stream(self._samples, self.order[:count])

    def batches(self, size: int) -> Iterator[FloatArray]:
        """All samples, stacked: float32 ``(n, …)`` each."""
        for start in range(0, len(self), size):
            yield np.stack([self[i] for i in range(start, min(start + size, len(self)))])


class ArrayStream(Stream):
    """Samples that are one array already, in its order."""

    def __init__(self, samples: NDArray[np.float32]) -> None:
        super().__init__(samples, range(len(samples)))
