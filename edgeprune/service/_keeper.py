"""Keeps the users of a service: loads them, writes their counts, notices when one is forgotten.

And keeps memory tidy: each network that is swapped in is built beside the one before, and what that
leaves would stay with the process as holes in its heap, some more each time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ..runtime._ort import trim_memory
from ..runtime.artifact import ModelInfo
from ..runtime.errors import ProfileError
from ..runtime.store import ProfileStore
from ._settings import ServiceSettings
from ._state_file import StateFile
from ._user import User

__all__ = ["Keeper"]

Emit = Callable[..., None]
_LOOK_S = 1.0
_MOST_USERS = 16


class Keeper:
    """The users of one model in one store, and the thread that writes their state.

    Args:
        store: where their profiles are.
        info: of the model.
        settings: of the service.
        lock: guards the users.
        emit: told of damaged and unsaved state: kind, message, profile.
    """

    def __init__(
        self,
        store: ProfileStore,
        info: ModelInfo,
        settings: ServiceSettings,
        lock: threading.RLock,
        emit: Emit,
    ) -> None:
        self._store = store
        self._info = info
        self._settings = settings
        self._lock = lock
        self._emit = emit
        self._users: dict[str, User] = {}
        self._unsaved = False
        self._wake = threading.Condition()
        self._save_now = self._closing = False
        self._thread: threading.Thread | None = None

    def user(self, name: str) -> User:
        """The user of that name: known, read from disk, or new.

        Raises:
            ProfileError: the name is not allowed, or the store cannot be used.
        """
        with self._lock:
            if name not in self._users:
                self._users[name] = self._open(name)
            return self._users[name]

    def touch(self, user: User) -> None:
        """Take note that this user is the one in front of the device.

        Who was away longest is written to disk and let go when there are many.
        """
        with self._lock:
            self._users.pop(user.name, None)
            self._users[user.name] = user
            while len(self._users) > _MOST_USERS:
                oldest = next(iter(self._users))
                self._write(self._users.pop(oldest))

    def make_room(self, user: User) -> None:
        """Drop the samples of whoever was away longest while all together exceed the memory."""
        budget = self._settings.memory_mb * 1_000_000
        others = [one for one in self._users.values() if one is not user and len(one.reservoir)]
        total = user.reservoir.size_bytes + sum(one.reservoir.size_bytes for one in others)
        for other in others:
            if total <= budget:
                return
            total -= other.reservoir.size_bytes
            other.reservoir.forget()

    def is_forgotten(self, user: User) -> bool:
        """Whether the user's profile was erased by another program."""
        return not self._file(user.name).there()

    def anew(self, user: User) -> User:
        """Replace a user who was forgotten by one of that name of whom nothing is known."""
        with self._lock:
            self._users.pop(user.name, None)
            return self.user(user.name)

    def start(self, on_forgotten: Callable[[User], None], on_look: Callable[[User], None]) -> None:
        """Begin to write, and to look whether somebody was forgotten.

        Args:
            on_forgotten: told of a user whose profile was erased by another program.
            on_look: called about once a second with every other user.
        """
        self._on_forgotten, self._on_look = on_forgotten, on_look
        self._thread = threading.Thread(target=self._work, name="edgeprune keeper", daemon=True)
        self._thread.start()

    def save_soon(self) -> None:
        """Another network answers: write all states now, and give back what the last one leaves."""
        with self._wake:
            self._save_now = True
            self._wake.notify()

    def close(self) -> None:
        """Write all states and end the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _open(self, name: str) -> User:
        user, file = User(name, self._settings), self._file(name)
        try:
            fields = file.read()
            if fields is not None:
                user.restore(fields, self._info.classes or 0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._emit(
                "state-damaged",
                f"{file.path} is damaged ({error}): it was set aside as {file.set_aside().name}, "
                "and counts start anew. The profile itself is untouched.",
                name,
            )
        user.counts.starts += 1
        file.write(user.to_dict(), new=True)
        return user

    def _file(self, name: str) -> StateFile:
        return StateFile(self._store, self._info.model_id, name)

    def _work(self) -> None:
        saved_s = time.monotonic()
        while True:
            with self._wake:
                if not (self._save_now or self._closing):
                    self._wake.wait(_LOOK_S)
                closing, save, self._save_now = self._closing, self._save_now, False
            late = time.monotonic() - saved_s >= self._settings.save_every_s
            with self._lock:
                users = list(self._users.values())
            for user in users:
                self._look_after(user, save=save or late or closing)
            if save:
                trim_memory()
            saved_s = time.monotonic() if save or late else saved_s
            if closing:
                return

    def _look_after(self, user: User, *, save: bool) -> None:
        try:
            if self.is_forgotten(user):
                self._on_forgotten(user)
                return
            self._on_look(user)
            if save:
                self._write(user)
        except ProfileError as error:
            if not self._unsaved:  # said once: a full disk stays full for a while
                self._emit("state-unsaved", f"counts go on in memory only: {error}", user.name)
            self._unsaved = True

    def _write(self, user: User) -> None:
        with self._lock:
            fields = user.to_dict()
        self._file(user.name).write(fields, new=False)
        self._unsaved = False
