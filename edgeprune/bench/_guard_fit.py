"""What the guard's estimate is worth: rates on the results of studies, and the fit behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..runtime.guard import LEAST_CHANGE, MOST_DOMINANCE, estimated_change, least_distinctness
from ._cells import Cell
from ._summary import HARM

__all__ = [
    "Fit",
    "Judged",
    "Rates",
    "as_shipped",
    "grouped",
    "judged_cells",
    "left_out",
    "rates",
    "refit",
]

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

_ROUNDING = 1e-9
_CLIP = 0.15  # how far a ruined network is below matters no more than that it is
_REFUSED = 0.95  # of those who lose more than two points
_DRAWS = 1000


@dataclass(frozen=True)
class Judged:
    """A personalisation as the guard saw it, and what it truly did.

    Attributes:
        domain: which study.
        user: by name: the same name in several studies is the same user, left out of all of them.
        change: true change of accuracy on the user's scoring samples.
    """

    domain: str
    user: str
    arm: str
    distinctness: float
    learnt: float
    lost: float
    agreement: float
    change: float
    dominance: float = 0.0
    classes: int = 1000


@dataclass(frozen=True)
class Rates:
    """Shares with their 95 % intervals over draws of users; None where there are no such cells.

    ``refused`` is of the personalisations that lose more than two points, ``allowed`` of those
    that lose none.
    """

    harmful: int
    refused: tuple[float, float, float] | None
    harmless: int
    allowed: tuple[float, float, float] | None


@dataclass(frozen=True)
class Fit:
    """The constants of `edgeprune.runtime.guard`."""

    base: float
    learnt: float
    lost: float
    limit: float


def judged_cells(domain: str, cells: Sequence[Cell]) -> list[Judged]:
    """The cells of a study that the guard judged and that have a truth to compare with."""
    dense = {c.key.user: c.accuracy for c in cells if c.key.arm == "A0" and c.total}
    found = []
    for cell in cells:
        guard = cell.more.get("guard", {})
        if cell.unguarded is None or "lost" not in guard or cell.key.user not in dense:
            continue
        found.append(
            Judged(
                domain,
                cell.key.user,
                cell.key.arm,
                guard["distinctness"],
                guard["learnt"],
                guard["lost"],
                cell.agreement or 0.0,
                cell.unguarded - dense[cell.key.user],
                guard.get("dominance", 0.0),  # older results do not tell
                guard.get("classes", 1000),
            )
        )
    return found


def refit(cells: Sequence[Judged]) -> Fit:
    """Fit the constants by least squares; every domain counts by the root of its cells.

    Streams that are refused for themselves take no part: no estimate is made of them.
    """
    cells = [cell for cell in cells if not _one_sided(cell)]
    design, change = _design(cells), _changes(cells)
    count = {name: sum(c.domain == name for c in cells) for name in {c.domain for c in cells}}
    root = np.array([count[cell.domain] for cell in cells]) ** -0.25
    target = np.clip(change, -_CLIP, _CLIP)
    base, learnt, lost = np.linalg.lstsq(design * root[:, None], target * root, rcond=None)[0]
    scores = design @ np.array([base, learnt, lost])
    harmful = scores[change < -HARM - _ROUNDING]
    limit = float(np.quantile(harmful, _REFUSED)) if len(harmful) else 0.0
    return Fit(float(base), float(learnt), float(-lost), limit)


def _design(cells: Sequence[Judged]) -> Float64:
    return np.array([[1.0, cell.learnt, cell.lost] for cell in cells])


def _changes(cells: Sequence[Judged]) -> Float64:
    return np.array([cell.change for cell in cells])


def left_out(cells: Sequence[Judged]) -> Bool:
    """Refusals by constants and a limit that were fitted without the cell's own user."""
    refused = np.zeros(len(cells), np.bool_)
    for user in {cell.user for cell in cells}:
        fit = refit([cell for cell in cells if cell.user != user])
        for place, cell in enumerate(cells):
            if cell.user == user:
                score = fit.base + fit.learnt * cell.learnt - fit.lost * cell.lost
                refused[place] = _one_sided(cell) or score < fit.limit
    return refused


def as_shipped(cell: Judged) -> bool:
    """Whether the guard refuses it with its own constants."""
    score = estimated_change(cell.learnt, cell.lost)
    return _one_sided(cell) or score < LEAST_CHANGE


def _one_sided(cell: Judged) -> bool:
    """Whether the stream is refused whatever was made of it."""
    alike = cell.distinctness < least_distinctness(cell.classes)
    return alike or cell.dominance > MOST_DOMINANCE


def rates(cells: Sequence[Judged], refused: Bool) -> Rates:
    """How often those are refused who lose, and those allowed who do not."""
    change = _changes(cells)
    harmful, harmless = change < -HARM - _ROUNDING, change >= -_ROUNDING
    users = np.array([cell.user for cell in cells])
    return Rates(
        int(harmful.sum()),
        _share(refused, harmful, users),
        int(harmless.sum()),
        _share(~refused, harmless, users),
    )


def _share(hit: Bool, among: Bool, users: NDArray[np.str_]) -> tuple[float, float, float] | None:
    """Share of `hit` among some, with the 2.5 % and 97.5 % quantiles over draws of users."""
    if not among.any():
        return None
    names = np.unique(users[among])
    hits = np.array([np.count_nonzero(hit & among & (users == name)) for name in names])
    totals = np.array([np.count_nonzero(among & (users == name)) for name in names])
    drawn = np.random.default_rng(0).integers(0, len(names), (_DRAWS, len(names)))
    low, high = np.quantile(hits[drawn].sum(1) / totals[drawn].sum(1), [0.025, 0.975])
    return float(hits.sum() / totals.sum()), float(low), float(high)


def grouped(
    cells: Sequence[Judged], refused: Bool, key: Callable[[Judged], str]
) -> Mapping[str, Rates]:
    """The rates of each group of cells."""
    found = {}
    for name in dict.fromkeys(key(cell) for cell in cells):
        inside = np.array([key(cell) == name for cell in cells])
        some = [cell for cell, here in zip(cells, inside, strict=True) if here]
        found[name] = rates(some, refused[inside])
    return found
