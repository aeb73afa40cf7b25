"""The file beside a user's profile that lets counts continue after a restart.

``ROOT/MODEL_ID[:16]/NAME/live.json`` stands in the profile's own folder, so that
``edgeprune profiles forget`` erases it with everything else.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from ..runtime._atomic import explained, lock_folder, make_folder, write_atomically
from ..runtime.store import ProfileStore

__all__ = ["StateFile"]

_NAME = "live.json"
_DAMAGED = "live.damaged.json"
_LARGEST_BYTES = 64_000_000
_LOCK_S = 10.0


class StateFile:
    """Reads and writes the state of one user of one model."""

    def __init__(self, store: ProfileStore, model_id: str, profile: str) -> None:
        self.path = store.path(model_id, profile, 1).with_name(_NAME)
        self._lock = self.path.parent.parent / ".lock"

    def read(self) -> dict[str, Any] | None:
        """What was written last; None without a file.

        Raises:
            ValueError: the file is damaged; `set_aside` makes room for a new one.
            ProfileError: it cannot be read.
        """
        try:
            with explained(self.path, "read"), self.path.open("rb") as file:
                data = file.read(_LARGEST_BYTES + 1)
        except Exception as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                return None
            raise
        fields = json.loads(data.decode("utf-8")) if len(data) <= _LARGEST_BYTES else None
        if not isinstance(fields, dict):
            raise ValueError("it holds no state")
        return fields

    def set_aside(self) -> Path:
        """Move a damaged file out of the way, and say where to. ProfileError if that fails."""
        aside = self.path.with_name(_DAMAGED)
        with explained(self.path, "set aside"):
            self.path.replace(aside)
        return aside

    def write(self, fields: dict[str, Any], *, new: bool) -> bool:
        """Replace the file, durably; False if the user was forgotten meanwhile.

        Args:
            fields: JSON values.
            new: make the folder if it is not there. Otherwise its absence means that the user was
                forgotten, and nothing is written.

        Raises:
            ProfileError: the disk refuses; the old file is as it was.
        """
        data = json.dumps(fields, allow_nan=False, separators=(",", ":")).encode()
        with explained(self.path.parent, "write to"):
            if not new and not self.path.exists():
                return False
            lock = lock_folder(self._lock, time.monotonic() + _LOCK_S)
        try:
            # Asked again under the lock: forgetting takes it, too.
            if not new and not self.path.exists():
                return False
            with explained(self.path.parent, "create"):
                make_folder(self.path.parent)
            write_atomically(self.path, data)
        finally:
            with contextlib.suppress(OSError):
                os.close(lock)
        return True

    def there(self) -> bool:
        """Whether there is one."""
        return self.path.exists()
