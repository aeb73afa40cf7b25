"""The arms of the dense network and of personalisation: forward passes only, no torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.prior import estimate_prior, prior_shift
from ..runtime.settings import Settings
from ._cells import CellKey, Level
from ._workbench import Answer, Personalized, Workbench

__all__ = [
    "asked",
    "dense",
    "known_classes",
    "masked",
    "personalized",
    "prior_by_em",
    "repaired",
    "unpruned",
]

# The textbook's posterior has no floor; this one only keeps logarithms finite.
_NO_FLOOR = 1e-6


def dense(bench: Workbench, _key: CellKey) -> Answer:
    """A0: the network as trained."""
    return Answer(bench.dense_test.logits)


def prior_by_em(bench: Workbench, key: CellKey) -> Answer:
    """A1: the network as trained, its answers under a class prior from all of the stream."""
    samples = key.samples or 0

    def work() -> NDArray[Any]:
        prior = estimate_prior(bench.dense_adapt(samples).logits)
        return np.asarray(bench.dense_test.logits + prior_shift(prior, _NO_FLOOR))

    return bench.forward_only(samples, work)


def known_classes(bench: Workbench, _key: CellKey) -> Answer:
    """C1: the network as trained, told which classes the user meets. A ceiling: it knows labels."""
    logits = np.full_like(bench.dense_test.logits, -np.inf)
    logits[:, bench.known] = bench.dense_test.logits[:, bench.known]
    return Answer(logits)


def unpruned(bench: Workbench, key: CellKey) -> Answer:
    """A1+: personalised with every unit kept: all that A4 does to the outputs."""
    return _answer(bench, _made(bench, key, sparsity=0.0), guarded=True)


def masked(bench: Workbench, key: CellKey) -> Answer:
    """A2: masks and nothing else. A control."""
    off = replace(
        bench.settings, repair=False, prior="off", normalization="off", granularity="unit"
    )
    return _answer(bench, _made_with(bench, key, off), guarded=False)


def repaired(bench: Workbench, key: CellKey) -> Answer:
    """A3: masks and repair, nothing learnt of the classes, normalisation left alone."""
    off = replace(bench.settings, prior="off", normalization="off")
    return _answer(bench, _made_with(bench, key, off), guarded=False)


def personalized(bench: Workbench, key: CellKey) -> Answer:
    """A4: personalised."""
    return _answer(bench, _made_with(bench, key, bench.settings), guarded=True)


def _made(bench: Workbench, key: CellKey, *, sparsity: float) -> Personalized:
    return bench.personalized(replace(bench.settings, sparsity=sparsity), key.samples or 0)


def _made_with(bench: Workbench, key: CellKey, settings: Settings) -> Personalized:
    return bench.personalized(replace(settings, sparsity=asked(key.sparsity)), key.samples or 0)


def asked(level: Level) -> float | None:
    """The sparsity as settings take it."""
    return level if isinstance(level, float) else None


def _answer(bench: Workbench, made: Personalized, *, guarded: bool) -> Answer:
    if made.profile is None or made.report is None:
        return Answer(None, made.cost, refused=True, guarded=guarded, reason=made.reason)
    guard = made.report.guard
    more = {key: value for key, value in guard.to_dict().items() if key != "agreement"}
    return Answer(
        bench.profile_logits(made.profile),
        made.cost,
        refused=made.refused,
        guarded=guarded,
        agreement=guard.agreement,
        sparsity=made.report.sparsity,
        more={
            "guard": more,
            "normalization": made.report.normalization,
            "effective_classes": made.report.effective_classes,
        },
    )
