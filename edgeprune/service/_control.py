"""The control socket of a running service: one thread, whatever connects to it."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ..devices import DeviceError
from ..runtime.errors import EdgepruneError
from ._places import FileLock, ServiceError
from ._protocol import (
    MOST_REQUEST_BYTES,
    BadRequest,
    Request,
    encode,
    failure,
    parse_request,
    success,
)

__all__ = ["ControlServer", "Handler", "peer_uid"]

Handler = Callable[[Request], dict[str, Any]]

_MOST_CLIENTS: Final = 32
_BACKLOG: Final = 64
_PATIENCE_S: Final = 5.0
_MOST_UNREAD_BYTES: Final = 65_536
_READ_BYTES: Final = 4096
_PRIVATE: Final = 0o600

_log = logging.getLogger("edgeprune.service")


class _Client:
    """One connection: what it has said so far, and what it has yet to read."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.said = b""
        self.unread = b""
        self.until_s = time.monotonic() + _PATIENCE_S
        self.leaving = False  # when it has read what there is

    def answer(self, message: dict[str, Any], *, leave: bool = False) -> None:
        self.unread += encode(message)
        self.leaving = self.leaving or leave
        self.until_s = time.monotonic() + _PATIENCE_S


class ControlServer:
    """Answers requests on a Unix socket, in a thread of its own.

    Only processes of this user are answered. A request has at most 4,096 bytes and five seconds; a
    connection that asks for more, or does not read its answers, is closed, and no one of them keeps
    the others or the service waiting. What a dead service left at ``path`` is replaced.

    Args:
        path: of the socket, in a folder that exists.
        handle: does what a request asks for, from the server's thread; it may raise any error of
            edgeprune, which the client is told.

    Raises:
        ServiceError: another service has this socket, something else stands there, or the system
            refuses it.
    """

    def __init__(self, path: Path, handle: Handler) -> None:
        self.path = path
        self._handle = handle
        self._lock = FileLock(
            path.with_name(f"{path.name}.lock"),
            f"another service has the control socket {path}. Nothing was started; give this one "
            "another name with --name.",
        )
        try:
            self._listener = _listen(path)
        except BaseException:
            self._lock.release()
            raise
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._waker, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._clients: dict[int, _Client] = {}
        self._thread = threading.Thread(target=self._serve, name="edgeprune control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering, and remove the socket; any number of times."""
        if self._waker.fileno() < 0:
            return
        self._waker.send(b"\0")
        self._thread.join()
        for opened in (self._waker, self._woken, self._listener):
            opened.close()
        self._selector.close()
        with contextlib.suppress(OSError):
            self.path.unlink()
        self._lock.release()

    def _serve(self) -> None:
        while True:
            ready = self._selector.select(self._patience_s())
            for key, events in ready:
                if key.fileobj is self._listener:
                    self._admit()
                elif key.fileobj is self._woken:
                    return self._leave_all()
                elif key.fd in self._clients:
                    self._attend(self._clients[key.fd], events)
            self._dismiss_late()

    def _patience_s(self) -> float | None:
        """How long until the first client is too late."""
        times = [client.until_s for client in self._clients.values()]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _admit(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # gone again already, or this process has no descriptor left
            time.sleep(0.01)
            return
        connection.setblocking(False)
        client = _Client(connection)
        self._clients[connection.fileno()] = client
        self._selector.register(connection, selectors.EVENT_READ)
        uid = peer_uid(connection)
        if uid is not None and uid != os.geteuid():
            client.answer(failure("forbidden", "this service is another user's"), leave=True)
        elif len(self._clients) > _MOST_CLIENTS:
            client.answer(failure("busy", "too many connections; try again"), leave=True)
        self._deliver(client)

    def _attend(self, client: _Client, events: int) -> None:
        if events & selectors.EVENT_READ:
            try:
                heard = client.connection.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                self._leave(client)
                return
            if heard:
                self._listen_to(client, heard)
            else:
                self._hear_out(client)
        self._deliver(client)

    def _listen_to(self, client: _Client, heard: bytes) -> None:
        client.said += heard
        while not client.leaving:
            line, end, rest = client.said.partition(b"\n")
            if len(line) >= MOST_REQUEST_BYTES:
                text = f"a request has at most {MOST_REQUEST_BYTES} bytes"
                client.answer(failure("bad-request", text), leave=True)
            elif not end:
                return
            else:
                client.said = rest
                client.answer(self._answer(line))

    def _hear_out(self, client: _Client) -> None:
        """The client will say nothing more, and may still be reading."""
        if client.said and not client.leaving:
            client.answer(failure("bad-request", "a request ends with a new line"))
        client.leaving = True

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = parse_request(line)
            return success(request, self._handle(request))
        except BadRequest as error:
            return failure("bad-request", str(error))
        except (EdgepruneError, DeviceError) as error:
            return failure("refused", str(error))
        except Exception as error:
            _log.debug("edgeprune: a request failed", exc_info=True)
            return failure("internal", f"unexpected {type(error).__name__}: {error} (a bug)")

    def _deliver(self, client: _Client) -> None:
        """Send what the client is ready to take; wait for it to take the rest."""
        try:
            while client.unread:
                client.unread = client.unread[client.connection.send(client.unread) :]
        except BlockingIOError:
            pass
        except OSError:
            client.leaving, client.unread = True, b""
        if len(client.unread) > _MOST_UNREAD_BYTES or (client.leaving and not client.unread):
            self._leave(client)
            return
        reading = 0 if client.leaving else selectors.EVENT_READ
        writing = selectors.EVENT_WRITE if client.unread else 0
        self._selector.modify(client.connection, reading | writing)

    def _dismiss_late(self) -> None:
        now = time.monotonic()
        for client in [one for one in self._clients.values() if one.until_s <= now]:
            if client.said and not client.leaving:
                text = f"no whole request came within {_PATIENCE_S:g} s"
                client.answer(failure("timeout", text), leave=True)
                self._deliver(client)
            else:
                self._leave(client)

    def _leave(self, client: _Client) -> None:
        if self._clients.pop(client.connection.fileno(), None) is not None:
            self._selector.unregister(client.connection)
            client.connection.close()

    def _leave_all(self) -> None:
        for client in list(self._clients.values()):
            self._leave(client)


def _listen(path: Path) -> socket.socket:
    """Bind a socket that only this user may connect to; the lock beside it must be held."""
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()  # we hold the lock, so whoever made it is dead
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(os.fspath(path))
        path.chmod(_PRIVATE)  # before `listen`: until then every connection is refused
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ServiceError(
            f"the control socket {path} cannot be made ({error.strerror or error}). Nothing was "
            "started; name another path with --socket, or do without with --no-control."
        ) from error
    return listener


def peer_uid(connection: socket.socket) -> int | None:
    """The user at the other end, None where the system does not say: file permissions guard it."""
    if not sys.platform.startswith("linux"):
        return None
    size = struct.calcsize("3i")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, uid, _ = struct.unpack("3i", credentials)
    return int(uid)
