"""From a stream of sound to the clips that a model hears: words, and none of the silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ._audio_clip import AudioClip, resample
from ._chunks import AudioChunk
from ._energy import FRAME_S, EnergyGate, level_dbfs
from ._sound_buffer import SoundBuffer

__all__ = ["Segmenter", "SoundCounts", "SoundSegment", "VoiceDetector"]

_SPOILT: Final = ("muted", "overdriven", "wrong-rate")


class VoiceDetector(Protocol):
    """Says how sure it is that somebody speaks in a clip."""

    sample_rate_hz: int

    def __call__(self, samples: NDArray[np.float32], /) -> float:
        """Return 0..1 for float32 (frames,) at ``sample_rate_hz``."""
        ...


@dataclass(frozen=True, eq=False)
class SoundSegment:
    """A clip of exactly the model's window, around something that was heard.

    ``samples`` is float32 of shape (frames,), ``timestamp_s`` the time of the first of them on the
    clock of `time.monotonic`. The sound that opened the gate lasts from ``heard_from_s`` to
    ``heard_to_s`` within the clip. ``above_noise_db`` is its level over the noise floor,
    ``voice`` what the voice detector said of it (None without one).
    """

    samples: NDArray[np.float32]
    sample_rate_hz: int
    timestamp_s: float
    sequence: int
    heard_from_s: float
    heard_to_s: float
    above_noise_db: float
    voice: float | None = None

    @property
    def clip(self) -> AudioClip:
        """The sound alone, as preprocessing takes it."""
        return AudioClip(self.samples, self.sample_rate_hz)


@dataclass(frozen=True)
class SoundCounts:
    """What became of a stream: ``kept`` segments, ``dropped`` ones by reason, seconds heard.

    Reasons: "short" (a click), "no voice". ``ignored_s`` holds seconds by reason: "silence",
    and "muted", "overdriven", "wrong-rate" for input that is no sample of the user.
    """

    kept: int
    dropped: Mapping[str, int]
    heard_s: float
    ignored_s: Mapping[str, float]


class Segmenter:
    """Cuts a stream into segments of one length, each around something audible.

    With the ``gate`` (see `EnergyGate`), a segment begins when the level rises above the noise
    floor and ends when it has been below for ``hang_over_s``; what is shorter than ``shortest_s``
    is a click and dropped; what is longer than the window is cut at its quietest moments, which
    are the gaps between words. Each becomes a clip of ``window_s`` around the centre of its
    energy, filled with what was really to be heard around it. Without the gate, window follows
    window and nothing is dropped.

    ``voice`` is asked about each clip that the gate lets through; below ``voice_threshold`` it is
    dropped. It never runs in silence.

    Three lines to see it::

        segmenter = Segmenter(sample_rate_hz=16000, window_s=1.0)
        for segment in segmenter.segments(open_microphone(sample_rate_hz=16000)):
            print(segment.timestamp_s, features(segment.clip).shape)

    Raises:
        ValueError: a length is out of range.
    """

    def __init__(
        self,
        *,
        sample_rate_hz: int,
        window_s: float,
        gate: EnergyGate | bool | None = True,
        hang_over_s: float = 0.2,
        shortest_s: float = 0.06,
        voice: VoiceDetector | None = None,
        voice_threshold: float = 0.5,
    ) -> None:
        if not 0.05 <= window_s <= 60.0 or not 0.0 <= hang_over_s <= window_s:
            raise ValueError("0.05 <= window_s <= 60 and hang_over_s within it")
        self._rate_hz = sample_rate_hz
        self._window = round(window_s * sample_rate_hz)
        self._frame = max(1, round(FRAME_S * sample_rate_hz))
        self._gate = EnergyGate() if gate is True else gate or None
        self._hang_over = round(hang_over_s * sample_rate_hz)
        self._shortest = round(shortest_s * sample_rate_hz)
        self._voice = voice
        self._voice_threshold = voice_threshold
        self._buffer = SoundBuffer(sample_rate_hz, 4 * self._window)
        self._judged = 0
        self._start: int | None = None
        self._last_active = 0
        self._waiting: list[tuple[int, int, int]] = []
        self._sequence = 0
        self._dropped: Counter[str] = Counter()
        self._ignored: Counter[str] = Counter()
        self._heard = 0
        self._place: tuple[int, int] | None = None

    @property
    def counts(self) -> SoundCounts:
        """What became of the stream so far."""
        ignored = {reason: count / self._rate_hz for reason, count in self._ignored.items()}
        return SoundCounts(
            self._sequence,
            MappingProxyType(dict(self._dropped)),
            self._heard / self._rate_hz,
            MappingProxyType(ignored),
        )

    def segments(self, source: Iterable[AudioChunk]) -> Iterator[SoundSegment]:
        """Yield the segments of a source as soon as each is complete, until it ends."""
        for chunk in source:
            yield from self.push(chunk)
        yield from self.flush()

    def push(self, chunk: AudioChunk) -> list[SoundSegment]:
        """Take the next chunk of a source; return the segments that it completes.

        Raises:
            ValueError: the chunk has another rate.
        """
        if chunk.sample_rate_hz != self._rate_hz:
            raise ValueError(f"a chunk of {chunk.sample_rate_hz} Hz, not {self._rate_hz} Hz")
        done = self._at_a_break(chunk)
        spoilt = next((name for name in _SPOILT if name in chunk.troubles), None)
        if spoilt is not None:
            self._ignored[spoilt] += len(chunk.samples)
            return done + self.flush()
        mono = chunk.samples if chunk.channels == 1 else chunk.samples.mean(axis=1, dtype="f4")
        # In pieces, so that a chunk longer than the buffer is judged before it is forgotten.
        for first in range(0, len(mono), self._window):
            piece = mono[first : first + self._window].reshape(-1)
            self._buffer.push(piece, chunk.timestamp_s + first / self._rate_hz)
            while self._buffer.end - self._judged >= self._frame:
                self._judge()
            done += self._emit(final=False)
        return done

    def flush(self) -> list[SoundSegment]:
        """End what is under way, as at the end of a source; return what comes of it."""
        if self._start is not None:
            self._finish(self._start, self._last_active)
        done = self._emit(final=True)
        self._buffer.clear()
        self._judged = self._buffer.end
        return done

    def _at_a_break(self, chunk: AudioChunk) -> list[SoundSegment]:
        """Never let a clip span a reconnection or lost samples."""
        place = (chunk.connection, chunk.dropped_samples)
        unbroken = self._place in (None, place)
        self._place = place
        return [] if unbroken else self.flush()

    def _judge(self) -> None:
        """Judge the next frame of 10 ms."""
        begin, end = self._judged, self._judged + self._frame
        self._judged = end
        if self._gate is None:
            return self._without_gate(end)
        active = self._gate.push(self._buffer.get(begin, end))
        if active:
            self._last_active = end
            self._start = begin if self._start is None else self._start
        if self._start is None:
            self._ignored["silence"] += self._frame
        elif end - self._last_active >= self._hang_over:
            self._ignored["silence"] += end - self._last_active
            self._finish(self._start, self._last_active)
        elif end - self._start >= self._window:
            self._cut(self._start, end)
        return None

    def _without_gate(self, end: int) -> None:
        begin = self._start = end - self._frame if self._start is None else self._start
        if end - begin >= self._window:
            self._heard += self._window
            self._waiting.append((begin, begin, begin + self._window))
            self._start = begin + self._window

    def _cut(self, start: int, end: int) -> None:
        """End a segment that fills the window at the quietest moment of its second half."""
        first = start + self._window // 2
        frames = self._buffer.get(first, end)
        frames = frames[: len(frames) // self._frame * self._frame].reshape(-1, self._frame)
        quietest = first + int(np.argmin(frames.std(axis=1))) * self._frame
        self._finish(start, min(quietest, self._last_active))
        if quietest < self._last_active:
            self._start = quietest
        else:  # it had ended there, and only the hang-over went on
            self._ignored["silence"] += end - self._last_active

    def _finish(self, start: int, end: int) -> None:
        self._start = None
        if self._gate is None or end <= start:
            return  # a window that was never filled, or what is left after a cut: nothing
        if end - start < self._shortest:
            self._dropped["short"] += 1
            return
        self._heard += end - start
        begin = self._buffer.energy_center(start, end) - self._window // 2
        # All of what was heard, if it fits, even where its energy lies to one side.
        begin = min(max(begin, end - self._window), start)
        self._waiting.append((begin, start, end))

    def _emit(self, *, final: bool) -> list[SoundSegment]:
        """Make clips of the segments whose surroundings are known."""
        done = []
        while self._waiting and (final or self._waiting[0][0] + self._window <= self._buffer.end):
            segment = self._segment(*self._waiting.pop(0))
            if segment is not None:
                done.append(segment)
        return done

    def _segment(self, begin: int, start: int, end: int) -> SoundSegment | None:
        samples = self._buffer.get(begin, begin + self._window)
        voice = None if self._voice is None else self._ask(self._voice, samples)
        if voice is not None and voice < self._voice_threshold:
            self._dropped["no voice"] += 1
            return None
        floor_dbfs = self._gate.floor_dbfs if self._gate else 0.0
        heard = self._buffer.get(start, end)
        segment = SoundSegment(
            samples,
            self._rate_hz,
            self._buffer.time(begin),
            self._sequence,
            (start - begin) / self._rate_hz,
            (end - begin) / self._rate_hz,
            level_dbfs(heard) - floor_dbfs if self._gate else 0.0,
            voice,
        )
        self._sequence += 1
        return segment

    def _ask(self, voice: VoiceDetector, samples: NDArray[np.float32]) -> float:
        if voice.sample_rate_hz != self._rate_hz:
            samples = resample(samples, self._rate_hz, voice.sample_rate_hz)
        return float(voice(samples))
