"""The live service: a network that answers all day and learns its user as it goes.

Torch-free, like the runtime. `open_input` makes samples (`LiveSample`) of a microphone, a camera or
files, `Service` answers them (`LiveResult`); personalisation happens in a process of its own, and
drift is watched for.

Each name brings what it needs when it is first used: `edgeprune ctl` needs no ONNX Runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from ._events import ServiceEvent
    from ._inputs import InputCounts, InputOptions, LiveInput
    from ._open_input import open_input
    from ._sample import LiveSample
    from ._service import LiveResult, Service
    from ._settings import ServiceSettings

__all__ = [
    "InputCounts",
    "InputOptions",
    "LiveInput",
    "LiveResult",
    "LiveSample",
    "Service",
    "ServiceEvent",
    "ServiceSettings",
    "open_input",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "_events": ("ServiceEvent",),
        "_inputs": ("InputCounts", "InputOptions", "LiveInput"),
        "_open_input": ("open_input",),
        "_sample": ("LiveResult", "LiveSample"),
        "_service": ("Service",),
        "_settings": ("ServiceSettings",),
    },
)
