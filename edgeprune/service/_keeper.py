"""Keeps the users of a service: loads them, writes their counts, notices when one is forgotten."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from ..runtime.errors import ProfileError
from ..runtime.store import ProfileStore
from ._settings import ServiceSettings
from ._state_file import StateFile
from ._user import User

__all__ = ["Keeper"]

Emit = Callable[..., None]
_LOOK_S = 1.0


class Keeper:
    """The users of one model in one store, and the thread that writes their state.

    Args:
        store: where their profiles are.
        model_id: of the model.
        settings: of the service.
        lock: guards the users.
        emit: told of damaged and unsaved state: kind, message, profile.
    """

    def __init__(
        self,
        store: ProfileStore,
        model_id: str,
        settings: ServiceSettings,
        lock: threading.RLock,
        emit: Emit,
    ) -> None:
        self._store = store
        self._model_id = model_id
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
        """Take note that this user is the one in front of the device."""
        with self._lock:
            self._users[user.name] = self._users.pop(user.name)

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

    def anew(self, user: User) -> User:
        """Replace a user who was forgotten by one of that name of whom nothing is known."""
        with self._lock:
            self._users.pop(user.name, None)
            return self.user(user.name)

    def start(self, on_forgotten: Callable[[User], None]) -> None:
        """Begin to write, and to look whether somebody was forgotten."""
        self._thread = threading.Thread(
            target=self._work, args=(on_forgotten,), name="edgeprune keeper", daemon=True
        )
        self._thread.start()

    def save_soon(self) -> None:
        """Write all states without waiting for the next turn."""
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
                user.restore(fields)
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
        return StateFile(self._store, self._model_id, name)

    def _work(self, on_forgotten: Callable[[User], None]) -> None:
        saved_s = time.monotonic()
        while True:
            with self._wake:
                if not (self._save_now or self._closing):
                    self._wake.wait(_LOOK_S)
                closing, save, self._save_now = self._closing, self._save_now, False
            for user in self._missing():
                on_forgotten(user)
            if closing or save or time.monotonic() - saved_s >= self._settings.save_every_s:
                self._save()
                saved_s = time.monotonic()
            if closing:
                return

    def _missing(self) -> list[User]:
        with self._lock:
            users = list(self._users.values())
        return [user for user in users if not self._file(user.name).there()]

    def _save(self) -> None:
        with self._lock:
            states = {name: user.to_dict() for name, user in self._users.items()}
        for name, fields in states.items():
            self._save_one(name, fields)

    def _save_one(self, name: str, fields: dict[str, Any]) -> None:
        try:
            self._file(name).write(fields, new=False)
            self._unsaved = False
        except ProfileError as error:
            if not self._unsaved:  # said once: a full disk stays full for a while
                self._emit("state-unsaved", f"counts go on in memory only: {error}", name)
            self._unsaved = True
