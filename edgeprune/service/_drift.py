"""Noticing without labels that what is seen has changed.

Three figures are read off what the network as trained says of a sample. Each falls when something
else is seen than what was learnt from:

evidence
    how much likelier the classes that this user was found to meet make it than all classes alike:
    falls when other classes turn up;
confidence
    the negative entropy of the class probabilities: falls in bad light, or with a strange voice;
familiarity
    the negative Mahalanobis distance of the logits from those learnt from (Lee et al. 2018, arXiv
    1807.03888, with one Gaussian for all classes): falls when the same classes sound or look
    different.

Each goes into a one-sided CUSUM (Page 1954): what a figure is lower than on the samples learnt
from, in their standard deviations and less an allowance, is added up and never falls below zero; a
sum above a limit is an alarm. Figures of the samples learnt from are those of models fitted without
them, a fifth of the stream at a time: a model flatters its own samples. In a stream where the same
thing is seen many times running such sums wander farther; the limit grows with the variance of
means of ten neighbours.

Some classes are harder than others, and one of these seen a hundred times running is no change. So
figures are compared with what they were for the class that the sample is taken for (`ByClass`), and
the limit grows with what is not known of the classes that a sum is made of: as long as it rises, n
samples of a class add n times the error of that class's mean. Samples of many classes hardly raise
it, so a change among them is found as soon as without.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.calibrate import domain_bias
from ..runtime.prior import effective_classes, estimate_prior, log_softmax
from ._by_class import ByClass, fit_by_class

__all__ = ["FIGURES", "DriftMonitor", "DriftReference", "Seen", "fit_reference"]

Float64 = NDArray[np.float64]

FIGURES = ("evidence", "confidence", "familiarity")
_LEAST_STD = {"evidence": 0.25, "confidence": 0.1, "familiarity": 0.25}
_ALLOWANCE = 0.75  # standard deviations
_LIMIT = 12.0  # and the sum that is an alarm: no false one in 240,000 independent samples
_SUSPICION = 0.25  # of the limit
_CLIP = 3.0  # no single sample may say more
_FOLDS = 5
_NEIGHBOURS = 10
_SLOWEST = 3.0
_SLOWNESS_NOISE = 0.5  # of independent samples, a hundred of them
_PRIOR_FLOOR = 1e-2
_MEETS_ALL = 0.8
_MOST_DIMENSIONS = 16
_SHRINKAGE = 0.1
_MOST_RECENT = 100
_DOUBT = 2.0  # standard deviations of what is not known of the classes in a sum
_MEETS_MANY = 0.5  # of all classes


@dataclass(frozen=True, eq=False)
class _Model:
    """What samples have in common: float64 arrays over classes and over projected logits."""

    bias: Float64
    prior: Float64
    mean: Float64
    whitening: Float64

    def figures(self, logits: NDArray[np.floating]) -> Float64:
        """The three figures of samples ``(samples, classes)``: ``(samples, 3)``."""
        evidence = np.exp(log_softmax(logits - self.bias) + self._relative).sum(1)
        logp = log_softmax(logits)
        confidence = (np.exp(logp) * logp).sum(1)
        white = (_project(logits) - self.mean) @ self.whitening
        familiarity = -np.linalg.norm(white, axis=1)
        return np.stack([np.log(evidence), confidence, familiarity], axis=1)

    def classes(self, logits: NDArray[np.floating]) -> NDArray[np.int64]:
        """What samples ``(samples, classes)`` are taken for, knowing whom they are of."""
        return np.asarray((logits - self.bias + self._relative).argmax(1))

    @property
    def _relative(self) -> Float64:
        """How much likelier each class is than all alike, as a logarithm."""
        return np.asarray(np.log(np.maximum(self.prior * len(self.prior), _PRIOR_FLOOR)))


def _fit_model(logits: NDArray[np.floating]) -> _Model:
    wide = logits.astype(np.float64)
    bias = domain_bias(wide)
    prior = estimate_prior(wide - bias)
    if effective_classes(prior) >= _MEETS_ALL * len(prior):
        prior = np.full(len(prior), 1.0 / len(prior))
    projected = _project(wide)
    mean = projected.mean(0)
    covariance = np.cov(projected.T, bias=True).reshape(len(mean), len(mean))
    damping = _SHRINKAGE * np.trace(covariance) / len(mean) + 1e-12
    values, vectors = np.linalg.eigh(covariance + damping * np.eye(len(mean)))
    return _Model(bias, prior, mean, np.asarray(vectors / np.sqrt(values)))


def _project(logits: NDArray[np.floating]) -> Float64:
    """Logits in at most 16 dimensions, by a fixed random projection where there are more."""
    classes = logits.shape[-1]
    wide = logits.astype(np.float64)
    wide = wide - wide.mean(-1, keepdims=True)
    if classes <= _MOST_DIMENSIONS:
        return np.asarray(wide)
    directions = np.random.default_rng(0).normal(size=(classes, _MOST_DIMENSIONS))
    return np.asarray(wide @ directions / np.sqrt(classes))


@dataclass(frozen=True, eq=False)
class DriftReference:
    """What the network as trained said of the samples that were learnt from, in numbers.

    Attributes:
        model: what they have in common.
        mean, std: of each of `FIGURES`, float64 ``(3,)``.
        limit: of each, the sum that is an alarm, float64 ``(3,)``.
        by_class: how each differs by class.
    """

    model: _Model
    mean: Float64
    std: Float64
    limit: Float64
    by_class: ByClass

    def surprise(self, logits: NDArray[np.floating]) -> Float64:
        """How much lower each figure is than it was, in standard deviations: ``(samples, 3)``."""
        expected = self.by_class.mean[self.model.classes(logits)]
        lower = expected - (self.model.figures(logits) - self.mean) / self.std
        return np.clip(lower, -_CLIP, _CLIP)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        arrays = {**vars(self.model), "std": self.std, "limit": self.limit, "figures": self.mean}
        lists = {name: array.tolist() for name, array in arrays.items()}
        return lists | {"by_class": self.by_class.to_dict()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> DriftReference:
        """What `to_dict` gave.

        Raises:
            ValueError, KeyError, TypeError: it is not that.
        """
        names = ("bias", "prior", "mean", "whitening", "figures", "std", "limit")
        arrays = {name: np.array(fields[name], np.float64) for name in names}
        classes, dimensions, three = (len(arrays[n]) for n in ("bias", "mean", "figures"))
        shapes = {
            "bias": (classes,), "prior": (classes,), "mean": (dimensions,),
            "whitening": (dimensions, dimensions), "figures": (3,), "std": (3,), "limit": (3,),
        }  # fmt: skip
        wrong = [n for n, a in arrays.items() if a.shape != shapes[n] or not np.isfinite(a).all()]
        fits = dimensions == min(classes, _MOST_DIMENSIONS)
        if wrong or not fits or three != len(FIGURES) or (arrays["std"] <= 0).any():
            raise ValueError(f"the drift reference is damaged: {', '.join(wrong) or 'sizes'}")
        model = _Model(*(arrays[name] for name in ("bias", "prior", "mean", "whitening")))
        by_class = ByClass.from_dict(fields["by_class"], classes)
        return cls(model, arrays["figures"], arrays["std"], arrays["limit"], by_class)


def fit_reference(logits: NDArray[np.floating]) -> DriftReference:
    """Describe a stream that was learnt from.

    Args:
        logits: of the network as trained, ``(samples, classes)``, in the order of the stream; at
            least ten samples.
    """
    figures = np.concatenate(
        [
            _fit_model(np.delete(logits, fold, axis=0)).figures(logits[fold])
            for fold in np.array_split(np.arange(len(logits)), _FOLDS)
        ]
    )
    model, mean = _fit_model(logits), figures.mean(0)
    std = np.maximum(figures.std(0), np.array([_LEAST_STD[name] for name in FIGURES]))
    return DriftReference(
        model=model,
        mean=mean,
        std=std,
        limit=_LIMIT * _slowness(figures),
        by_class=fit_by_class(
            _that_differ(model) * (figures - mean) / std, model.classes(logits), logits.shape[1]
        ),
    )


def _that_differ(model: _Model) -> Float64:
    """Which figures are compared by class: 1.0, others 0.0.

    Evidence only of users who meet many of the classes. Of ten in a thousand it is nearly the same
    for all ten, and doubting it would hide others: users of development would wait for 23 pictures
    instead of 15.
    """
    many = effective_classes(model.prior) >= _MEETS_MANY * len(model.prior)
    return np.array([float(many), 1.0, 1.0])


def _slowness(figures: Float64) -> Float64:
    """Variance of means of ten neighbours against that of independent samples, from 1 to 3."""
    whole = len(figures) // _NEIGHBOURS * _NEIGHBOURS
    if whole < 2 * _NEIGHBOURS:
        return np.ones(figures.shape[1])
    means = figures[:whole].reshape(-1, _NEIGHBOURS, figures.shape[1]).mean(1)
    ratio = _NEIGHBOURS * means.var(0, ddof=1) / (figures.var(0) + 1e-12)
    return np.asarray(np.clip(ratio - _SLOWNESS_NOISE, 1.0, _SLOWEST))


@dataclass(frozen=True, eq=False)
class Seen:
    """A sample that a monitor took in: its number and its logits ``(classes,)``."""

    number: int
    logits: NDArray[np.floating]


class DriftMonitor:
    """Adds up surprise, sample by sample, and says when it is too much.

    Args:
        reference: what to compare with.
        sums: what was added up so far.
        seen: of how many samples of each class each sum is made, int64 ``(classes, 3)``.
    """

    def __init__(
        self,
        reference: DriftReference,
        sums: Float64 | None = None,
        seen: NDArray[np.int64] | None = None,
    ) -> None:
        self.reference = reference
        self._sums = np.zeros(len(FIGURES)) if sums is None else sums
        self._seen = np.zeros(reference.by_class.mean.shape, np.int64) if seen is None else seen
        self._rising = np.zeros(len(FIGURES), np.int64)
        self._recent: deque[Seen] = deque(maxlen=_MOST_RECENT)

    def update(self, number: int, logits: NDArray[np.floating]) -> bool:
        """Take in what the network as trained says of a sample.

        Args:
            number: of the sample; they rise.
            logits: ``(classes,)``.

        Returns:
            Whether this is an alarm.
        """
        surprise = self.reference.surprise(logits[None])[0]
        self._sums = np.maximum(self._sums + surprise - _ALLOWANCE, 0.0)
        self._rising = np.where(self._sums > 0.0, self._rising + 1, 0)
        self._seen[self.reference.model.classes(logits[None])[0]] += 1
        self._seen[:, self._sums == 0.0] = 0
        self._recent.append(Seen(number, logits))
        return bool((self._sums > self._limit).any())

    @property
    def _limit(self) -> Float64:
        """The sums that are an alarm, of these classes: ``(3,)``."""
        unknown = (self.reference.by_class.variance * self._seen**2).sum(0)
        return np.asarray(self.reference.limit + _DOUBT * np.sqrt(unknown))

    @property
    def changed(self) -> list[Seen]:
        """The samples since the change, as far as they are known.

        Where the sum that is nearest to its limit was last zero is the likeliest place of it.
        """
        count = int(self._rising[FIGURES.index(self.cause)])
        return list(self._recent)[-count:] if count else []

    @property
    def suspicious(self) -> bool:
        """Whether a change is likely enough to look at every sample."""
        return bool((self._sums > _SUSPICION * self._limit).any())

    @property
    def cause(self) -> str:
        """Which of `FIGURES` is nearest to its limit."""
        return FIGURES[int(np.argmax(self._sums / self._limit))]

    def status(self) -> dict[str, Any]:
        """Each figure's sum as a share of its limit, and whether that is suspicious."""
        shares = self._sums / self._limit
        named = {name: round(float(s), 3) for name, s in zip(FIGURES, shares, strict=True)}
        return {"suspicious": self.suspicious} | named

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        met = np.flatnonzero(self._seen.any(1))
        seen = {"classes": met.tolist(), "samples": self._seen[met].tolist()}
        return {"reference": self.reference.to_dict(), "sums": self._sums.tolist(), "seen": seen}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> DriftMonitor:
        """What `to_dict` gave; ValueError, KeyError or TypeError if it is not that."""
        sums = np.array(fields["sums"], np.float64)
        if sums.shape != (len(FIGURES),) or not np.isfinite(sums).all():
            raise ValueError("the drift monitor's sums are damaged")
        reference = DriftReference.from_dict(fields["reference"])
        seen = np.zeros(reference.by_class.mean.shape, np.int64)
        met = np.array(fields["seen"]["classes"], np.int64)
        if ((met < 0) | (met >= len(seen))).any():
            raise ValueError("the drift monitor's classes are damaged")
        seen[met] = np.array(fields["seen"]["samples"], np.int64).reshape(len(met), len(FIGURES))
        if (seen < 0).any():
            raise ValueError("the drift monitor's counts are damaged")
        return cls(reference, sums, seen)
