"""Asking a running service."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any, Final

from ._places import ServiceError, find_sockets
from ._protocol import Request

__all__ = ["ask", "choose_socket"]

_MOST_ANSWER_BYTES: Final = 1_000_000
_BUSY_S: Final = 5.0


def ask(path: Path, request: Request, timeout_s: float = 30.0) -> dict[str, Any]:
    """Send a request to the service at ``path``, and return the result.

    Raises:
        ServiceError: nobody answers there, or the service refuses.
    """
    until = time.monotonic() + _BUSY_S
    while True:
        answer = _exchange(path, request, timeout_s)
        if answer.get("ok") is True and isinstance(answer.get("result"), dict):
            result: dict[str, Any] = answer["result"]
            return result
        error = answer.get("error")
        if not isinstance(error, dict):
            raise ServiceError(f"what answers at {path} is no service of edgeprune.")
        if error.get("kind") != "busy" or time.monotonic() > until:
            raise ServiceError(str(error.get("message")))
        time.sleep(0.1)


def choose_socket(store: Path, name: str | None) -> Path:
    """Return the socket of the service ``name``, or of the only one that runs.

    Raises:
        ServiceError: there is none, or which one is meant is not clear.
    """
    found = find_sockets(store)
    if name is not None:
        if name in found:
            return found[name]
        raise ServiceError(f"no service called {name!r} is running.{_listed(found)}")
    running = {known: path for known, path in found.items() if _answers(path)}
    if len(running) == 1:
        return next(iter(running.values()))
    if running:
        raise ServiceError(f"several services are running: {', '.join(running)}. Say --name.")
    raise ServiceError("no service is running. Start one with: edgeprune run MODEL --source …")


def _listed(found: dict[str, Path]) -> str:
    running = [name for name, path in found.items() if _answers(path)]
    return f" There is {', '.join(running)}." if running else " Nor is any other."


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1.0)
        try:
            client.connect(os.fspath(path))
        except OSError:
            return False
        return True


def _exchange(path: Path, request: Request, timeout_s: float) -> dict[str, Any]:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(timeout_s)
            client.connect(os.fspath(path))
            line = _converse(client, request)
        answer = json.loads(line)
    except (FileNotFoundError, ConnectionRefusedError):
        raise ServiceError(f"no service is running at {path}.") from None
    except TimeoutError:
        raise ServiceError(
            f"the service at {path} did not answer within {timeout_s:g} s."
        ) from None
    except OSError as error:
        raise ServiceError(f"{path} cannot be reached ({error.strerror or error}).") from error
    except ValueError:
        raise ServiceError(f"what answers at {path} is no service of edgeprune.") from None
    return answer if isinstance(answer, dict) else {}


def _converse(client: socket.socket, request: Request) -> bytes:
    """Send a request, and return the line that answers it."""
    with contextlib.suppress(BrokenPipeError):  # why it would not listen can still be read
        client.sendall(request.encode())
    said = b""
    while b"\n" not in said and len(said) < _MOST_ANSWER_BYTES:
        heard = client.recv(65_536)
        if not heard:
            break
        said += heard
    return said.partition(b"\n")[0]
