"""Where running services are found, and how a second one is kept out.

::

    $XDG_RUNTIME_DIR/edgeprune/NAME.sock    the control socket of the service NAME
    STORE/run/NAME.sock                     the same, where there is no runtime folder
    …/NAME.sock.lock                        held by the process that the socket belongs to
    STORE/run/MODEL-PROFILE.lock            held by the one process that learns for a profile

The folders are the user's alone (0700). A lock is the kernel's: it ends with its process, however
that ends, so what a killed service leaves is in nobody's way.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from ..runtime._atomic import PRIVATE_FOLDER, explained, lock_folder, make_folder
from ..runtime.errors import EdgepruneError, ProfileError

__all__ = [
    "FileLock",
    "ProfileLock",
    "ServiceError",
    "check_length",
    "find_sockets",
    "private_folder",
    "runtime_folders",
    "service_name",
    "socket_path",
]

_NAME: Final = re.compile(r"[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,63}")
_SUFFIX: Final = ".sock"
_MOST_PATH_BYTES: Final = 107  # of sun_path on Linux; macOS has 103
_OTHERS: Final = 0o077


class ServiceError(EdgepruneError):
    """The service cannot run so, or cannot be reached."""


class FileLock:
    """An exclusive lock on a file, created if it is missing; it ends with this process.

    Args:
        path: the file.
        refusal: what is said when another process holds it.

    Raises:
        ServiceError: another process holds it.
        ProfileError: the folder cannot be written to.
    """

    def __init__(self, path: Path, refusal: str) -> None:
        self._path = path
        with explained(path):
            make_folder(path.parent)
        try:
            with explained(path):
                self._descriptor: int | None = lock_folder(path, time.monotonic())
        except ProfileError as error:
            if isinstance(error.__cause__, OSError):
                raise
            raise ServiceError(refusal) from None

    def release(self) -> None:
        """Let others in, and remove the file; any number of times."""
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError):  # removed while it is held: nobody loses a lock by it
            self._path.unlink()
        os.close(self._descriptor)
        self._descriptor = None


class ProfileLock:
    """Keeps every other service off the profile that this one learns for.

    Args:
        store: the folder that profiles are kept in.
        model_id: of the model that they are of.
    """

    def __init__(self, store: Path, model_id: str) -> None:
        self._store = store
        self._model = model_id[:16]
        self._profile: str | None = None
        self._held: FileLock | None = None

    def move_to(self, profile: str) -> None:
        """Hold this profile, and no other.

        Raises:
            ServiceError: another service learns for it, or it is no name; what was held still is.
            ProfileError: the store cannot be written to.
        """
        with self.moving_to(profile):
            pass

    @contextlib.contextmanager
    def moving_to(self, profile: str) -> Iterator[None]:
        """Hold this profile from now on, unless the block raises; raises as `move_to`."""
        if profile == self._profile:
            yield
            return
        if not _NAME.fullmatch(profile):  # or it might name a file anywhere
            raise ServiceError(f"{profile[:80]!r} cannot name a profile. Nothing was changed.")
        held = FileLock(
            self._store / "run" / f"{self._model}-{profile}.lock",
            f"another service is running for the profile {profile!r} of this model. Nothing was "
            "changed; see `edgeprune ctl status`, end it with `edgeprune ctl stop`, or name "
            "another profile.",
        )
        try:
            yield
        except BaseException:
            held.release()
            raise
        self.release()
        self._profile, self._held = profile, held

    def release(self) -> None:
        """Let others in; any number of times."""
        if self._held is not None:
            self._held.release()
        self._profile = self._held = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def service_name(text: str) -> str:
    """Return a name that a service may have, made of any text."""
    name = re.sub(r"[^a-zA-Z0-9._-]+", "-", text).strip("-.")[:64]
    return name if _NAME.fullmatch(name) else "edgeprune"


def socket_path(name: str, store: Path) -> Path:
    """Where the control socket of the service ``name`` stands; the folder is made.

    Raises:
        ServiceError: the name is not allowed, or the path is too long for a socket.
    """
    if not _NAME.fullmatch(name):
        raise ServiceError(
            f"{name[:80]!r} cannot name a service. Use 1 to 64 of the characters a-z, A-Z, 0-9, "
            "'.', '_' and '-', not starting with '.'."
        )
    return check_length(private_folder(runtime_folders(store)[0]) / f"{name}{_SUFFIX}")


def check_length(path: Path) -> Path:
    """Return the path of a socket if the system can use it.

    Raises:
        ServiceError: it is too long.
    """
    if len(os.fsencode(path)) > _MOST_PATH_BYTES:
        raise ServiceError(
            f"{path} is too long for the name of a socket ({_MOST_PATH_BYTES} bytes). Nothing was "
            "started; name a shorter path with --socket."
        )
    return path


def runtime_folders(store: Path) -> list[Path]:
    """The folders where sockets of services may stand, the preferred one first."""
    folders = [store / "run"]
    given = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    # The specification wants it absolute; a folder that is gone is a session that has ended.
    if given.is_absolute() and given.is_dir():
        folders.insert(0, given / "edgeprune")
    return folders


def find_sockets(store: Path) -> dict[str, Path]:
    """Every control socket there is by its service's name; some may be of dead services."""
    found: dict[str, Path] = {}
    for folder in runtime_folders(store):
        with contextlib.suppress(OSError):
            for path in sorted(folder.glob(f"*{_SUFFIX}")):
                found.setdefault(path.name.removesuffix(_SUFFIX), path)
    return found


def private_folder(folder: Path) -> Path:
    """Make a folder that is the user's alone, or make it so.

    Raises:
        ServiceError: it is another user's, or no folder.
    """
    with explained(folder, "create"):
        make_folder(folder)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
            if found.st_mode & _OTHERS:
                folder.chmod(PRIVATE_FOLDER)
            return folder
    raise ServiceError(
        f"{folder} is not a folder of your own, so a control socket would not be safe in it. "
        "Nothing was started; name a path with --socket, or do without with --no-control."
    )
