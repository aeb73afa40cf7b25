"""One result for each user, arm, sparsity and number of samples, in a file that can be resumed."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..runtime.errors import InputError

__all__ = [
    "Cell",
    "CellKey",
    "Level",
    "ResultsFile",
    "gather_results",
    "open_results",
    "read_results",
]

Level = float | str | None
"""A sparsity, ``"auto"`` for what the method chooses, or None where it plays no part."""

_FORMAT = 1
_MAGIC = "edgeprune_study"


@dataclass(frozen=True)
class CellKey:
    """What a cell is about; `sparsity` and `samples` are None where the arm has none."""

    user: str
    arm: str
    sparsity: Level = None
    samples: int | None = None


@dataclass(frozen=True)
class Cell:
    """What one arm gave one user.

    Attributes:
        key: who, what and how.
        status: ``failed`` if the arm raised; it is tried again when the study is resumed.
        model_id, data: what it was measured on; see `data_digest`.
        code: digest of the runtime's source that measured it.
        right, total: of the user's scoring samples, with what the user is left with: where the
            guard refused, the dense network.
        unguarded: share of right answers with the outcome itself, whatever the guard said.
        refused: the guard would have nothing changed.
        agreement: with the dense network on held-out samples, as the guard saw it.
        seconds, cpu_seconds: of adapting, scoring left out, on one thread: on the wall, and of the
            processor.
        passes: processor time in plain forward passes of the dense network over the same samples.
        added_mb: peak memory of adapting on top of what was in use, 10⁶ bytes.
        hidden_units, units, weights, macs: shares removed.
        reason: why it failed or was refused.
        more: what only some arms have.
    """

    key: CellKey
    status: Literal["ok", "failed"] = "ok"
    model_id: str = ""
    data: str = ""
    code: str = ""
    right: int = 0
    total: int = 0
    unguarded: float | None = None
    refused: bool = False
    agreement: float | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    passes: float | None = None
    added_mb: float | None = None
    hidden_units: float | None = None
    units: float | None = None
    weights: float | None = None
    macs: float | None = None
    reason: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """Share of right answers with what the user is left with."""
        return self.right / self.total

    def to_json(self) -> str:
        """One line, without its end."""
        fields = asdict(self)
        return json.dumps(fields.pop("key") | fields, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Cell:
        """Read what `to_json` wrote; ValueError, KeyError or TypeError if it is damaged."""
        fields = json.loads(line)
        names = ("user", "arm", "sparsity", "samples")
        return cls(CellKey(**{name: fields.pop(name) for name in names}), **fields)


class ResultsFile:
    """The cells that are finished, and where the next ones go. Made by `open_results`."""

    def __init__(self, path: Path, descriptor: int, cells: Mapping[CellKey, Cell]) -> None:
        self.path = path
        self._descriptor = descriptor
        self._cells = dict(cells)

    @property
    def cells(self) -> Mapping[CellKey, Cell]:
        """Every cell, the failed ones too; of a cell that was tried again the last."""
        return self._cells

    def append(self, cell: Cell) -> None:
        """Add a cell in one write, and wait until it is on the disk."""
        _write(self._descriptor, cell.to_json())
        self._cells[cell.key] = cell


@contextmanager
def open_results(path: Path, config: Mapping[str, Any]) -> Iterator[ResultsFile]:
    """Open a file of results for one study at a time, or begin it.

    The first line says what the results were measured with. A last line that was cut off by an
    interruption is removed.

    Raises:
        InputError: it holds something else, results of another configuration, or another process
            is writing to it. It was not changed.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise InputError(f"cannot write results to {path}: {error.strerror}.") from error
    try:
        _lock(descriptor, path)
        yield ResultsFile(path, descriptor, _begin(descriptor, path, config))
    finally:
        os.close(descriptor)


def read_results(path: Path) -> list[Cell]:
    """The finished cells of a file of results, which is not changed.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    return [cell for cell in _read(path)[1].values() if cell.status == "ok"]


def gather_results(paths: Sequence[Path]) -> list[Cell]:
    """The finished cells of one study that was measured in pieces; no file is changed.

    What several of them hold counts as in the last.

    Raises:
        InputError: a file cannot be read or holds something else, they were made with different
            settings, or a user's model or samples are not the same in all.
    """
    gathered: dict[CellKey, Cell] = {}
    header: Mapping[str, Any] | None = None
    known: dict[str, tuple[str, str]] = {}
    for path in paths:
        found, cells = _read(path)
        header = header or found
        _check_header(path, found, header)
        for key, cell in cells.items():
            measured_on = cell.model_id, cell.data
            if cell.status == "ok" and known.setdefault(key.user, measured_on) != measured_on:
                raise InputError(
                    f"{path} holds results of {key.user} on another model or other samples than "
                    "the files before it. Results of the two cannot be mixed; give them apart."
                )
        gathered |= {key: cell for key, cell in cells.items() if cell.status == "ok"}
    return list(gathered.values())


def _read(path: Path) -> tuple[dict[str, Any], dict[CellKey, Cell]]:
    try:
        first, *lines = path.read_text("utf-8").splitlines() or [""]
    except OSError as error:
        raise InputError(
            f"cannot read results from {path}: {error.strerror or error}. Check the path."
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is no file of results: it is no text. Give what `edgeprune bench "
            "personalization` wrote (RESULTS.jsonl)."
        ) from error
    header = _parsed_header(path, first)
    return header, dict(_parsed(path, number, line) for number, line in enumerate(lines, start=2))


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise InputError(
            f"another process writes results to {path}. Nothing was run; wait for it, or give "
            "another file with --results."
        ) from error


def _begin(descriptor: int, path: Path, config: Mapping[str, Any]) -> dict[CellKey, Cell]:
    header = {_MAGIC: _FORMAT, **config}
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if not whole:
        if text and not text.startswith(b"{"):
            raise _foreign(path)
        os.ftruncate(descriptor, 0)
        _write(descriptor, json.dumps(header, separators=(",", ":")))
        return {}
    first, *lines = whole.decode("utf-8", "replace").splitlines()
    _check_header(path, _parsed_header(path, first), json.loads(json.dumps(header)))
    cells = dict(_parsed(path, number, line) for number, line in enumerate(lines, start=2))
    os.ftruncate(descriptor, len(whole))
    return cells


def _write(descriptor: int, line: str) -> None:
    data = (line + "\n").encode()
    if os.write(descriptor, data) != len(data):
        raise InputError("the results could not be written whole: is the disk full?")
    os.fsync(descriptor)


def _foreign(path: Path) -> InputError:
    return InputError(
        f"{path} holds no results of this command. It was not changed; give another file with "
        "--results."
    )


def _parsed_header(path: Path, line: str) -> dict[str, Any]:
    try:
        header = json.loads(line)
    except ValueError as error:
        raise _foreign(path) from error
    if not isinstance(header, dict) or _MAGIC not in header:
        raise _foreign(path)
    return header


def _check_header(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for name in {**found, **wanted}:
        if found.get(name) != wanted.get(name):
            raise InputError(
                f"{path} holds results of another study: its {name} is "
                f"{json.dumps(found.get(name))}, and here it is {json.dumps(wanted.get(name))}. "
                "Results of the two cannot be mixed. Nothing was run; give another file with "
                "--results."
            )


def _parsed(path: Path, number: int, line: str) -> tuple[CellKey, Cell]:
    try:
        cell = Cell.from_json(line)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}, line {number}, is damaged: {error}. Nothing was run; remove the line, and "
            "its cell is measured again."
        ) from error
    return cell.key, cell
