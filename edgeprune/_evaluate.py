"""Dense against personalised on the same labelled samples, side by side in one process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._results import Accuracy, Evaluation, Quartiles
from ._sources import reasons
from .devices import SampleFolder
from .runtime.errors import NotEnoughSamples
from .runtime.session import Session

__all__ = ["Scores", "compare", "difference_interval", "score", "wilson"]

OnProgress = Callable[[str, float], None]

FloatArray = NDArray[np.float32]
_BATCH = 8
_Z = 1.959963984540054
_LATENCY_SAMPLES = 16
_LATENCY_PAIRS = 200
_LATENCY_S = 3.0
_WARM_UP = 3


def wilson(right: int, total: int) -> tuple[float, float]:
    """95 % interval of a share."""
    share, spread = right / total, _Z * _Z / total
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def difference_interval(gained: int, lost: int, total: int) -> tuple[float, float]:
    """95 % interval of a difference of paired shares (Agresti and Min 2005).

    Half a sample is added to each cell of the 2 × 2 table, so that it stays honest where the two
    networks differ on few samples or none::

        difference_interval(gained=0, lost=0, total=100) is about (-0.027, 0.027)
    """
    padded, up, down = total + 2.0, gained + 0.5, lost + 0.5
    middle = (up - down) / padded
    half = _Z * math.sqrt((up + down) - (up - down) ** 2 / padded) / padded
    return max(-1.0, middle - half), min(1.0, middle + half)


def compare(
    sessions: Sequence[Session],
    folder: SampleFolder,
    wanted: Sequence[int | None],
    classes: int,
    on_progress: OnProgress,
) -> Evaluation:
    """Score the dense network, and the personalised one if it is given second.

    Args:
        sessions: the networks.
        folder: the samples.
        wanted: the right class of each, None for one that is left out.
        classes: how many classes there are.
        on_progress: called with the name of a step and the share of it that is done.

    Raises:
        NotEnoughSamples: not one sample could be read.
    """
    scores, kept = score(sessions, folder, wanted, lambda share: on_progress("scoring", share))
    if not kept:
        raise NotEnoughSamples(
            f"none of the {len(folder)} files could be scored. {reasons(folder.rejected)}"
        )
    evaluation = Evaluation(
        samples=len(scores[0].right),
        dense=scores[0].accuracy(classes),
        rejected=folder.rejected,
    )
    if len(sessions) == 1:
        return evaluation
    on_progress("timing", 0.0)
    ratio = _latency_ratio(sessions[0], sessions[1], kept)
    return replace(_paired(evaluation, scores[0], scores[1], classes), latency_ratio=ratio)


def _paired(
    evaluation: Evaluation, dense: Scores, personalized: Scores, classes: int
) -> Evaluation:
    pairs = list(zip(dense.right, personalized.right, strict=True))
    gained, lost = pairs.count((False, True)), pairs.count((True, False))
    same = [a == b for a, b in zip(dense.answers, personalized.answers, strict=True)]
    return replace(
        evaluation,
        personalized=personalized.accuracy(classes),
        difference=(gained - lost) / len(pairs),
        difference_interval=difference_interval(gained, lost, len(pairs)),
        agreement=sum(same) / len(pairs),
    )


@dataclass
class Scores:
    """What one network answered: is the right class first, is it among five, which is first."""

    right: list[bool] = field(default_factory=list)
    among_five: list[bool] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)

    def add(self, outputs: FloatArray, wanted: Sequence[int]) -> None:
        """Score a batch of outputs."""
        order = np.argsort(-outputs, axis=1, kind="stable")[:, :5]
        target = np.asarray(wanted)[:, None]
        self.answers += order[:, 0].tolist()
        self.right += (order[:, :1] == target).any(1).tolist()
        self.among_five += (order == target).any(1).tolist()

    def accuracy(self, classes: int) -> Accuracy:
        """The shares; top-5 says something only of more than ten classes."""
        total = len(self.right)
        top5 = sum(self.among_five) / total if classes > 10 else None
        right = sum(self.right)
        return Accuracy(right / total, wilson(right, total), top5)


def score(
    sessions: Sequence[Session],
    folder: SampleFolder,
    wanted: Sequence[int | None],
    on_share: Callable[[float], None],
) -> tuple[list[Scores], list[FloatArray]]:
    """Run all networks over the samples that have a class; return also a few of the samples."""
    scores = [Scores() for _ in sessions]
    kept: list[FloatArray] = []
    done = 0
    for arrays, targets in _batches(folder, wanted):
        batch = np.stack(arrays)
        for session, sums in zip(sessions, scores, strict=True):
            sums.add(session.run(batch), targets)
        kept += arrays[: _LATENCY_SAMPLES - len(kept)]
        done += len(arrays)
        on_share(done / len(wanted))
    return scores, kept


def _batches(
    folder: SampleFolder, wanted: Sequence[int | None]
) -> Iterator[tuple[list[FloatArray], list[int]]]:
    arrays: list[FloatArray] = []
    targets: list[int] = []
    for index, target in enumerate(wanted):
        sample = None if target is None else folder.load(index)
        if sample is None or target is None:
            continue
        arrays.append(sample.array)
        targets.append(target)
        if len(arrays) == _BATCH:
            yield arrays, targets
            arrays, targets = [], []
    if arrays:
        yield arrays, targets


def _latency_ratio(
    dense: Session, personalized: Session, samples: Sequence[NDArray[Any]]
) -> Quartiles:
    """Time of one sample with the profile over that without, in alternating order."""
    pair = (dense, personalized)
    for _ in range(_WARM_UP):
        for session in pair:
            session.run(samples[0][None])
    ratios: list[float] = []
    end = time.perf_counter() + _LATENCY_S
    while len(ratios) < _LATENCY_PAIRS and (len(ratios) < 5 or time.perf_counter() < end):
        one = samples[len(ratios) % len(samples)][None]
        order = (0, 1) if len(ratios) % 2 else (1, 0)
        took = [0.0, 0.0]
        for place in order:
            start = time.perf_counter()
            pair[place].run(one)
            took[place] = time.perf_counter() - start
        ratios.append(took[1] / took[0])
    first, median, third = np.quantile(ratios, [0.25, 0.5, 0.75]).tolist()
    return Quartiles(median, first, third)
