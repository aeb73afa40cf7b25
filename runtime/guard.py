"""Does the personalised network still say what the dense one says? Asked without labels."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from .prior import log_softmax

__all__ = ["GuardReport", "compare_outputs"]


@dataclass(frozen=True)
class GuardReport:
    """Label-free comparison of two networks on held-out user samples.

    ``agreement`` is the share of samples on which both name the same class; ``confidence`` the mean
    probability of the named class; ``entropy`` the mean entropy of the output in nats.
    """

    samples: int
    agreement: float
    confidence_dense: float
    confidence_personalized: float
    entropy_dense: float
    entropy_personalized: float

    def to_dict(self) -> dict[str, float]:
        """The figures by name."""
        return asdict(self)


def compare_outputs(dense: NDArray[np.floating], personalized: NDArray[np.floating]) -> GuardReport:
    """Compare the outputs (logits) of two networks, each ``(samples, classes)``."""
    figures = []
    for logits in (dense, personalized):
        logp = log_softmax(logits)
        p = np.exp(logp)
        figures.append((float(p.max(1).mean()), float(-(p * logp).sum(1).mean())))
    agreement = float((dense.argmax(1) == personalized.argmax(1)).mean())
    return GuardReport(
        len(dense), agreement, figures[0][0], figures[1][0], figures[0][1], figures[1][1]
    )
