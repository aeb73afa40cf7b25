"""A camera or a video as the model sees it: every picture is answered, what is new teaches."""

from __future__ import annotations

import time
from collections import Counter

from ..devices import FrameThinner, ImagePreprocess, Source, VideoFrame
from ._inputs import InputCounts, SourceInput
from ._sample import LiveSample

__all__ = ["PictureInput"]


class PictureInput(SourceInput[VideoFrame]):
    """Preprocesses each picture that is read, as a file would be.

    Of a camera that is the latest one: pictures that came while the network was busy are counted
    as passed over, and the sample's sequence shows the gap. A picture like the last one that
    taught, and one that shows nothing, is answered and does not teach.

    Args:
        source: of upright RGB pictures.
        preprocess: what the model wants done to a picture.
        thinner: decides which of them teach.
        kind: what the source is, for people.
    """

    def __init__(
        self,
        source: Source[VideoFrame],
        preprocess: ImagePreprocess,
        thinner: FrameThinner,
        kind: str,
    ) -> None:
        super().__init__(source, kind)
        self._preprocess = preprocess
        self._thinner = thinner
        self._teaching = self._passed_over = 0
        self._held_back: Counter[str] = Counter()

    def read(self, timeout_s: float | None = None) -> LiveSample | None:
        """Return the next sample; see `LiveInput.read`."""
        frame = self._source.read(timeout_s)
        if frame is None:
            return None
        with self._lock:
            self._delivered_s = time.monotonic()
            teaches = self._thinner.keep(frame)
            self._teaching += teaches
            self._held_back = Counter(self._thinner.counts.dropped)
            self._passed_over = frame.dropped_frames
        return LiveSample(
            self._preprocess(frame.rgb), frame.timestamp_s, frame.sequence, self.name, teaches
        )

    @property
    def counts(self) -> InputCounts:
        """What became of the pictures so far."""
        with self._lock:
            return InputCounts(
                samples=self._teaching + self._held_back.total(),
                teaching=self._teaching,
                held_back=dict(self._held_back),
                passed_over=self._passed_over,
            )
