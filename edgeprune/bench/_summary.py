"""From cells to what can be said of the arms: means over users, paired differences, the guard."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ._cells import Cell, CellKey, Level
from ._stats import Mean, mean_interval
from .arms import ARMS

__all__ = ["CONTRASTS", "HARM", "Contrast", "GuardQuality", "Row", "Summary", "summarize"]

HARM = 0.02  # a user who loses more than this is harmed
_ROUNDING = 1e-9

# What the first is worth against the second, in the order in which it is told.
CONTRASTS = (
    ("A4", "A0"),
    ("A4", "A1+"),
    ("A1+", "A0"),
    ("A1+", "A1"),
    ("A4", "A1"),
    ("A4", "A3"),
    ("A3", "A0"),
    ("A5", "A4"),
    ("A4", "C2-last"),
    ("A4", "C2-whole"),
    ("A4", "C3-bn"),
    ("A4", "C3-t3a"),
    ("A4", "C4"),
)

Cells = Mapping[str, Cell]


@dataclass(frozen=True)
class Row:
    """One arm over all users who have it.

    Attributes:
        difference: to A0, paired by user.
        gap_closed: share of the way from A0 to C1, of the means; None without both.
        harmed: users more than 2 points below A0.
        refused: users for whom the guard would have nothing changed.
        unguarded: mean accuracy of the outcomes themselves, whatever the guard said.
        seconds, cpu_seconds, passes, added_mb, hidden_units, weights, macs: means; see `Cell`.
    """

    arm: str
    sparsity: Level
    samples: int | None
    accuracy: Mean
    difference: Mean | None
    gap_closed: float | None
    harmed: int | None
    refused: int
    unguarded: float | None
    seconds: float
    cpu_seconds: float
    passes: float | None
    added_mb: float | None
    hidden_units: float | None
    weights: float | None
    macs: float | None


@dataclass(frozen=True)
class Contrast:
    """One arm against another, paired by user.

    ``better`` and ``worse`` count users; ``time_ratio`` (of processor time) and ``memory_ratio``
    are those of the means, the first arm's to the second's.
    """

    arm: str
    minus: str
    sparsity: Level
    samples: int | None
    difference: Mean
    better: int
    worse: int
    time_ratio: float | None
    memory_ratio: float | None


@dataclass(frozen=True)
class GuardQuality:
    """Whether the guard refused what harms (more than 2 points lost) and let pass what does not."""

    arm: str
    harmful: int
    harmful_refused: int
    harmless: int
    harmless_allowed: int


@dataclass(frozen=True)
class Summary:
    """All that is told of a study."""

    rows: tuple[Row, ...]
    contrasts: tuple[Contrast, ...]
    guard: tuple[GuardQuality, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def summarize(cells: Iterable[Cell]) -> Summary:
    """Sum up the cells that did not fail."""
    found: dict[CellKey, dict[str, Cell]] = defaultdict(dict)
    for cell in cells:
        if cell.status == "ok":
            key = cell.key
            found[CellKey("", key.arm, key.sparsity, key.samples)][key.user] = cell
    ordered = sorted(found, key=_order)
    return Summary(
        tuple(_row(key, found) for key in ordered),
        tuple(_contrasts(found)),
        tuple(_guard(found)),
    )


def _order(key: CellKey) -> tuple[Any, ...]:
    level = key.sparsity
    number = level if isinstance(level, float) else math.inf
    return key.samples or 0, list(ARMS).index(key.arm), number


def _at(found: Mapping[CellKey, Cells], arm: str, level: Level, samples: int | None) -> Cells:
    """An arm's cells under these conditions, as far as it depends on them."""
    kind = ARMS[arm]
    key = CellKey("", arm, level if kind.levels else None, samples if kind.samples else None)
    return found.get(key, {})


