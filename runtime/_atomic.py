"""Files that are either the old ones or the new ones, whatever happens in between.

A new file is written under a temporary name in the same folder, flushed to the disk, renamed over
the old one, and the folder is flushed too. A process killed at any instant leaves at worst a
temporary file, which `remove_stale` deletes. `lock_folder` keeps writers apart.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from .errors import ProfileError

__all__ = [
    "PRIVATE_FILE",
    "PRIVATE_FOLDER",
    "explained",
    "lock_folder",
    "make_folder",
    "remove_stale",
    "sync_folder",
    "write_atomically",
]

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700
_TEMPORARY = ".tmp-"
_POLL_S = 0.02
_REASONS = {
    errno.ENOSPC: "the disk is full. Free some space and try again",
    errno.EDQUOT: "your disk quota is used up. Free some space and try again",
    errno.EFBIG: "the file would exceed the size limit. Raise it (ulimit -f) and try again",
    errno.EROFS: "the file system is read-only. Remount it, or choose another folder with "
    "EDGEPRUNE_HOME",
    errno.EACCES: "permission denied. Check who owns the folder, or choose another one with "
    "EDGEPRUNE_HOME",
}


@contextlib.contextmanager
def explained(
    path: Path, action: str = "write", outcome: str = "Nothing was changed."
) -> Iterator[None]:
    """Turn an OSError of the block into a `ProfileError` that says what to do about `path`."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        raise ProfileError(f"cannot {action} {path}: {reason}. {outcome}") from error


def write_atomically(path: Path, data: bytes, *, mode: int = PRIVATE_FILE) -> None:
    """Replace the file `path` by `data`, durably, or leave it as it was.

    Raises:
        ProfileError: the disk is full, read-only or the like; `path` is as it was and no temporary
            file is left.
    """
    with explained(path, outcome="Nothing was changed; the old file stays in force."):
        import secrets

        temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}")
        try:
            _write_durably(temporary, data, mode)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    outcome = "The new file is in force, but might not survive a power cut."
    with explained(path, action="flush the folder of", outcome=outcome):
        sync_folder(path.parent)


def _write_durably(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - a Path cannot open a descriptor
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make renames and removals in `folder` durable; OSError if the disk fails."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot flush a folder
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create `folder` and what is missing above it, for the user alone; OSError if impossible.

    Folders that exist keep their mode.
    """
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(PRIVATE_FOLDER)
        sync_folder(folder.parent)


def remove_stale(folder: Path) -> None:
    """Delete the temporary files that killed writers left in `folder`; failures are ignored.

    Call it only while you hold the lock that keeps other writers out of `folder`.
    """
    with contextlib.suppress(OSError):
        for path in folder.glob(f"{_TEMPORARY}*"):
            path.unlink(missing_ok=True)


def lock_folder(lock_file: Path, deadline_s: float) -> int:
    """Lock the folder of `lock_file`, and create it; the descriptor returned holds the lock.

    Close it to let others in; the kernel does that for a process that dies.

    Raises:
        OSError: the folder cannot be written to.
        ProfileError: another process held the lock until `deadline_s` (monotonic).
    """
    while True:
        make_folder(lock_file.parent)
        lock = _try_lock(lock_file)
        if lock is not None:
            return lock
        if time.monotonic() >= deadline_s:
            raise ProfileError(
                f"another edgeprune process is writing to {lock_file.parent}. Nothing was "
                "changed; try again when it is done."
            )
        time.sleep(_POLL_S)


def _try_lock(path: Path) -> int | None:
    """Try once to create and lock `path`; None if another has it or has just removed it."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
    except FileNotFoundError:
        return None  # the folder was removed under us
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A lock on a file that its holder has unlinked meanwhile keeps nobody out.
        if os.path.samestat(os.fstat(lock), path.stat()):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    return None
