"""Taking off the logits what this user's camera or room puts on all of them.

A network that sees pictures unlike those it was trained on (small ones, dark ones) leans towards
the same few classes whatever is shown. That lean is common to the stream, while what is shown is
not: a low quantile of each class's logit over the stream shows the one without the other, as long
as the class itself is rarer than the rest. Subtracting it is batch calibration (Zhou et al. 2024,
arXiv 2309.17249, equation 7, which takes the mean), made safe for streams of few classes by the
quantile, and by two tests: neighbours in the network's features have to agree about as much after
it as before, which on a stream of a single class they do not, and at least four classes have to be
met. Of three each is a third of the stream, and what the quantile shows are the other two.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .prior import effective_classes, estimate_prior, prior_shift, softmax
from .teach import neighbours

__all__ = ["domain_bias", "neighbour_agreement", "usable_bias"]

Float64 = NDArray[np.float64]
_QUANTILE = 0.1
_DOUBT_SPENT = 0.2  # of what neighbours disagree about before
_PRIOR_FLOOR = 1e-2
_FEWEST = 15  # a tenth of fewer samples is none
_FEWEST_CLASSES = 4.0  # of three, each is a third: the quantile shows what the others look like


def domain_bias(logits: NDArray[np.floating]) -> Float64:
    """What all samples of a stream have in common.

    Args:
        logits: the network's outputs on the user's samples, ``(samples, classes)``.

    Returns:
        A low quantile of each class's logit less the mean of them, float64 ``(classes,)``.
    """
    low = np.quantile(logits.astype(np.float64), _QUANTILE, axis=0)
    return np.asarray(low - low.mean())


def neighbour_agreement(logits: NDArray[np.floating], features: NDArray[np.floating]) -> float:
    """How alike neighbours are labelled: their mean probability of having the same class.

    Args:
        logits: ``(samples, classes)``; a class prior is estimated from them and applied.
        features: what the head reads, ``(samples, features)``.
    """
    return _agreement(logits, estimate_prior(logits), neighbours(features) > 0)


def _agreement(logits: NDArray[np.floating], prior: Float64, adjacent: NDArray[np.bool_]) -> float:
    labels = softmax(logits + prior_shift(prior, _PRIOR_FLOOR)).astype(np.float32)
    affinity = adjacent.astype(np.float32)
    alike = (labels * (affinity @ labels)).sum(1) / np.maximum(affinity.sum(1), 1)
    return float(alike.mean(dtype=np.float64))


def usable_bias(logits: NDArray[np.floating], features: NDArray[np.floating]) -> Float64:
    """The domain bias where taking it off leaves neighbours agreeing and classes enough, or 0."""
    bias = domain_bias(logits)
    prior = estimate_prior(logits - bias)
    if len(logits) < _FEWEST or effective_classes(prior) < _FEWEST_CLASSES:
        return np.zeros_like(bias)
    adjacent = neighbours(features) > 0
    before = _agreement(logits, estimate_prior(logits), adjacent)
    if _agreement(logits - bias, prior, adjacent) > before - _DOUBT_SPENT * (1.0 - before):
        return bias
    return np.zeros_like(bias)