def _row(key: CellKey, found: Mapping[CellKey, Cells]) -> Row:
    cells = found[key]
    dense = _at(found, "A0", None, None)
    pairs = [cells[u].accuracy - dense[u].accuracy for u in cells if u in dense]
    several = list(cells.values())
    return Row(
        key.arm,
        key.sparsity,
        key.samples,
        mean_interval([cell.accuracy for cell in several]),
        mean_interval(pairs) if pairs and key.arm != "A0" else None,
        _gap_closed(key.arm, cells, dense, _at(found, "C1", None, None)),
        sum(pair < -HARM - _ROUNDING for pair in pairs) if pairs else None,
        sum(cell.refused for cell in several),
        _mean(cell.unguarded for cell in several),
        math.fsum(cell.seconds for cell in several) / len(several),
        math.fsum(cell.cpu_seconds for cell in several) / len(several),
        *(_mean(getattr(cell, name) for cell in several) for name in _MEANS),
    )


_MEANS = ("passes", "added_mb", "hidden_units", "weights", "macs")


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _gap_closed(arm: str, cells: Cells, dense: Cells, ceiling: Cells) -> float | None:
    users = [user for user in cells if user in dense and user in ceiling]
    if arm in ("A0", "C1") or not users:
        return None
    gained = math.fsum(cells[user].accuracy - dense[user].accuracy for user in users)
    gap = math.fsum(ceiling[user].accuracy - dense[user].accuracy for user in users)
    return gained / gap if gap > _ROUNDING else None


def _contrasts(found: Mapping[CellKey, Cells]) -> list[Contrast]:
    conditions = sorted({(key.samples, key.sparsity) for key in found}, key=_condition_order)
    contrasts: dict[tuple[Any, ...], Contrast] = {}
    for samples, level in conditions:
        for arm, minus in CONTRASTS:
            made = _contrast(found, arm, minus, level, samples)
            if made is not None:
                contrasts.setdefault((arm, minus, made.sparsity, made.samples), made)
    return list(contrasts.values())


def _condition_order(condition: tuple[int | None, Level]) -> tuple[int, float]:
    samples, level = condition
    number = -1.0 if level is None else level if isinstance(level, float) else math.inf
    return samples or 0, number


def _contrast(
    found: Mapping[CellKey, Cells], arm: str, minus: str, level: Level, samples: int | None
) -> Contrast | None:
    first, second = _at(found, arm, level, samples), _at(found, minus, level, samples)
    users = [user for user in first if user in second]
    if not users:
        return None
    levels = ARMS[arm].levels or ARMS[minus].levels
    pairs = [first[user].accuracy - second[user].accuracy for user in users]
    return Contrast(
        arm,
        minus,
        level if levels else None,
        samples,
        mean_interval(pairs),
        sum(pair > _ROUNDING for pair in pairs),
        sum(pair < -_ROUNDING for pair in pairs),
        _ratio([first[u].cpu_seconds for u in users], [second[u].cpu_seconds for u in users]),
        _ratio([first[u].added_mb for u in users], [second[u].added_mb for u in users]),
    )


def _ratio(above: Sequence[float | None], below: Sequence[float | None]) -> float | None:
    pairs = [(a, b) for a, b in zip(above, below, strict=True) if a is not None and b is not None]
    whole = math.fsum(b for _, b in pairs)
    return math.fsum(a for a, _ in pairs) / whole if whole > 0 else None


def _guard(found: Mapping[CellKey, Cells]) -> list[GuardQuality]:
    dense = _at(found, "A0", None, None)
    made = []
    for arm in ("A2", "A3", "A4"):
        judged = [
            (cell.unguarded - dense[user].accuracy, cell.refused)
            for key, cells in found.items()
            for user, cell in cells.items()
            if key.arm == arm and cell.unguarded is not None and user in dense
        ]
        harmful = [refused for change, refused in judged if change < -HARM - _ROUNDING]
        harmless = [refused for change, refused in judged if change >= -_ROUNDING]
        if judged:
            allowed = harmless.count(False)
            quality = GuardQuality(arm, len(harmful), sum(harmful), len(harmless), allowed)
            made.append(quality)
    return made
