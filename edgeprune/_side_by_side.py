"""Several networks on the same labelled samples in one process."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._evaluate import Scores, difference_interval, score
from ._results import Accuracy, Rejected, scores_to_json
from ._sources import reasons
from ._timing import Limits, Ratio, Timing, Verdict, measure
from .devices import SampleFolder
from .runtime.errors import NotEnoughSamples
from .runtime.session import Session

__all__ = ["Comparison", "Scored", "side_by_side"]

_LIMITS = Limits(budget_s=5.0, precision=0.01)


@dataclass(frozen=True)
class Scored:
    """One network of a comparison; what relates it to the first is None for the first itself.

    Attributes:
        name: the file, and the profile if it has one.
        accuracy: its share of right answers.
        difference: its top-1 minus that of the first.
        difference_interval: the 95 % interval of that, paired by sample (Agresti and Min 2005).
        agreement: share of samples on which both name the same class.
        time_ratio: its time over that of the first, one sample at a time, in turns.
        speed: what may be claimed of its time.
    """

    name: str
    accuracy: Accuracy
    difference: float | None = None
    difference_interval: tuple[float, float] | None = None
    agreement: float | None = None
    time_ratio: Ratio | None = None
    speed: Verdict | None = None


@dataclass(frozen=True)
class Comparison:
    """Networks side by side; the first is the reference.

    Attributes:
        samples: how many were scored; all networks saw the same.
        networks: what each scored.
        remarks: what disturbed the timing.
        unknown: labels that the model does not know, and how many samples had them.
        unlabelled: samples without a label, left out.
        rejected: files that could not be used.
    """

    samples: int
    networks: tuple[Scored, ...]
    remarks: tuple[str, ...] = ()
    unknown: tuple[tuple[str, int], ...] = ()
    unlabelled: int = 0
    rejected: Rejected = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return scores_to_json(asdict(self), self.unknown, self.rejected)


def side_by_side(
    networks: Sequence[tuple[str, Session]],
    folder: SampleFolder,
    wanted: Sequence[int | None],
    classes: int,
    *,
    unknown: tuple[tuple[str, int], ...],
    unlabelled: int,
    on_progress: Callable[[str, float], None],
) -> Comparison:
    """Score networks by name, and time them if they are several.

    Raises:
        NotEnoughSamples: not one sample could be read.
    """
    sessions = [session for _, session in networks]
    scores, kept = score(sessions, folder, wanted, lambda share: on_progress("scoring", share))
    if not kept:
        raise NotEnoughSamples(
            f"none of the {len(folder)} files could be scored. {reasons(folder.rejected)}"
        )
    scored = [
        _related(Scored(name, found.accuracy(classes)), scores[0], found if place else None)
        for place, ((name, _), found) in enumerate(zip(networks, scores, strict=True))
    ]
    remarks: tuple[str, ...] = ()
    if len(networks) > 1:
        timing = _timing(sessions, kept, lambda share: on_progress("timing", share))
        scored[1:] = [_timed(one, timing, place) for place, one in enumerate(scored[1:], 1)]
        remarks = timing.remarks
    return Comparison(
        samples=len(scores[0].right),
        networks=tuple(scored),
        remarks=remarks,
        unknown=unknown,
        unlabelled=unlabelled,
        rejected=folder.rejected,
    )


def _related(one: Scored, first: Scores, mine: Scores | None) -> Scored:
    if mine is None:
        return one
    pairs = list(zip(first.right, mine.right, strict=True))
    gained, lost = pairs.count((False, True)), pairs.count((True, False))
    same = [a == b for a, b in zip(first.answers, mine.answers, strict=True)]
    return replace(
        one,
        difference=(gained - lost) / len(pairs),
        difference_interval=difference_interval(gained, lost, len(pairs)),
        agreement=sum(same) / len(pairs),
    )


def _timing(
    sessions: Sequence[Session],
    samples: Sequence[NDArray[np.float32]],
    on_share: Callable[[float], None],
) -> Timing:
    def one_by_one(session: Session) -> Callable[[], object]:
        turn = itertools.cycle([sample[None] for sample in samples])
        return lambda: session.run(next(turn))

    arms = {str(place): one_by_one(session) for place, session in enumerate(sessions)}
    return measure(arms, reference="0", limits=_LIMITS, on_progress=on_share)


def _timed(one: Scored, timing: Timing, place: int) -> Scored:
    arm = timing[str(place)]
    return replace(one, time_ratio=arm.ratio, speed=arm.verdict)
