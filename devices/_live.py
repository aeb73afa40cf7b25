"""What keeps a device running: opening it, noticing that it is gone, opening it again."""

from __future__ import annotations

import logging
import threading
import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, Protocol, Self, TypeVar

from ._drop_oldest import DropOldest
from ._errors import DeviceError, DeviceStalled, DeviceUnavailable
from ._events import DeviceEvent, OnEvent, TroubleLog
from ._source import ChunkT, Source

__all__ = ["Link", "LiveSource", "LiveTiming"]

_POLL_S: Final = 0.1
# A device that ran for so long is not one that fails at every opening.
_PROVEN_S: Final = 1.0

_log = logging.getLogger("edgeprune.devices")
BlockT = TypeVar("BlockT")
ItemT = TypeVar("ItemT")
BlockT_co = TypeVar("BlockT_co", covariant=True)


@dataclass(frozen=True, kw_only=True)
class LiveTiming:
    """How long a device may take, in seconds.

    ``open_timeout_s`` is for opening it until the first data; ``stall_after_s`` is how long a
    running one may be silent before it counts as stalled and is opened anew: more than the time
    between two frames of a slow camera. After a failure the next attempt waits ``retry_first_s``,
    then twice as long each time up to ``retry_most_s``.

    Raises:
        ValueError: a time is not positive, or ``retry_most_s`` is below ``retry_first_s``.
    """

    open_timeout_s: float = 5.0
    stall_after_s: float = 1.5
    retry_first_s: float = 0.25
    retry_most_s: float = 5.0

    def __post_init__(self) -> None:
        times = (self.open_timeout_s, self.stall_after_s, self.retry_first_s, self.retry_most_s)
        if not all(0.0 < value < 86_400.0 for value in times):
            raise ValueError(f"every time must be above 0 and below a day: {self}")
        if self.retry_most_s < self.retry_first_s:
            raise ValueError(f"retry_most_s is below retry_first_s: {self}")


class Link(Protocol[BlockT_co]):
    """A device while it is open. One thread uses it, and closes it."""

    def read(self, timeout_s: float) -> BlockT_co | None:
        """Return what came, or None when nothing did within about ``timeout_s``.

        Raises:
            DeviceStalled: nothing came for so long that the link is no longer usable.
            DeviceUnavailable: the device is gone.
        """
        ...

    def close(self) -> None:
        """Let go of the device, within about a second whatever state it is in."""
        ...


