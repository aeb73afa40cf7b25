"""The live service: a network that answers all day and learns its user as it goes.

Torch-free, like the runtime. Samples come in preprocessed (`LiveSample`), answers go out
(`LiveResult`); personalisation happens in a process of its own, and drift is watched for.
"""

from ._events import ServiceEvent
from ._sample import LiveSample
from ._service import LiveResult, Service
from ._settings import ServiceSettings

__all__ = ["LiveResult", "LiveSample", "Service", "ServiceEvent", "ServiceSettings"]
