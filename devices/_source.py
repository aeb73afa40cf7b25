"""The one kind of source: microphones, cameras and files are all read like this."""

from __future__ import annotations

from abc import abstractmethod
from typing import Generic, Self, TypeVar

from ._chunks import AudioChunk, VideoFrame
from ._closing import Closing

__all__ = ["ChunkT", "Source"]

ChunkT = TypeVar("ChunkT", AudioChunk, VideoFrame)


class Source(Closing, Generic[ChunkT]):
    """An iterator of timed chunks, a context manager, and closable from any thread.

    Three lines to see it::

        with open_microphone("USB", sample_rate_hz=16000) as source:
            for chunk in source:  # until somebody calls source.close(), whatever the device does
                print(chunk.timestamp_s, len(chunk.samples))
    """

    name: str
    """What the source calls itself; no password is in it."""
    live: bool
    """True for devices, which deliver in real time and do not end by themselves."""

    @abstractmethod
    def read(self, timeout_s: float | None = None) -> ChunkT | None:
        """Return the next chunk.

        None means that ``timeout_s`` seconds (None: no limit) passed without one, or that the
        source has `ended`; a device that is away is waited for.
        """

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether no chunk will ever come again: closed, or a file read to its end."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the device or file and end the iteration; any thread, any number of times."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ChunkT:
        chunk = self.read()
        if chunk is None:
            raise StopIteration
        return chunk
