"""A microphone or a recording as the model hears it: words, and none of the silence."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from ..devices import (
    AudioChunk,
    BadSample,
    LogMelPreprocess,
    Segmenter,
    SoundSegment,
    Source,
    WaveformPreprocess,
)
from ._inputs import InputCounts, SourceInput
from ._sample import LiveSample

__all__ = ["SoundInput"]

_KEPT_WAITS: Final = 1000


class SoundInput(SourceInput[AudioChunk]):
    """Cuts a source of sound into segments and preprocesses each, as a file would be.

    A segment is a clip of exactly the model's window, so the preprocessing neither cuts nor pads
    it: the numbers are those that a file with the same samples gives. ``timestamp_s`` of a sample
    is the end of what was heard in it.

    Args:
        source: of chunks at the rate of ``preprocess``.
        preprocess: what the model wants done to a clip.
        segmenter: of the same rate, with the model's window.
        kind: what the source is, for people.
    """

    def __init__(
        self,
        source: Source[AudioChunk],
        preprocess: LogMelPreprocess | WaveformPreprocess,
        segmenter: Segmenter,
        kind: str,
    ) -> None:
        super().__init__(source, kind)
        self._preprocess = preprocess
        self._segmenter = segmenter
        self._ready: deque[LiveSample] = deque()
        self._waits_ms: deque[float] = deque(maxlen=_KEPT_WAITS)
        self._flushed = False
        self._samples = self._unusable = 0
        self._lost_s = 0.0

    def read(self, timeout_s: float | None = None) -> LiveSample | None:
        """Return the next sample; see `LiveInput.read`."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._ready:
            left = None if until is None else until - time.monotonic()
            if left is not None and left < 0.0:
                return None
            chunk = self._source.read(left)
            if chunk is None and (self._flushed or not self._source.ended):
                return None
            with self._lock:
                self._hear(chunk)
        with self._lock:
            self._samples += 1
            return self._ready.popleft()

    @property
    def ended(self) -> bool:
        """Whether no sample will ever come again."""
        return self._source.ended and self._flushed and not self._ready

    @property
    def counts(self) -> InputCounts:
        """What became of the sound so far."""
        with self._lock:
            found = self._segmenter.counts
            dropped = dict(found.dropped)
            if self._unusable:
                dropped["unusable"] = self._unusable
            return InputCounts(
                samples=self._samples,
                teaching=self._samples,
                dropped=dropped,
                ignored_s=found.ignored_s,
                lost_s=self._lost_s,
            )

    @property
    def waits_ms(self) -> tuple[float, ...]:
        """How long after the end of its sound each of the latest samples was complete."""
        with self._lock:
            return tuple(self._waits_ms)

    def _hear(self, chunk: AudioChunk | None) -> None:
        """Take the next chunk; None at the end of the source."""
        if chunk is None:
            self._flushed = True
            self._prepare(self._segmenter.flush(), None)
            return
        self._delivered_s = time.monotonic()
        self._lost_s = chunk.dropped_samples / chunk.sample_rate_hz
        self._prepare(self._segmenter.push(chunk), chunk)

    def _prepare(self, segments: Sequence[SoundSegment], chunk: AudioChunk | None) -> None:
        for segment in segments:
            end_s = segment.timestamp_s + segment.heard_to_s
            if chunk is not None:
                now_s = chunk.timestamp_s + chunk.duration_s
                self._waits_ms.append(1000.0 * (now_s - end_s))
            try:
                array = self._preprocess(segment.clip)
            except BadSample:
                self._unusable += 1
                continue
            self._ready.append(LiveSample(array, end_s, segment.sequence, self.name))
