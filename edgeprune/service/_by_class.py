"""How figures of samples differ by class: a random-effects model, fitted to few samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ByClass", "fit_by_class"]

Float64 = NDArray[np.float64]

_LEAST_WITHIN = 0.05  # of a variance of 1
_MOST_BETWEEN = 1.0


@dataclass(frozen=True, eq=False)
class ByClass:
    """What to expect of standardised figures for each class, and how little is known of it.

    Attributes:
        mean: float64 ``(classes, figures)``, drawn towards 0 the more the fewer samples there were.
        variance: float64 ``(classes, figures)``, of the error of that.
        met: int64, the classes that samples were learnt from of; all others have mean 0 and the
            variance between classes.
        between: float64 ``(figures,)``, that variance.
    """

    mean: Float64
    variance: Float64
    met: NDArray[np.int64]
    between: Float64

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; nothing of classes that were not met."""
        return {
            "met": self.met.tolist(),
            "mean": self.mean[self.met].tolist(),
            "variance": self.variance[self.met].tolist(),
            "between": self.between.tolist(),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], classes: int) -> ByClass:
        """What `to_dict` gave, for so many classes.

        Raises:
            ValueError, KeyError, TypeError: it is not that.
        """
        met, between = np.array(fields["met"], np.int64), np.array(fields["between"], np.float64)
        known = [np.array(fields[name], np.float64) for name in ("mean", "variance")]
        shape, numbers = (len(met), len(between)), [between, *known]
        if ((met < 0) | (met >= classes)).any() or any(array.shape != shape for array in known):
            raise ValueError("what is known of the classes is damaged: sizes")
        if not all(np.isfinite(array).all() for array in numbers):
            raise ValueError("what is known of the classes is damaged: figures")
        if (between < 0.0).any() or (known[1] < 0.0).any():
            raise ValueError("what is known of the classes is damaged: variances")
        mean, variance = np.zeros((classes, len(between))), np.tile(between, (classes, 1))
        mean[met], variance[met] = known
        return cls(mean, variance, met, between)


def fit_by_class(figures: Float64, classes: NDArray[np.int64], many: int) -> ByClass:
    """Fit class means as random effects: variances by analysis of variance, means by shrinkage.

    The method is the classical one (Henderson 1953; Searle, Casella and McCulloch, *Variance
    Components*, 1992): a mean over n samples is drawn towards the common one by
    n / (n + within / between), and its error has the variance within / (n + within / between).

    Args:
        figures: standardised, ``(samples, figures)``.
        classes: of the samples, int64 ``(samples,)``.
        many: how many classes there are.
    """
    met, which, counts = np.unique(classes, return_inverse=True, return_counts=True)
    sums = np.zeros((len(met), figures.shape[1]))
    np.add.at(sums, which, figures)
    means, n = sums / counts[:, None], counts[:, None]
    within = ((figures - means[which]) ** 2).sum(0) / max(1, len(figures) - len(met))
    within = np.maximum(within, _LEAST_WITHIN)
    among = (n * means**2).sum(0) / max(1, len(met) - 1)
    typical = (len(figures) - (counts**2).sum() / len(figures)) / max(1, len(met) - 1)
    between = np.clip((among - within) / max(typical, 1.0), 0.0, _MOST_BETWEEN)
    known = n * between / (n * between + within)
    mean, variance = np.zeros((many, len(between))), np.tile(between, (many, 1))
    mean[met], variance[met] = known * means, between * (1.0 - known)
    return ByClass(mean, variance, met, between)