class LiveSource(Source[ChunkT], Generic[ChunkT, BlockT, ItemT]):
    """A device that is opened again whenever it goes away, until `close`.

    One thread owns the device; the reader takes from a bounded queue and never meets an error of
    the device. What happens is told as `DeviceEvent`, once when it begins and once when it ends.
    """

    live = True

    def __init__(
        self,
        name: str,
        *,
        connect: Callable[[], Link[BlockT]],
        queue: DropOldest[ItemT],
        timing: LiveTiming,
        on_event: OnEvent | None,
    ) -> None:
        self.name = name
        self.timing = timing
        self._connect = connect
        self._queue = queue
        self._troubles = TroubleLog(name, on_event)
        self._closing = threading.Event()
        self._first_try = threading.Event()
        self._first_error: DeviceError | None = None
        self._patient = False
        self._connections = 0
        self._retry_s = timing.retry_first_s
        self._thread = threading.Thread(target=self._pump, name=f"edgeprune {name}", daemon=True)

    def start(self, *, wait: bool) -> Self:
        """Open the device; with ``wait`` one that is absent is waited for in the background.

        Raises:
            DeviceUnavailable: it cannot be opened (never with ``wait``). The source is closed.
            MissingExtra: a package is not installed. The source is closed.
            MissingLibrary: a library of the system is not installed. The source is closed.
        """
        self._patient = wait
        self._thread.start()
        try:
            self._first_try.wait()
        except BaseException:  # Ctrl-C while a device takes its time
            self.close()
            raise
        error = self._first_error
        if error is None:
            return self
        self.close()
        if type(error) in (DeviceUnavailable, DeviceStalled):
            raise type(error)(f"{error}. Nothing was opened; see: edgeprune devices list")
        raise error

    @property
    def troubles(self) -> frozenset[str]:
        """What is wrong now; empty when all is well. See `DeviceEvent` for the names."""
        return self._troubles.active

    @property
    def events(self) -> tuple[DeviceEvent, ...]:
        """The last hundred events, oldest first."""
        return self._troubles.history

    @property
    def connections(self) -> int:
        """How often the device was opened and delivered something."""
        return self._connections

    @property
    def ended(self) -> bool:
        """Whether the source was closed."""
        return self._queue.closed

    def read(self, timeout_s: float | None = None) -> ChunkT | None:
        """Return the next chunk; see `Source.read`."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left = None if until is None else max(0.0, until - time.monotonic())
            got = self._queue.get(left)
            if got is None:
                return None
            chunk = self._finish(*got)
            if chunk is not None:
                return chunk

    def close(self) -> None:
        """Close the device and end the iteration; returns within two seconds or so."""
        self._closing.set()
        self._queue.close(discard=True)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout=2.0 + self.timing.stall_after_s)

    @abstractmethod
    def _accept(self, block: BlockT) -> None:
        """Judge what came, make items of it and queue them."""

    @abstractmethod
    def _finish(self, item: ItemT, dropped: int) -> ChunkT | None:
        """Make the reader's chunk of a queued item; None passes it over."""

    def _connected(self, link: Link[BlockT]) -> None:
        """Prepare for a new connection."""

    # From here on: the thread that owns the device.

    def _pump(self) -> None:
        while not self._closing.is_set():
            try:
                self._serve()
            except DeviceError as error:
                self._lost(error)
            except Exception as error:  # a driver's binding may raise anything; we go on
                _log.debug("edgeprune: %s", self.name, exc_info=True)
                self._lost(DeviceUnavailable(f"{self.name}: {type(error).__name__}: {error}"))
            self._first_try.set()
            self._closing.wait(self._retry_s)
            self._retry_s = min(2.0 * self._retry_s, self.timing.retry_most_s)
        self._queue.close(discard=True)

    def _serve(self) -> None:
        """Run one connection from opening to loss."""
        link = self._connect()
        try:
            self._connected(link)
            self._first_try.set()
            self._flow(link)
        finally:
            link.close()

    def _flow(self, link: Link[BlockT]) -> None:
        begun = last = time.monotonic()
        fresh = True
        while not self._closing.is_set():
            block = link.read(_POLL_S)
            now = time.monotonic()
            if block is None:
                self._check_silence(now - last, self.timing.open_timeout_s if fresh else 0.0)
                continue
            if fresh:
                self._delivers()
            fresh, last = False, now
            if now - begun > _PROVEN_S:
                self._retry_s = self.timing.retry_first_s
            self._accept(block)

    def _check_silence(self, silent_s: float, patience_s: float) -> None:
        if silent_s < self.timing.stall_after_s:
            return
        error = DeviceStalled(f"{self.name} is open and has delivered nothing for {silent_s:.1f} s")
        self._begin_outage(error)
        if silent_s >= patience_s:
            raise error

    def _delivers(self) -> None:
        self._connections += 1
        for trouble in ("unplugged", "stalled"):
            self._troubles.end(trouble, f"{self.name} delivers again.")

    def _lost(self, error: DeviceError) -> None:
        waiting = self._patient and isinstance(error, DeviceUnavailable)
        if not self._first_try.is_set() and not waiting:
            self._first_error = error  # for `start` to raise: nobody else is to hear of it
            self._closing.set()
        if not self._closing.is_set():
            self._begin_outage(error)

    def _begin_outage(self, error: DeviceError) -> None:
        # One outage is one trouble, whatever the attempts to end it run into.
        if not self._troubles.active & {"unplugged", "stalled"}:
            trouble = "stalled" if isinstance(error, DeviceStalled) else "unplugged"
            text = str(error).rstrip(".")
            self._troubles.begin(trouble, f"{text}. It is opened again as soon as it returns.")
