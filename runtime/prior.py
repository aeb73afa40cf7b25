"""Which classes this user meets: the class prior, re-estimated without labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LEAST_SHARE",
    "ClassHistory",
    "confidence",
    "effective_classes",
    "estimate_prior",
    "information",
    "log_softmax",
    "prior_shift",
    "share_of_the_unseen",
    "softmax",
]

Float64 = NDArray[np.float64]
LEAST_SHARE = 1e-2
"""Of a fair share, what a class keeps that a long stream did not show."""

_ITERATIONS = 200
_TOLERANCE = 1e-6
_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True, eq=False)
class ClassHistory:
    """Which classes were met before: a prior float64 ``(classes,)``, worth so many samples."""

    prior: Float64
    samples: float

    def blend(self, prior: Float64, samples: int) -> Float64:
        """A newer prior of so many samples with this one added, each by its weight."""
        total = samples + self.samples
        return np.asarray((samples * prior + self.samples * self.prior) / total, np.float64)


def log_softmax(logits: NDArray[np.floating]) -> Float64:
    """Logarithms of the class probabilities over the last axis, float64."""
    wide = logits.astype(np.float64)
    wide = wide - wide.max(-1, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(-1, keepdims=True)), np.float64)


def softmax(logits: NDArray[np.floating]) -> Float64:
    """Class probabilities over the last axis, float64."""
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    np.exp(wide, out=wide)
    wide /= wide.sum(-1, keepdims=True)
    return np.asarray(wide, np.float64)


def estimate_prior(
    logits: NDArray[np.floating],
    *,
    start: Float64 | None = None,
    iterations: int = _ITERATIONS,
) -> Float64:
    """Estimate the user's class prior from unlabelled predictions by expectation maximisation.

    Saerens, Latinne and Decaestecker (2002), section 2.2, from a uniform start: the network is
    taken to have been trained on balanced classes.

    Args:
        logits: dense network's outputs on the user's samples, ``(samples, classes)``.
        start: begin with this prior instead, positive ``(classes,)``.
        iterations: do at most so many rounds.

    Returns:
        Probabilities, ``(classes,)`` float64, sum 1.
    """
    classes = logits.shape[1]
    # Half the memory to go over in every round; the prior itself stays float64.
    probabilities = softmax(logits).astype(np.float32)
    prior = np.full(classes, 1.0 / classes) if start is None else start
    for _ in range(iterations):
        # The mean of the posteriors, without writing them down: two products, no matrix.
        evidence = np.maximum(probabilities @ prior.astype(np.float32), _TINY)
        updated = prior * ((np.float32(1.0) / evidence) @ probabilities) / len(probabilities)
        change = float(np.abs(updated - prior).sum())
        prior = updated
        if change < _TOLERANCE:
            break
    return np.asarray(prior / prior.sum())


def prior_shift(prior: NDArray[np.floating], floor: float) -> NDArray[np.float32]:
    """What to add to the head's logits so that they follow `prior`.

    Args:
        prior: probabilities, ``(classes,)``.
        floor: the least share, relative to uniform, that a class is left with: a class that the
            user has not met fades and does not vanish.

    Returns:
        ``log(classes · prior)``, floored, float32 ``(classes,)``.
    """
    relative = np.maximum(np.asarray(prior, np.float64) * len(prior), floor)
    return np.log(relative).astype(np.float32)


def share_of_the_unseen(labels: NDArray[np.floating]) -> float:
    """What a class that the stream did not show keeps of a fair share.

    Good (1953, after Turing): what was not seen yet is met as often as what was seen once. Of
    twenty samples of twenty-five classes half are the only ones of their class, and much is still
    to come; of three hundred hardly any. That share is spread over all classes alike.

    Args:
        labels: soft labels of the stream, ``(samples, classes)``.

    Returns:
        Between `LEAST_SHARE` and 1.
    """
    times = np.bincount(labels.argmax(1))
    return max(LEAST_SHARE, np.count_nonzero(times == 1) / max(len(labels), 1))


def effective_classes(prior: NDArray[np.floating]) -> float:
    """How many classes a prior amounts to: the exponential of its entropy."""
    wide = np.asarray(prior, np.float64)
    return float(np.exp(-(wide * np.log(wide + 1e-30)).sum()))


def confidence(logits: NDArray[np.floating]) -> float:
    """Mean probability of the class that is named, over samples ``(samples, classes)``."""
    return float(np.exp(log_softmax(logits).max(1)).mean())


def information(logits: NDArray[np.floating]) -> float:
    """Mutual information of sample and prediction, in nats: sure of each, not always the same."""
    logp = log_softmax(logits)
    p = np.exp(logp)
    mean = p.mean(0)
    return float(-(mean * np.log(mean + 1e-30)).sum() + (p * logp).sum(1).mean())
