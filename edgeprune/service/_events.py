"""What the service tells of itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["EventKind", "OnEvent", "ServiceEvent", "tell_nobody"]

EventKind = Literal[
    "learning",  # a personalisation begins
    "personalized",  # its outcome is in use
    "refused",  # the guard, or too few usable samples: nothing was changed
    "failed",  # it died or could not save: nothing was changed, it will be tried again
    "given-up",  # the service ended while it was under way: nothing was changed
    "drift",  # what is seen has changed: relaxed to the network as trained
    "switched",  # another user
    "rolled-back",
    "replaced",  # another program put another generation in force
    "forgotten",  # the profile was erased while it was in use
    "paused",
    "resumed",
    "unusable",  # a sample that is no input of this model was passed over; told once
    "state-damaged",  # counts start anew; the damaged file was set aside
    "state-unsaved",  # the disk refuses; counts go on in memory
]


@dataclass(frozen=True)
class ServiceEvent:
    """One thing that happened, in a sentence and in figures.

    Attributes:
        kind: what happened.
        message: the same in one sentence.
        profile: the user that it happened to.
        details: figures by name, as JSON can hold them; never content.
        timestamp_s: when, on the clock of `time.monotonic`.
    """

    kind: EventKind
    message: str
    profile: str
    details: Mapping[str, Any] = field(default_factory=dict)
    timestamp_s: float = field(default_factory=time.monotonic)


OnEvent = Callable[[ServiceEvent], None]
"""Called on whichever thread met the event, one at a time; it must return soon."""


def tell_nobody(_event: ServiceEvent) -> None:
    """Drop an event."""
