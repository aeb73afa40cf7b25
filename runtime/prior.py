"""Which classes this user meets: the class prior, re-estimated without labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "effective_classes",
    "estimate_prior",
    "information",
    "log_softmax",
    "prior_shift",
    "softmax",
]

Float64 = NDArray[np.float64]
_ITERATIONS = 200
_TOLERANCE = 1e-6


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


def estimate_prior(logits: NDArray[np.floating]) -> Float64:
    """Estimate the user's class prior from unlabelled predictions by expectation maximisation.

    Saerens, Latinne and Decaestecker (2002), section 2.2, from a uniform start: the network is
    taken to have been trained on balanced classes.

    Args:
        logits: dense network's outputs on the user's samples, ``(samples, classes)``.

    Returns:
        Probabilities, ``(classes,)`` float64, sum 1.
    """
    classes = logits.shape[1]
    probabilities = softmax(logits)
    prior = np.full(classes, 1.0 / classes)
    for _ in range(_ITERATIONS):
        # The mean of the posteriors, without writing them down: two products, no matrix.
        evidence = probabilities @ prior
        updated = prior * ((1.0 / evidence) @ probabilities) / len(probabilities)
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


def effective_classes(prior: NDArray[np.floating]) -> float:
    """How many classes a prior amounts to: the exponential of its entropy."""
    wide = np.asarray(prior, np.float64)
    return float(np.exp(-(wide * np.log(wide + 1e-30)).sum()))


def information(logits: NDArray[np.floating]) -> float:
    """Mutual information of sample and prediction, in nats: sure of each, not always the same."""
    logp = log_softmax(logits)
    p = np.exp(logp)
    mean = p.mean(0)
    return float(-(mean * np.log(mean + 1e-30)).sum() + (p * logp).sum(1).mean())
