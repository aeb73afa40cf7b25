"""What goes into the service, and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["LiveResult", "LiveSample"]


@dataclass(frozen=True, eq=False)
class LiveSample:
    """One preprocessed sample from a device.

    Attributes:
        array: float32 in the model's input shape, without a batch axis.
        timestamp_s: when it was heard or seen, on the clock of `time.monotonic`.
        sequence: counts what the input gave; a gap is a loss.
        source: the name of the device.
        teaches: False to answer only: silence, or a frame like the last one.
    """

    array: NDArray[np.float32]
    timestamp_s: float
    sequence: int
    source: str
    teaches: bool = True


@dataclass(frozen=True)
class LiveResult:
    """The answer to one sample.

    Attributes:
        sequence, timestamp_s: of the sample.
        label, index, confidence: the likeliest class and its probability.
        top: the likeliest classes with their probabilities, likeliest first.
        profile: the user; None if there is none.
        generation: the generation of the profile that answered; 0 is the network as trained.
        latency_ms: what inference took.
        state: ``dense`` (as trained), ``relaxed`` (as trained again, after drift) or
            ``personalized``.
    """

    sequence: int
    timestamp_s: float
    label: str
    index: int
    confidence: float
    top: tuple[tuple[str, float], ...]
    profile: str | None
    generation: int | None
    latency_ms: float
    state: str
