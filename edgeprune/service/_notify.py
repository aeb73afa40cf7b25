"""What a service manager is told: systemd's protocol, datagrams on a Unix socket.

`sd_notify(3)` describes it; no library is needed. Whatever goes wrong with it, the service goes on.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping
from typing import Self

__all__ = ["Notifier"]

_log = logging.getLogger("edgeprune.service")


class Notifier:
    """Tells the manager that started this process how it fares; without one, does nothing.

    Args:
        address: of the manager's datagram socket: a path, or ``@name`` for an abstract one.
        watchdog_s: how often the manager wants to hear of it, None for never.
    """

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        self._address = None if address is None else _socket_name(address)
        self._socket: socket.socket | None = None
        self.watchdog_s = watchdog_s

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] | None = None) -> Self:
        """Read ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID``, and take them away.

        They are meant for this process: a child that kept them could speak for it.
        """
        environment = os.environ if environment is None else environment
        address = environment.pop("NOTIFY_SOCKET", None)
        interval = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", "")
        wanted = interval.isascii() and interval.isdigit() and int(interval) > 0
        ours = not pid or pid == str(os.getpid())
        usable = address is not None and address[:1] in ("/", "@") and len(address) > 1
        return cls(
            address if usable else None,
            int(interval) / 1e6 if usable and wanted and ours else None,
        )

    @property
    def active(self) -> bool:
        """Whether anybody listens."""
        return self._address is not None

    def ready(self, status: str) -> bool:
        """The service works: from now on the manager counts it as started.

        False if the manager was too busy to hear it: say it again.
        """
        return self._send(f"READY=1\nSTATUS={_line(status)}")

    def status(self, status: str) -> None:
        """One line about the state, for people."""
        self._send(f"STATUS={_line(status)}")

    def watchdog(self) -> None:
        """It still does what it is for."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """It is about to end, on purpose."""
        self._send("STOPPING=1")

    def close(self) -> None:
        """Say nothing any more."""
        self._address = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str) -> bool:
        """Return whether it arrived, or nobody is there for it to arrive at."""
        if self._address is None:
            return True
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.setblocking(False)  # a manager that hangs must not take us with it
            self._socket.sendto(text.encode(), self._address)
        except OSError as error:
            _log.debug("edgeprune: the service manager does not hear: %s", error)
            return not isinstance(error, BlockingIOError)
        return True


def _socket_name(address: str) -> str:
    return "\0" + address[1:] if address.startswith("@") else address


def _line(text: str) -> str:
    return " ".join(text.split())
