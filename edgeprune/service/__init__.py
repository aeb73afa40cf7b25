"""The live service: a network that answers all day and learns its user as it goes.

Torch-free, like the runtime. `open_input` makes samples (`LiveSample`) of a microphone, a camera or
files, `Service` answers them (`LiveResult`); personalisation happens in a process of its own, and
drift is watched for.

Each name brings what it needs when it is first used: `edgeprune ctl` needs no ONNX Runtime.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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

_HOME_OF = {
    "InputCounts": "_inputs",
    "InputOptions": "_inputs",
    "LiveInput": "_inputs",
    "LiveResult": "_sample",
    "LiveSample": "_sample",
    "Service": "_service",
    "ServiceEvent": "_events",
    "ServiceSettings": "_settings",
    "open_input": "_open_input",
}


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives, once (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
