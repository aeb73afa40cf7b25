"""What the service listens to or watches: one kind of input, whatever stands behind it."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeAlias

from ..devices import LiveSource, Source
from ..devices._closing import Closing
from ..devices._source import ChunkT
from ._sample import LiveSample

__all__ = ["InputCounts", "InputOptions", "LiveInput", "Pacing", "SourceInput"]

Pacing: TypeAlias = Literal["realtime", "fast"]


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """How an input is read.

    Attributes:
        gate: cut sound into what is audible; without it window follows window.
        thin: pictures like the last one that taught do not teach.
        voice: ask Silero's network about each clip that the gate lets through.
        pace: ``realtime`` or ``fast``, for files; devices have a time of their own.
        wait: wait for a device that is absent at the start.
        stall_after_s: how long a running device may be silent; None for the device's default.
    """

    gate: bool = True
    thin: bool = True
    voice: bool = False
    pace: Pacing = "realtime"
    wait: bool = False
    stall_after_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class InputCounts:
    """What became of all that an input gave.

    Attributes:
        samples: how many were handed to the network.
        teaching: how many of these may teach it.
        held_back: samples that the network answers and does not learn from, by reason:
            "near-duplicate", "muted", "overdriven".
        dropped: what never became a sample, by reason: "short" (a click), "no voice", "unusable".
        ignored_s: seconds of sound that were no part of a sample, by reason: "silence", "muted",
            "overdriven", "wrong-rate".
        lost_s: seconds of sound that nobody took in time.
        passed_over: pictures that came while the network was busy with another.
    """

    samples: int = 0
    teaching: int = 0
    held_back: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    ignored_s: Mapping[str, float] = field(default_factory=dict)
    lost_s: float = 0.0
    passed_over: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "samples": self.samples,
            "teaching": self.teaching,
            "held_back": dict(self.held_back),
            "dropped": dict(self.dropped),
            "ignored_s": {reason: round(took, 3) for reason, took in self.ignored_s.items()},
            "lost_s": round(self.lost_s, 3),
            "passed_over": self.passed_over,
        }


class LiveInput(Closing):
    """An iterator of `LiveSample`, a context manager, and closable from any thread.

    Three lines to see it::

        with open_input("mic:USB", model.preprocess) as samples:
            for sample in samples:
                print(service.process(sample).label)
    """

    name: str
    """What the input calls itself; no password is in it."""
    kind: str
    """"microphone", "camera", "sound file", "video file" or "folder"."""
    live: bool
    """True for devices, which do not end by themselves."""

    @abstractmethod
    def read(self, timeout_s: float | None = None) -> LiveSample | None:
        """Return the next sample.

        None means that ``timeout_s`` seconds (None: no limit) passed without one, or that the
        input has `ended`.
        """

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether no sample will ever come again."""

    @property
    @abstractmethod
    def delivered_s(self) -> float | None:
        """When it last gave anything, be it silence, on `time.monotonic`'s clock; None: not yet."""

    @property
    @abstractmethod
    def counts(self) -> InputCounts:
        """What became of what the input gave so far; for any thread."""

    @property
    def troubles(self) -> frozenset[str]:
        """What is wrong with the device now; see `edgeprune.devices.DeviceEvent`."""
        return frozenset()

    @property
    def connections(self) -> int:
        """How often the device was opened and delivered something."""
        return 1

    @property
    def waits_ms(self) -> tuple[float, ...]:
        """For the latest samples, how long after the end of its sound each one was complete."""
        return ()

    @abstractmethod
    def close(self) -> None:
        """Let go of the device or file and end the iteration; any thread, any number of times."""

    def __iter__(self) -> Iterator[LiveSample]:
        while (sample := self.read()) is not None:
            yield sample


class SourceInput(LiveInput, Generic[ChunkT]):
    """Samples of a device or of a file that is read like one.

    Args:
        source: what gives sound or pictures.
        kind: what the source is, for people.
    """

    def __init__(self, source: Source[ChunkT], kind: str) -> None:
        self.name, self.kind, self.live = source.name, kind, source.live
        self._source: Source[ChunkT] = source
        self._delivered_s: float | None = None
        self._lock = threading.Lock()  # between the reader, and who asks for counts

    @property
    def ended(self) -> bool:
        """Whether no sample will ever come again."""
        return self._source.ended

    @property
    def delivered_s(self) -> float | None:
        """When the source gave anything last, be it silence."""
        return self._delivered_s

    @property
    def troubles(self) -> frozenset[str]:
        """What is wrong with the device now."""
        return self._source.troubles if isinstance(self._source, LiveSource) else frozenset()

    @property
    def connections(self) -> int:
        """How often the device was opened and delivered something."""
        return self._source.connections if isinstance(self._source, LiveSource) else 1

    def close(self) -> None:
        """Close the source and end the iteration."""
        self._source.close()
