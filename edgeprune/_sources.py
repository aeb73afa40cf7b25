"""Samples of every kind that the front door takes, in the form in which the runtime takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .devices import Preprocess, SampleFolder, SourceError, open_folder, preprocess_from_dict
from .runtime.artifact import Artifact
from .runtime.errors import InputError, NotEnoughSamples

__all__ = [
    "CACHE_SHARE",
    "ArraySource",
    "FolderSource",
    "OnUnusable",
    "Samples",
    "find_files",
    "model_preprocess",
    "reasons",
]

FloatArray = NDArray[np.float32]
Samples: TypeAlias = str | Path | Sequence[str | Path] | NDArray[Any] | Sequence[NDArray[Any]]
OnUnusable: TypeAlias = Callable[[Path, str], None]
CACHE_SHARE = 16  # of the memory that personalisation may use, for decoded samples
_SHOWN = 3


class FolderSource:
    """A folder for the runtime, which goes over the samples several times.

    They are decoded once if all of them fit into `cache_bytes`, and otherwise read from disk at
    every pass: a part of them would take memory and save little. So the memory is bounded whatever
    the number of files.

    Raises:
        NotEnoughSamples: from an access, when more than half of the files turned out unusable.
    """

    def __init__(self, folder: SampleFolder, *, most: int, cache_bytes: int) -> None:
        self._folder = folder
        self._used = min(len(folder), most)
        self._room = cache_bytes
        self._cache: dict[int, FloatArray] = {}

    @property
    def rejected(self) -> tuple[tuple[Path, str], ...]:
        """The files that could not be used so far, and why."""
        return self._folder.rejected

    def __len__(self) -> int:
        return len(self._folder)

    def __getitem__(self, index: int) -> FloatArray | None:
        if index in self._cache:
            return self._cache[index]
        sample = self._folder.load(index)
        if sample is None:
            self._refuse_if_most()
            return None
        if sample.array.nbytes * self._used <= self._room and len(self._cache) < self._used:
            self._cache[index] = sample.array
        return sample.array

    def _refuse_if_most(self) -> None:
        if len(self.rejected) > self._used / 2:
            raise NotEnoughSamples(
                f"more than half of the {len(self)} files are unusable. Nothing was changed. "
                f"{reasons(self.rejected)}"
            )


class ArraySource:
    """Preprocessed arrays in memory, checked for values that no sample has."""

    rejected: tuple[tuple[Path, str], ...] = ()

    def __init__(self, arrays: Sequence[NDArray[Any]] | NDArray[Any]) -> None:
        self._arrays = arrays

    def __len__(self) -> int:
        return len(self._arrays)

    def __getitem__(self, index: int) -> FloatArray:
        array = np.asarray(self._arrays[index], np.float32)
        if not np.isfinite(array).all():
            raise InputError(
                f"sample {index} holds NaN or infinite values. Nothing was changed; leave it out."
            )
        return array


def reasons(rejected: Sequence[tuple[Path, str]]) -> str:
    """The first few files that could not be used and why, in one sentence."""
    if not rejected:
        return ""
    shown = "; ".join(f"{path}: {reason}" for path, reason in rejected[:_SHOWN])
    more = f"; and {len(rejected) - _SHOWN} more" if len(rejected) > _SHOWN else ""
    return f"Unusable: {shown}{more}."


def model_preprocess(artifact: Artifact) -> Preprocess:
    """What the model wants done to files.

    Raises:
        InputError: it was exported without; only arrays will do.
        PreprocessError: its metadata are damaged.
    """
    if artifact.info.preprocess is None:
        raise InputError(
            f"{artifact.path} was exported without preprocessing, so it cannot read files. Export "
            "it again with --preprocess, or give preprocessed arrays from Python."
        )
    return preprocess_from_dict(artifact.info.preprocess)


def find_files(
    preprocess: Preprocess, given: Sequence[str | Path], on_unusable: OnUnusable | None
) -> list[Path]:
    """Every sample file that is given or stands in a given folder, in order.

    With `on_unusable`, what is missing or of the wrong kind is told to it and passed over.
    """
    found: list[Path] = []
    for entry in given:
        try:
            found += open_folder(entry, preprocess).paths
        except SourceError:
            if on_unusable is None:
                raise
            on_unusable(Path(entry), _why_not(Path(entry)))
    return found


def _why_not(path: Path) -> str:
    if not path.exists():
        return "no such file or folder"
    return "no sample is in it" if path.is_dir() else "not of a kind that this model reads"
