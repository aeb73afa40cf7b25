"""The profiles of this user on this machine: generations that are never rewritten, and pointers.

::

    ROOT/MODEL_ID[:16]/NAME/000001.safetensors    a generation; written once, then only read
    ROOT/MODEL_ID[:16]/NAME/current               the number of the generation in force; 0 is dense
    ROOT/MODEL_ID[:16]/active                     the name of the profile that the runtime uses
    ROOT/MODEL_ID[:16]/.lock                      held by the one process that writes

Whatever is in force was complete before the pointer moved to it, so a process killed at any instant
leaves a store that reads as before or as after. Readers take no lock. What killed writers leave
(``.tmp-…``, ``.trash-…``) is deleted by the next writer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._atomic import (
    explained,
    lock_folder,
    make_folder,
    remove_stale,
    sync_folder,
    write_atomically,
)
from ._home import default_root
from .errors import ProfileError, ProfileMismatch, ProfileNotFound

if TYPE_CHECKING:  # to find that there is no profile needs nothing that reads one
    from datetime import datetime

    from ._profile_format import Strength
    from .artifact import Artifact
    from .profile import Profile

__all__ = ["DENSE", "ProfileStore", "ProfileSummary", "default_root"]

DENSE = 0  # the generation of which there is no file: the model as it was trained
_NAME = re.compile(r"[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,63}")
_MODEL_ID = re.compile(r"[0-9a-f]{64}")
_FILE = re.compile(r"([0-9]{6,18})\.safetensors")
_NUMBER = re.compile(r"[0-9]{1,18}")
_TRASH = ".trash-"
_CURRENT, _ACTIVE, _LOCK = "current", "active", ".lock"
_READ_ATTEMPTS = 5


@dataclass(frozen=True)
class ProfileSummary:
    """One profile in the store, without its tensors.

    Attributes:
        generations: the numbers of those still there, oldest first.
        current: the generation in force; 0 is the dense model.
        size_bytes: of all generations together.
        strength, created, sparsity: of the current generation, None for the dense model;
            `sparsity` is what its report says under that key.
        error: why the current generation cannot be read, or None.
    """

    name: str
    generations: tuple[int, ...]
    current: int
    active: bool
    size_bytes: int
    strength: Strength | None = None
    created: datetime | None = None
    sparsity: Mapping[str, Any] | None = None
    error: str | None = None


class ProfileStore:
    """Saves, finds, rolls back and forgets profiles. Files and folders are the user's alone.

    Args:
        root: the folder, `default_root` if not given; created when something is first saved.
        keep: how many generations of a profile to keep.
        lock_timeout_s: how long to wait for another process that is writing.

    Every method raises `ProfileError` when a name is not allowed or the disk refuses, and then
    what was in force still is.
    """

    def __init__(
        self, root: Path | None = None, *, keep: int = 10, lock_timeout_s: float = 10.0
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        self.root = default_root() if root is None else Path(root)
        self.keep = keep
        self.lock_timeout_s = lock_timeout_s

    def path(self, model_id: str, name: str, generation: int) -> Path:
        """Where a generation stands, whether it exists or not."""
        return _generation_path(self._profile(model_id, name), generation)

    def save(self, name: str, profile: Profile) -> int:
        """Store `profile` as a new generation and put it in force.

        The file's `parent` is the generation that was in force, whatever the profile says.

        Returns:
            The new generation's number; numbers are not used twice.
        """
        folder = self._profile(profile.model_id, name)
        with self._writing(profile.model_id):
            current = _read_current(folder) or DENSE
            generation = max([*_generations(folder), current], default=DENSE) + 1
            child = dataclasses.replace(profile, parent=current or None)
            with explained(folder, "create"):
                make_folder(folder)
            self._commit(folder, generation, child.to_bytes())
            self._prune(folder, generation)
        return generation

    def load(self, name: str, artifact: Artifact, generation: int | None = None) -> Profile:
        """Read the generation in force, or the one asked for; 0 is the neutral profile.

        Raises:
            ProfileNotFound: there is no such profile or generation.
            ProfileMismatch: it belongs to another model.
            ProfileError: the file is damaged; the message names it and the way back.
        """
        folder = self._profile(artifact.info.model_id, name)
        for _ in range(_READ_ATTEMPTS):
            wanted = _require_current(folder) if generation is None else generation
            if wanted == DENSE:
                from .profile import neutral

                return neutral(artifact.info)
            try:
                return _load(_generation_path(folder, wanted), name, artifact)
            except ProfileNotFound:
                # Another process may have saved and pruned between our two reads.
                if generation is not None or _require_current(folder) == wanted:
                    raise
        raise ProfileError(f"the profile {name} changes faster than it can be read. Try again.")

    def list(self, model_id: str) -> tuple[ProfileSummary, ...]:
        """All profiles of a model by name; a damaged one is listed with its `error`.

        Who was met by the live service only, and has no generations, is listed, too.
        """
        folder = self._model(model_id)
        active = self.active(model_id)
        with explained(folder, "list"):
            names = sorted(path.name for path in _entries(folder) if path.is_dir())
        summaries = (
            _summarise(folder / name, active == name) for name in names if _NAME.fullmatch(name)
        )
        return tuple(summary for summary in summaries if summary is not None)

    def current(self, model_id: str, name: str, *, strict: bool = False) -> int:
        """The number in force; 0 where nothing was saved, or, unless `strict`, it is damaged."""
        folder = self._profile(model_id, name)
        try:
            return _read_current(folder) or DENSE
        except ProfileError:
            if strict:
                raise
            return DENSE

    def activate(self, model_id: str, name: str | None) -> None:
        """Make a profile the one that the runtime uses, or none with None.

        Raises:
            ProfileNotFound: there is no profile of that name.
        """
        pointer = self._model(model_id) / _ACTIVE
        if name is None and not pointer.exists():
            return
        if name is not None:
            _require_current(self._profile(model_id, name))
        with self._writing(model_id):
            if name is None:
                _remove(pointer)
            else:
                _require_current(self._profile(model_id, name))
                write_atomically(pointer, f"{name}\n".encode("ascii"))

    def active(self, model_id: str) -> str | None:
        """The name of the profile that the runtime uses, or None."""
        pointer = self._model(model_id) / _ACTIVE
        name = _read_pointer(pointer)
        if name is None:
            return None
        if not _NAME.fullmatch(name):
            raise ProfileError(f"{pointer} is damaged. Activate a profile, or none, again.")
        return name if (pointer.parent / name / _CURRENT).exists() else None

    def rollback(self, model_id: str, name: str, steps: int = 1, *, to: int | None = None) -> int:
        """Put an earlier generation in force again, bit for bit; nothing is deleted.

        Args:
            model_id: the model.
            name: the profile.
            steps: how many parents to go back; the parent of the first is the dense model, 0.
            to: the generation to go to instead; 0 is the dense model.

        Returns:
            The generation now in force.

        Raises:
            ProfileNotFound: there is no such profile, or the generation was pruned.
        """
        if steps < 1:
            raise ValueError(f"steps must be at least 1, not {steps}")
        folder = self._profile(model_id, name)
        _require_generations(folder)
        with self._writing(model_id):
            target = _ancestor(folder, _require_current(folder), steps) if to is None else to
            if target != DENSE and target not in _require_generations(folder):
                raise ProfileNotFound(
                    f"the profile {name} has no generation {target} (any more); it has "
                    f"{_listed(_generations(folder))}, and 0 for the dense model. Nothing was "
                    "changed."
                )
            _write_current(folder, target)
        return target

    def forget(self, model_id: str, name: str) -> None:
        """Erase a profile: all of its generations, and the active pointer if it is this one.

        If this is interrupted, calling it again erases the rest.

        Raises:
            ProfileNotFound: there is no profile of that name.
        """
        folder = self._profile(model_id, name)
        remains = re.compile(re.escape(f"{_TRASH}{name}-") + "[0-9a-f]{16}")
        resumed = any(remains.fullmatch(path.name) for path in _entries(folder.parent))
        if not folder.is_dir() and not resumed:
            raise _not_found(folder)
        import secrets

        with self._writing(model_id), explained(folder, "erase", "Call forget again."):
            if _read_pointer(folder.parent / _ACTIVE) == name:
                _remove(folder.parent / _ACTIVE)
            if folder.is_dir():
                # Out of sight in one step; what is left after a kill is known to be rubbish.
                folder.rename(folder.with_name(f"{_TRASH}{name}-{secrets.token_hex(8)}"))
                sync_folder(folder.parent)
            _empty_trash(folder.parent)
            _remove_if_unused(folder.parent)

    def _model(self, model_id: str) -> Path:
        if not _MODEL_ID.fullmatch(model_id):
            raise ProfileError(
                f"{model_id[:80]!r} is no model id (64 hexadecimal digits). Nothing was changed."
            )
        return self.root / model_id[:16]

    def _profile(self, model_id: str, name: str) -> Path:
        if not _NAME.fullmatch(name) or name == _ACTIVE:
            raise ProfileError(
                f"{name[:80]!r} cannot name a profile. Use 1 to 64 of the characters a-z, A-Z, "
                f"0-9, '.', '_' and '-', not starting with '.', and not {_ACTIVE!r}."
            )
        return self._model(model_id) / name

    @contextlib.contextmanager
    def _writing(self, model_id: str) -> Iterator[None]:
        """Keep other writers of this model out, and clear what killed ones left."""
        folder = self._model(model_id)
        with explained(folder, "write to"):
            lock = lock_folder(folder / _LOCK, time.monotonic() + self.lock_timeout_s)
        try:
            with contextlib.suppress(OSError):  # rubbish that stays must not stop a save
                _empty_trash(folder)
            yield
        finally:
            os.close(lock)

    def _commit(self, folder: Path, generation: int, data: bytes) -> None:
        """Write the generation, then the pointer; take the generation back if that fails."""
        path = _generation_path(folder, generation)
        try:
            write_atomically(path, data)
            _write_current(folder, generation)
        except ProfileError:
            if _read_current(folder) != generation:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
                    folder.rmdir()  # only if this was to be the first generation
            raise

    def _prune(self, folder: Path, current: int) -> None:
        """Delete generations beyond the limit: never the current one, ancestors last, old first."""
        there = set(_generations(folder))
        keep = _lineage(folder, current, self.keep)
        spare = sorted(there - set(keep), reverse=True)[: self.keep - len(keep)]
        with contextlib.suppress(OSError):  # a surplus file harms nobody; the next save retries
            for generation in there.difference(keep, spare):
                _generation_path(folder, generation).unlink(missing_ok=True)


def _generation_path(folder: Path, generation: int) -> Path:
    return folder / f"{generation:06d}.safetensors"


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _generations(folder: Path) -> tuple[int, ...]:
    with explained(folder, "list"):
        found = (_FILE.fullmatch(path.name) for path in _entries(folder))
        return tuple(sorted(int(match[1]) for match in found if match))


def _require_generations(folder: Path) -> tuple[int, ...]:
    generations = _generations(folder)
    if not generations:
        raise _not_found(folder)
    return generations


def _read_pointer(path: Path) -> str | None:
    """The one line of a pointer file, or None without the file."""
    try:
        with explained(path, "read"), path.open("rb") as file:
            return file.read(200).decode("ascii", errors="replace").removesuffix("\n")
    except ProfileError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            return None
        raise


def _read_current(folder: Path) -> int | None:
    """The generation in force, or None if nothing was ever saved completely."""
    text = _read_pointer(folder / _CURRENT)
    if text is None:
        return None
    if not _NUMBER.fullmatch(text):
        raise ProfileError(
            f"{folder / _CURRENT} is damaged. The generations are untouched: put one in force "
            f"with `edgeprune profiles rollback MODEL {folder.name} --to N`, where N is one of "
            f"{_listed(_generations(folder))}, or 0 for the dense model."
        )
    return int(text)


def _require_current(folder: Path) -> int:
    current = _read_current(folder)
    if current is None:
        raise _not_found(folder)
    return current


def _write_current(folder: Path, generation: int) -> None:
    write_atomically(folder / _CURRENT, f"{generation}\n".encode("ascii"))


def _not_found(folder: Path) -> ProfileNotFound:
    if _met_only(folder, _generations(folder)) is not None:
        return ProfileNotFound(
            f"nothing was learnt for {folder.name!r} yet: the network answers as trained, and only "
            "counts are kept. Nothing was changed."
        )
    return ProfileNotFound(
        f"there is no profile {folder.name!r} for this model in {folder.parent}. See "
        "`edgeprune profiles list MODEL`, or make one with `edgeprune personalize`."
    )


def _load(path: Path, name: str, artifact: Artifact) -> Profile:
    from .profile import Profile

    try:
        return Profile.load(path, artifact)
    except ProfileMismatch:
        raise
    except ProfileError as error:
        command = f"edgeprune profiles rollback MODEL {name}"
        advice = f"Return to the generation before it with `{command}`."
        raise type(error)(f"{error} {advice}") from error


def _parent(folder: Path, generation: int) -> int:
    """The generation before this one; the next older one there is, if its file cannot tell."""
    from ._profile_format import read_header

    try:
        parent = read_header(_generation_path(folder, generation)).parent or DENSE
    except (OSError, ValueError):
        parent = generation
    if parent < generation:
        return parent
    return max((older for older in _generations(folder) if older < generation), default=DENSE)


def _ancestor(folder: Path, generation: int, steps: int) -> int:
    for _ in range(steps):
        if generation == DENSE:
            break
        generation = _parent(folder, generation)
    return generation


def _lineage(folder: Path, generation: int, limit: int) -> list[int]:
    """The generation and its ancestors that are still there, at most `limit`."""
    there = set(_generations(folder))
    lineage: list[int] = []
    while generation in there and len(lineage) < limit:
        lineage.append(generation)
        generation = _parent(folder, generation)
    return lineage


def _listed(generations: tuple[int, ...]) -> str:
    return ", ".join(map(str, generations)) or "none"


def _summarise(folder: Path, active: bool) -> ProfileSummary | None:
    generations = _generations(folder)
    try:
        current = _read_current(folder)
    except ProfileError as error:
        return ProfileSummary(folder.name, generations, DENSE, active, 0, error=str(error))
    if current is None:
        return _met_only(folder, generations)
    summary = ProfileSummary(
        folder.name, generations, current, active, _size_bytes(folder, generations)
    )
    return summary if current == DENSE else _with_header(summary, _generation_path(folder, current))


def _met_only(folder: Path, generations: tuple[int, ...]) -> ProfileSummary | None:
    """A user of whom nothing was learnt yet, but other files, such as counts, were kept."""
    kept = [path for path in _entries(folder) if not path.name.startswith(".")]
    if generations or not kept:
        return None
    return ProfileSummary(folder.name, (), DENSE, False, 0)


def _with_header(summary: ProfileSummary, path: Path) -> ProfileSummary:
    from ._profile_format import read_header

    try:
        header = read_header(path)
    except (OSError, ValueError) as error:
        return dataclasses.replace(summary, error=f"cannot use {path}: {error}")
    sparsity = header.report.get("sparsity")
    return dataclasses.replace(
        summary,
        strength=header.strength,
        created=header.created,
        sparsity=sparsity if isinstance(sparsity, dict) else None,
    )


def _size_bytes(folder: Path, generations: tuple[int, ...]) -> int:
    total = 0
    for generation in generations:
        with contextlib.suppress(OSError):  # pruned meanwhile
            total += _generation_path(folder, generation).stat().st_size
    return total


def _remove(path: Path) -> None:
    with explained(path, "remove"):
        path.unlink(missing_ok=True)
        sync_folder(path.parent)


def _empty_trash(folder: Path) -> None:
    """Delete what interrupted writers left in a model's folder; the lock must be held."""
    entries = _entries(folder)
    for path in [folder, *entries]:
        remove_stale(path)
    trash = [path for path in entries if path.name.startswith(_TRASH)]
    for path in trash:
        import shutil

        shutil.rmtree(path)
    if trash:
        sync_folder(folder)


def _remove_if_unused(folder: Path) -> None:
    """Remove a model's folder when only the lock, which must be held, is left in it."""
    if [path.name for path in _entries(folder)] == [_LOCK]:
        (folder / _LOCK).unlink()
        with contextlib.suppress(OSError):  # another process may have come in
            folder.rmdir()
        sync_folder(folder.parent)
