"""Teaching the head what the dense network, its prior and the user's stream say together.

The user's samples form a graph: neighbours in the dense network's features tend to share a class,
so soft labels are spread over it (LAME, Boudiaf et al. 2022, equation 9). A ridge regression from
features to those labels is then added to the head. The teacher is always the dense network; labels
that the pruned network spreads itself are much worse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._external import FloatArray
from .artifact import Operator
from .prior import log_softmax

__all__ = [
    "HeadUpdate",
    "class_importance",
    "fit_head",
    "neighbours",
    "propagate",
    "taught_head",
    "weighed_head",
]

Float64 = NDArray[np.float64]
_ROUNDS = 30
_BALANCE_ROUNDS = 10
_LEAST_SHARE = 1e-6
_MOST_NEIGHBOURS = 10
_LOUDEST = 20.0
_HEARD_OUT = 80  # samples, from which on the head is taught in full
_LEAST = 1e-2  # a class that the user does not meet counts as a hundredth of a fair share
_SAMPLES_PER_NEIGHBOUR = 20  # a short stream holds few samples of a class: fewer neighbours


@dataclass(frozen=True)
class HeadUpdate:
    """What to add to a linear head: float32 ``(classes, features)``, float64 ``(classes,)``."""

    weight: FloatArray
    bias: Float64


def neighbours(features: NDArray[np.floating]) -> NDArray[np.float64]:
    """Symmetric affinity of the nearest neighbours by cosine, ``(samples, samples)``."""
    wide = features.astype(np.float64)
    unit = wide / (np.linalg.norm(wide, axis=1, keepdims=True) + 1e-12)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    samples = len(features)
    count = int(np.clip(samples // _SAMPLES_PER_NEIGHBOUR, 1, _MOST_NEIGHBOURS))
    nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
    affinity = np.zeros_like(similarity)
    affinity[np.arange(samples)[:, None], nearest] = 1.0
    return np.asarray((affinity + affinity.T) / 2)


def propagate(
    logits: NDArray[np.floating],
    features: NDArray[np.floating],
    *,
    balance: float = 0.0,
    links: Float64 | None = None,
) -> Float64:
    """Spread a network's soft labels over the user's own stream.

    Args:
        logits: the teacher's outputs, ``(samples, classes)``.
        features: what its head reads, ``(samples, features)``.
        balance: how strongly classes are held to equal shares: each class is handicapped by the
            logarithm of its share times this. Infinity would be the equal partition of
            self-labelling (Asano et al. 2020); a user's classes are never quite that equal.
        links: what else ties samples together, such as `links_in_time`; ``(samples, samples)``.

    Returns:
        Soft labels, float64 ``(samples, classes)``, rows sum to 1. Their mean is an estimate of the
        class prior.
    """
    # Rounds of float32: a third of the time, and the labels are the same to five digits.
    unary = log_softmax(logits).astype(np.float32)
    affinity = neighbours(features) if links is None else neighbours(features) + links
    affinity = affinity.astype(np.float32)
    labels, handicap = np.exp(unary), np.zeros(unary.shape[1], np.float32)
    for _ in range(_ROUNDS):
        scores = unary + affinity @ labels
        for _ in range(_BALANCE_ROUNDS if balance else 0):
            shares = _normal(scores - handicap).mean(0)
            wanted = balance * np.log(shares * unary.shape[1] + _LEAST_SHARE)
            handicap = ((handicap + wanted) / 2).astype(np.float32)
        labels = _normal(scores - handicap)
    return np.asarray(labels / labels.sum(1, keepdims=True, dtype=np.float64))


def _normal(scores: NDArray[Any]) -> FloatArray:
    """Softmax over the last axis, in place; float32 stays float32."""
    scores -= scores.max(1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(1, keepdims=True)
    return scores


def fit_head(
    features: NDArray[np.floating],
    labels: Float64,
    *,
    ridge: float = 1.0,
    scale: float | None = None,
) -> HeadUpdate:
    """Fit soft labels linearly from features, by ridge regression in its dual form.

    Args:
        features: what the teacher's head reads, ``(samples, features)``.
        labels: from `propagate`, ``(samples, classes)``.
        ridge: relative to the mean of the kernel's diagonal.
        scale: logits that a fitted label of 1 is worth; None for 20, and less on a short stream:
            fitted to twenty words that were heard once each, it taught the head their noise.
    """
    if scale is None:
        scale = _LOUDEST * min(1.0, len(features) / _HEARD_OUT)
    mean = features.mean(0, dtype=np.float64)
    centred = features.astype(np.float64) - mean
    kernel = centred @ centred.T
    damping = ridge * float(np.trace(kernel)) / len(kernel) + 1e-12
    dual = np.linalg.solve(kernel + damping * np.eye(len(kernel)), labels - labels.mean(0))
    weight = (scale * (dual.T @ centred)).astype(np.float32)
    return HeadUpdate(weight, -(weight @ mean))


def class_importance(prior: NDArray[np.floating]) -> Float64:
    """What an error of each class's logit weighs for this user: 1 where all are met alike."""
    return np.asarray(np.sqrt(np.maximum(prior * len(prior), _LEAST)), np.float64)


def taught_head(
    tensors: Mapping[str, FloatArray], operator: Operator, update: HeadUpdate
) -> dict[str, FloatArray]:
    """All external tensors, with the head's weight and shift as the update makes them."""
    added = update.weight / tensors[operator.gain][:, None]
    weight = tensors[operator.weight] + (added if operator.out_axis == 0 else added.T)
    shift = tensors[operator.shift] + update.bias
    taught = {operator.weight: weight, operator.shift: shift}
    return dict(tensors) | {name: value.astype(np.float32) for name, value in taught.items()}


def weighed_head(
    tensors: Mapping[str, FloatArray],
    operator: Operator,
    update: HeadUpdate | None,
    prior: NDArray[np.floating],
) -> dict[str, FloatArray]:
    """External tensors to judge the head's inputs by: as taught, each class as it is met.

    What tells apart classes that the user never meets is not worth keeping (as in CAP'NN, Hemmat et
    al. 2020, and NuWa, arXiv 2504.03118, with the user's own estimated mixture); their gain is 0.
    """
    taught = dict(tensors) if update is None else taught_head(tensors, operator, update)
    importance = class_importance(prior)
    met = importance > class_importance(np.zeros(1))[0]
    gain = taught[operator.gain] * np.where(met, importance, 0.0)
    return taught | {operator.gain: gain.astype(np.float32)}
