"""Signals that ask a service to end."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

__all__ = ["stop_on_signals"]

_ASKING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextlib.contextmanager
def stop_on_signals(stop: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Call ``stop`` when this process is asked to end, instead of ending it.

    A second Ctrl-C interrupts whatever is going on. A signal that was ignored before (``nohup``)
    still is. Does nothing in a thread other than the main one, which gets no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and asked:
            raise KeyboardInterrupt
        asked.append(number)
        stop(signal.Signals(number))

    before = {one: signal.getsignal(one) for one in _ASKING}
    for one, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(one, handle)
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
