"""Samples in batches, gone over as often as needed, never all in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

__all__ = ["Batches", "SampleSource"]


class SampleSource(Protocol):
    """Samples by index: float32 arrays without a batch axis, or None for one that is unusable."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> NDArray[np.float32] | None: ...


class Batches:
    """A fixed choice of samples, given out in batches of shape ``(n, …)``.

    Raises:
        InputError: from going over them, when a sample does not fit the model, or one that was read
            before, by these batches or what was chosen of them, cannot be read any more: what was
            learnt from the others would be compared with the wrong ones.
    """

    def __init__(
        self,
        source: SampleSource,
        indices: Sequence[int],
        batch_size: int,
        shape: Sequence[int | None] = (),
    ) -> None:
        self._source = source
        self.indices = list(indices)
        self.batch_size = batch_size
        self._shape = tuple(shape)
        self._read: set[int] = set()  # shared with what is chosen of them

    def subset(self, indices: Sequence[int]) -> Batches:
        """Some of the same source's samples."""
        chosen = Batches(self._source, indices, self.batch_size, self._shape)
        chosen._read = self._read
        return chosen

    def every(self, step: int) -> Batches:
        """Every `step`-th batch."""
        size = self.batch_size
        chosen = [i for n, i in enumerate(self.indices) if n // size % step == 0]
        return self.subset(chosen)

    def __len__(self) -> int:
        """Number of samples (an unusable one counts until it has been met)."""
        return len(self.indices)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Go over the samples once; those that turn out unusable are left out from then on."""
        pending: list[NDArray[np.float32]] = []
        bad: set[int] = set()
        for index in list(self.indices):
            sample = self._source[index]
            if sample is None:
                self._need_unread(index)
                bad.add(index)
                continue
            self._read.add(index)
            pending.append(self._checked(sample))
            if len(pending) == self.batch_size:
                yield _stacked(pending)
                pending = []
        self.indices = [index for index in self.indices if index not in bad]
        if pending:
            yield _stacked(pending)

    def _need_unread(self, index: int) -> None:
        if index in self._read:
            raise InputError(
                f"sample {index} could be read before and cannot be read any more. Nothing was "
                "changed. Leave the samples where they are until personalisation ends, and run it "
                "again."
            )

    def _checked(self, sample: NDArray[np.float32]) -> NDArray[np.float32]:
        expected = self._shape[1:]
        fits = len(expected) == sample.ndim and all(
            want is None or want == have for want, have in zip(expected, sample.shape, strict=True)
        )
        if self._shape and not fits:
            raise InputError(
                f"a sample has shape {sample.shape}; the model takes {expected}. Nothing was "
                "changed. Check the preprocessing that the model was exported with."
            )
        if not _finite(sample):
            raise InputError(
                "a sample holds NaN or infinite values. Nothing was changed. Leave it out, or "
                "check what made it."
            )
        return np.ascontiguousarray(sample, dtype=np.float32)


def _stacked(samples: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """A batch; of one sample without a copy."""
    return samples[0][None] if len(samples) == 1 else np.stack(samples)


def _finite(sample: NDArray[np.float32]) -> bool:
    """Whether all values are finite; mostly seen from their sum, in a third of the time."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = sample.sum()
    return bool(np.isfinite(total) or np.isfinite(sample).all())
