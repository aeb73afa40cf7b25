"""The errors of the devices part.

::

    DeviceError                a source of samples failed (exit code 1)
    ├── PreprocessError        a preprocessing specification is wrong: names the key
    ├── SourceError            a folder, list or table of samples is missing, empty or unusable
    ├── BadSample              one file or one array cannot be used: path and reason
    ├── MissingExtra           an optional package is not installed: names the pip line
    ├── MissingLibrary         a library of the system is not installed: names the command
    └── DeviceUnavailable      a microphone or camera is absent or busy (exit code 4)
        ├── DeviceNotFound     no device has this name, or several have it: names them
        └── DeviceStalled      it was opened and delivers nothing

Every message says what failed, what was left unchanged and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

__all__ = [
    "BadSample",
    "DeviceError",
    "DeviceNotFound",
    "DeviceStalled",
    "DeviceUnavailable",
    "MissingExtra",
    "MissingLibrary",
    "PreprocessError",
    "SourceError",
]


class DeviceError(Exception):
    """Root of every error that this part raises on purpose."""

    exit_code: ClassVar[int] = 1


class PreprocessError(DeviceError):
    """A preprocessing specification is wrong; ``key`` names the entry at fault."""

    def __init__(self, key: str, problem: str) -> None:
        self.key = key
        self.problem = problem
        super().__init__(
            f"preprocessing key {key!r}: {problem}. No sample was read; correct this key "
            "in the specification that came with the model, or export the model again."
        )

    def __reduce__(self) -> tuple[type[PreprocessError], tuple[str, str]]:
        return type(self), (self.key, self.problem)


class SourceError(DeviceError):
    """A folder, list or label table is missing, empty or unusable as a whole."""


class BadSample(DeviceError):
    """One sample cannot be used; ``path`` is None for an array that came from memory."""

    def __init__(self, path: Path | None, reason: str) -> None:
        self.path = path
        self.reason = reason
        subject = "sample from memory" if path is None else str(path)
        super().__init__(
            f"{subject}: {reason}. The sample was skipped and nothing was changed; "
            "replace it or leave it out."
        )

    def __reduce__(self) -> tuple[type[BadSample], tuple[Path | None, str]]:
        # Exceptions are rebuilt from ``args`` by default, which holds the message only;
        # a worker process that reports a bad sample needs both fields.
        return type(self), (self.path, self.reason)


class MissingExtra(DeviceError):
    """An optional package is needed and not installed; ``extra`` names what brings it."""

    def __init__(self, purpose: str, package: str, extra: str = "audio") -> None:
        self.purpose = purpose
        self.package = package
        self.extra = extra
        super().__init__(
            f"{purpose} needs the package {package}, which cannot be imported. "
            f'Nothing was changed; install it with: pip install "edgeprune[{extra}]"'
        )

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str, str]]:
        return type(self), (self.purpose, self.package, self.extra)


class MissingLibrary(DeviceError):
    """A library that pip does not bring is missing; ``command`` installs it."""

    def __init__(self, purpose: str, library: str, command: str) -> None:
        self.purpose = purpose
        self.library = library
        self.command = command
        super().__init__(
            f"{purpose} needs {library}, which is not installed. "
            f"Nothing was changed; install it with: {command}"
        )

    def __reduce__(self) -> tuple[type[MissingLibrary], tuple[str, str, str]]:
        return type(self), (self.purpose, self.library, self.command)


class DeviceUnavailable(DeviceError):
    """A live device (microphone, camera) is absent, busy or refused to start."""

    exit_code: ClassVar[int] = 4


class DeviceNotFound(DeviceUnavailable):
    """No device is called ``wanted`` (None: the default one), or several are.

    ``known`` holds the names that there are, or those that fit.
    """

    def __init__(
        self, kind: str, wanted: str | None, known: Sequence[str], several: bool = False
    ) -> None:
        self.kind = kind
        self.wanted = wanted
        self.known = tuple(known)
        self.several = several
        super().__init__(f"{self._problem()}. Nothing was opened.")

    def _problem(self) -> str:
        names = ", ".join(repr(name) for name in self.known)
        if self.several:
            return f"{self.wanted!r} fits more than one {self.kind}: {names}; say more of the name"
        if not self.known:
            return f"there is no {self.kind} at all; plug one in and see: edgeprune devices list"
        if self.wanted is None:
            return f"the system has no default {self.kind}; name one of these: {names}"
        return f"there is no {self.kind} {self.wanted!r}.{self._hint()} There is {names}"

    def _hint(self) -> str:
        folded = {name.casefold(): name for name in self.known}
        close = difflib.get_close_matches((self.wanted or "").casefold(), folded, n=1, cutoff=0.5)
        return f" Did you mean {folded[close[0]]!r}?" if close else ""

    def __reduce__(
        self,
    ) -> tuple[type[DeviceNotFound], tuple[str, str | None, tuple[str, ...], bool]]:
        return type(self), (self.kind, self.wanted, self.known, self.several)


class DeviceStalled(DeviceUnavailable):
    """A device was opened and delivers nothing."""
