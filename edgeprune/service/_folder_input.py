"""A folder played as a stream, for tests and for trying out."""

from __future__ import annotations

import time
from typing import Final

from ..devices import ImagePreprocess, SampleFolder
from ..devices._pace import Pace
from ._inputs import InputCounts, LiveInput, Pacing
from ._sample import LiveSample

__all__ = ["FolderInput"]

_PICTURE_S: Final = 0.2


class FolderInput(LiveInput):
    """One sample a file, in the folder's order: what `personalize` and `predict` read of it.

    A file is a sample already, so neither gate nor thinning has a say. In real time a sound takes
    as long as the model's window and a picture a fifth of a second. ``source`` of a sample is the
    file; the sequence numbers the files, so one that cannot be used is a gap.

    Args:
        folder: the files, and what is done to them.
        name: the folder, for people.
        pace: ``realtime`` or ``fast``.
    """

    kind = "folder"
    live = False

    def __init__(self, folder: SampleFolder, name: str, pace: Pacing) -> None:
        self.name = name
        self._folder = folder
        self._pace = Pace(pace == "realtime")
        preprocess = folder.preprocess
        self._step_s = (
            _PICTURE_S if isinstance(preprocess, ImagePreprocess) else preprocess.duration_s
        )
        self._next = self._samples = 0
        self._delivered_s: float | None = None
        self._loaded: LiveSample | None = None

    def read(self, timeout_s: float | None = None) -> LiveSample | None:
        """Return the next sample; see `LiveInput.read`."""
        sample = self._loaded = self._loaded or self._load()
        # Sounds are known when they have ended, so the first one is waited for, too.
        if sample is None or not self._pace.wait(self._step_s * self._next, timeout_s):
            return None
        self._loaded = None
        self._samples += 1
        self._delivered_s = now = time.monotonic()
        return LiveSample(sample.array, now, sample.sequence, sample.source)

    @property
    def ended(self) -> bool:
        """Whether no sample will ever come again."""
        return self._pace.closed or (self._loaded is None and self._next >= len(self._folder))

    @property
    def delivered_s(self) -> float | None:
        """When the last sample was given out."""
        return self._delivered_s

    @property
    def counts(self) -> InputCounts:
        """What became of the files so far."""
        unusable = len(self._folder.rejected)
        return InputCounts(
            samples=self._samples,
            teaching=self._samples,
            dropped={"unusable": unusable} if unusable else {},
        )

    def close(self) -> None:
        """End the iteration."""
        self._pace.close()

    def _load(self) -> LiveSample | None:
        while self._next < len(self._folder):
            number = self._next
            self._next += 1
            found = self._folder.load(number)
            if found is not None:
                return LiveSample(found.array, 0.0, number, str(found.path))
        return None
