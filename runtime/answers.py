"""How far a network that was made smaller changed its answers, without labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .prior import softmax

__all__ = ["AnswerChange", "answer_change"]


@dataclass(frozen=True)
class AnswerChange:
    """Label-free comparison of a changed network with the one that it was made from.

    ``agreement`` is the share of samples on which both name the same class. ``expected_loss`` is
    the accuracy that the network itself expects to be lost: the mean of the probability that it
    gives its own class less the one that it gives the changed network's. A network that is too
    sure of itself overrates the loss, so the error is on the safe side.
    """

    samples: int
    agreement: float
    expected_loss: float

    @property
    def sentence(self) -> str:
        """For the user, without a full stop."""
        return (
            f"same class on {self.agreement:.1%} of {self.samples} samples; "
            f"{self.expected_loss:.1%} of the answers expected to be lost"
        )


def answer_change(
    wanted: NDArray[np.floating], got: NDArray[np.floating], *, logits: bool
) -> AnswerChange:
    """Compare two classifiers' outputs for the same samples.

    Args:
        wanted, got: of the network as it was and as it is, ``(samples, classes)``.
        logits: whether they are logits, not probabilities.
    """
    probabilities = softmax(wanted) if logits else wanted
    own, other = wanted.argmax(1), got.argmax(1)
    rows = np.arange(len(own))
    lost = probabilities[rows, own] - probabilities[rows, other]
    return AnswerChange(len(own), float((own == other).mean()), float(lost.mean()))
