"""Neighbours in time: who was seen or heard a moment ago is often still there.

A camera shows one thing for a while, a speaker repeats a word. Where a stream does that, samples
that follow each other are linked in the graph that labels are spread over. Whether it does is read
off the stream itself, without labels: following samples agree more than the same samples in a
random order. On a shuffled stream nothing is linked.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .prior import estimate_prior, prior_shift, softmax

__all__ = ["links_in_time", "persistence"]

Float64 = NDArray[np.float64]
_PRIOR_FLOOR = 1e-2
_ORDERS = 20  # random orders that the true one has to beat
_FARTHEST = 10
_MOST = 0.95  # a link is never quite certain
_WORTH = 2.0  # what a sample's twin in time counts, of neighbours in the features: up to 1 each


def persistence(labels: NDArray[np.floating]) -> float:
    """How far samples go on showing what the one before showed: 0 (not at all) to 1.

    The chance that two following samples share a class, above that of two random ones, as a share
    of what a sample has in common with itself. For stays of mean length ``n`` it is ``1 - 1/n``.
    Zero where twenty random orders of the same samples reach as much.

    Args:
        labels: soft labels in the order of the stream, ``(samples, classes)``.
    """
    if len(labels) < 2:
        return 0.0
    alike, order = labels @ labels.T, np.arange(len(labels))
    rng = np.random.default_rng(0)
    found = _following(alike, order)
    by_chance = max(_following(alike, rng.permutation(order)) for _ in range(_ORDERS))
    random, same = float((labels.mean(0) ** 2).sum()), float(np.trace(alike)) / len(labels)
    share = (found - random) / max(same - random, 1e-9)
    return float(np.clip(share, 0.0, _MOST)) if found > by_chance else 0.0


def _following(alike: NDArray[np.floating], order: NDArray[np.integer]) -> float:
    """How alike samples are that follow each other in some order."""
    return float(alike[order[:-1], order[1:]].mean())


def links_in_time(logits: NDArray[np.floating]) -> Float64:
    """How strongly each two samples of a stream belong together by when they came.

    Args:
        logits: the teacher's outputs in the order of the stream, ``(samples, classes)``.

    Returns:
        Symmetric weights, float64 ``(samples, samples)``, falling by the stream's `persistence`
        with each step; zeros on a stream that does not persist.
    """
    labels = softmax(logits + prior_shift(estimate_prior(logits), _PRIOR_FLOOR))
    kept = persistence(labels)
    apart = np.abs(np.subtract.outer(np.arange(len(logits)), np.arange(len(logits))))
    near = (apart > 0) & (apart <= _FARTHEST)
    return np.asarray(np.where(near, _WORTH * kept**apart, 0.0), np.float64)
