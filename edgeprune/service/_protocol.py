"""What is said on a control socket: one line of JSON each way.

::

    {"version": 1, "command": "status"}
    {"version": 1, "command": "use", "profile": "anna"}

    {"version": 1, "ok": true, "command": "status", "result": {…}}
    {"version": 1, "ok": false, "error": {"kind": "bad-request", "message": "…"}}

A connection may carry several requests, one after another. Kinds of error: ``bad-request`` (it was
not understood; nothing was done), ``refused`` (the service will not; nothing was changed),
``busy`` (too many connections), ``timeout`` (the request did not come in time), ``forbidden``
(another user's) and ``internal`` (a bug).
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from typing import Any, Final

__all__ = [
    "COMMANDS",
    "MOST_REQUEST_BYTES",
    "PROTOCOL_VERSION",
    "BadRequest",
    "Request",
    "encode",
    "failure",
    "parse_request",
    "success",
]

PROTOCOL_VERSION: Final = 1
MOST_REQUEST_BYTES: Final = 4096
COMMANDS: Final = ("status", "pause", "resume", "rollback", "use", "personalize", "stop")
_SHOWN: Final = 60


class BadRequest(Exception):
    """A request is not understood; the message says why."""


@dataclass(frozen=True)
class Request:
    """``command`` is one of `COMMANDS`; ``profile`` is what ``use`` is to use, else None."""

    command: str
    profile: str | None = None

    def encode(self) -> bytes:
        """As the line that is sent."""
        profile = {} if self.profile is None else {"profile": self.profile}
        return encode({"version": PROTOCOL_VERSION, "command": self.command, **profile})


def encode(message: dict[str, Any]) -> bytes:
    """One line of JSON in UTF-8, with its end."""
    return json.dumps(message, ensure_ascii=False, allow_nan=False, default=str).encode() + b"\n"


def success(request: Request, result: dict[str, Any]) -> dict[str, Any]:
    """The answer to what was done."""
    return {"version": PROTOCOL_VERSION, "ok": True, "command": request.command, "result": result}


def failure(kind: str, message: str) -> dict[str, Any]:
    """The answer to what was not done."""
    error = {"kind": kind, "message": message}
    return {"version": PROTOCOL_VERSION, "ok": False, "error": error}


def parse_request(line: bytes) -> Request:
    """Read one line; nothing in it is believed.

    Raises:
        BadRequest: it is no request.
    """
    fields = _fields(line)
    version = fields.pop("version", None)
    if type(version) is not int or version != PROTOCOL_VERSION:
        raise BadRequest(
            f"version {_short(version)} is not understood; this service speaks {PROTOCOL_VERSION}"
        )
    command = fields.pop("command", None)
    if not isinstance(command, str) or command not in COMMANDS:
        raise BadRequest(f"there is no command {_short(command)}{_hint(command)}")
    profile = fields.pop("profile", None)
    if fields:
        raise BadRequest(f"{_short(next(iter(fields)))} is no part of a request")
    if (command == "use") != isinstance(profile, str) or (profile is not None and command != "use"):
        raise BadRequest("the command use, and no other, names a profile, as text")
    return Request(command, profile)


def _fields(line: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(line.decode())
    # RecursionError: four thousand brackets; ValueError: all else, also a number of 5,000 digits.
    except (ValueError, RecursionError) as error:
        raise BadRequest("a request is one line of JSON in UTF-8, and this is none") from error
    if not isinstance(fields, dict):
        raise BadRequest("a request is a JSON object")
    return fields


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _hint(command: object) -> str:
    known = f"; there is {', '.join(COMMANDS)}"
    if not isinstance(command, str):
        return known
    close = difflib.get_close_matches(command, COMMANDS, n=1)
    return f"; did you mean {close[0]!r}?" if close else known
