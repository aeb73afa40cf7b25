"""The guard, judged by studies: does it refuse those who lose, and only those?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.errors import InputError
from ._cells import read_results
from ._guard_fit import (
    Fit,
    Judged,
    Rates,
    as_shipped,
    grouped,
    judged_cells,
    left_out,
    rates,
    refit,
)

__all__ = ["GuardStudy", "study_guard"]

_FEWEST_USERS = 2


@dataclass(frozen=True)
class GuardStudy:
    """What the guard did in some studies.

    Attributes:
        cells: everything that it judged.
        shipped: rates with the constants and the limit of this version, over all, and by study and
            arm.
        unseen: rates with constants and limit fitted to the other users; None for one user.
        fitted: constants fitted to all of them.
    """

    cells: tuple[Judged, ...]
    shipped: Rates
    by_study: Mapping[str, Rates]
    by_arm: Mapping[str, Rates]
    unseen: Rates | None
    fitted: Fit

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def study_guard(results: Sequence[Path]) -> GuardStudy:
    """Judge the guard by the results of ``edgeprune bench personalization``.

    Raises:
        InputError: a file holds no such results, or none in which the guard judged anything.
    """
    cells = [one for path in results for one in judged_cells(path.stem, read_results(path))]
    if not cells:
        raise InputError(
            "these results hold nothing that the guard judged. They need the arm A0 and one of "
            "A1+, A2, A3 and A4, measured by this version."
        )
    refused = np.array([as_shipped(cell) for cell in cells])
    several = len({cell.user for cell in cells}) >= _FEWEST_USERS
    return GuardStudy(
        tuple(cells),
        rates(cells, refused),
        grouped(cells, refused, lambda cell: cell.domain),
        grouped(cells, refused, lambda cell: cell.arm),
        rates(cells, left_out(cells)) if several else None,
        refit(cells),
    )
