"""Would the user lose by it? Estimated without labels, on samples that took no part.

Three networks answer the same held-out samples: the dense one, the dense one taught what was learnt
of this user (classes, normalisation), and the personalised one. What was learnt helps, what pruning
took away hurts, and how far each moved the answers can be seen without labels. With ``d`` the root
of the mean Jensen-Shannon divergence of two networks' answers (nats)::

    estimated change of accuracy = BASE + LEARNT · d(dense, taught) − LOST · d(taught, personalised)

`BASE`, `LEARNT` and `LOST` are a least-squares fit over development users: ``edgeprune bench
guard`` prints them from the results of ``edgeprune bench personalization``, with what they are
worth on users that the fit has not seen (docs/method.md). That the two weights came out alike is
no assumption. Agreement alone cannot tell a gain from a loss: it knows how often the answers
changed, and not who was the surer.

None of that sees a stream from which the wrong thing was learnt, because the taught network errs
along. So a stream has to say several different things: `distinctness`, the mutual information of
sample and prediction as a share of what the dense network can tell. One class, noise, or a covered
lens say one thing over and over. And what it says must not be one class for the most part:
`dominance`. A short stream of that kind hardly shows the other classes, and what is learnt from it
is that they are not met.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from .prior import confidence, information, log_softmax, softmax

__all__ = [
    "LEAST_CHANGE",
    "LEAST_DISTINCTNESS",
    "MOST_DOMINANCE",
    "GuardReport",
    "distinctness",
    "dominance",
    "estimated_change",
    "judge",
    "least_distinctness",
    "too_dominated",
    "too_uniform",
]

BASE = 0.009
LEARNT = 0.253
LOST = 0.240
LEAST_CHANGE = BASE  # what pruning takes must not be more than teaching brings
LEAST_DISTINCTNESS = 0.2  # every development stream of one class, noise or silence is below it
_OF_A_SMALL_NETWORK = 0.3

_ENOUGH_OTHERS = 12
MOST_DOMINANCE = 0.4  # seven tenths of one class are mostly above it, users of five classes below


@dataclass(frozen=True)
class GuardReport:
    """Label-free comparison of networks on held-out user samples.

    Attributes:
        samples: how many there were.
        agreement: share of samples on which taught and personalised network name the same class.
        confidence_dense, confidence_personalized: mean probability of the named class, of the
            taught and of the personalised network.
        entropy_dense, entropy_personalized: their mean entropy in nats.
        distinctness, dominance: of the samples that were learnt from; see the functions.
        classes: how many the network knows.
        learnt: how far teaching moved the dense network's answers, 0 to 0.83.
        lost: how far pruning moved the taught network's answers, 0 to 0.83.
        score: estimated change of accuracy, as a share of the samples.
    """

    samples: int
    agreement: float
    confidence_dense: float
    confidence_personalized: float
    entropy_dense: float
    entropy_personalized: float
    distinctness: float
    dominance: float
    learnt: float
    lost: float
    score: float
    classes: int

    def to_dict(self) -> dict[str, float]:
        """The figures by name."""
        return asdict(self)

    def objection(self, least_change: float, least_agreement: float | None) -> str | None:
        """Why the outcome must not be used, in a sentence; None if it may.

        Args:
            least_change: the least estimated change of accuracy.
            least_agreement: judge by agreement alone; None judges by the estimate.
        """
        if least_agreement is not None:
            return self._disagreement(least_agreement)
        return (
            too_uniform(self.distinctness, self.classes)
            or too_dominated(self.dominance)
            or self._loss(least_change)
        )

    def _loss(self, least: float) -> str | None:
        if self.score >= least:
            return None
        return (
            f"by estimate the share of this user's samples that the network gets right changes by "
            f"{self.score:+.1%} ({self.samples} held-out samples, limit {least:+.1%})."
        )

    def _disagreement(self, least: float) -> str | None:
        if self.agreement >= least:
            return None
        return (
            f"the personalised network agrees with the dense one on only {self.agreement:.0%} of "
            f"{self.samples} held-out samples (limit {least:.0%})."
        )


def distinctness(logits: NDArray[np.floating]) -> float:
    """How differently a network answers different samples, 0 to 1.

    Mutual information of sample and prediction, as a share of the logarithm of the number of
    classes: 0 where all answers are the same, 1 where every class is met as often and for certain.

    Args:
        logits: ``(samples, classes)``.
    """
    return information(logits) / float(np.log(max(logits.shape[1], 2)))


def least_distinctness(classes: int) -> float:
    """Below which a stream cannot be learnt from: what two classes that are told apart are worth.

    Of ten that is 30 % of the logarithm, and no more is asked of a network of fewer; of a thousand
    10 %, where noise reaches more: there it is 20 %, four classes.
    """
    two = float(np.log(2.0) / np.log(max(classes, 2)))
    return min(max(two, LEAST_DISTINCTNESS), _OF_A_SMALL_NETWORK)


def too_uniform(share: float, classes: int) -> str | None:
    """Why a stream of so little distinctness cannot be learnt from; None if it can."""
    least = least_distinctness(classes)
    if share >= least:
        return None
    return (
        "the samples are too much alike: the network's answers to them carry "
        f"{max(share, 0.0):.0%} of what it can tell apart (limit {least:.0%})."
    )


def dominance(logits: NDArray[np.floating]) -> float:
    """How far one class outweighs the others in a short stream, 0 to 1.

    The largest mean probability of a class, above an equal share: 0 where all classes are met
    alike, 1 where only one is. Where a dozen samples show something else they are enough to
    learn from, and it is 0 as well.

    Args:
        logits: ``(samples, classes)``.
    """
    fair = 1.0 / max(logits.shape[1], 2)
    largest = float(softmax(logits).mean(0).max())
    if len(logits) * (1.0 - largest) >= _ENOUGH_OTHERS:
        return 0.0
    return float(max(largest - fair, 0.0) / (1.0 - fair))


def too_dominated(share: float) -> str | None:
    """Why a stream of so much dominance cannot be learnt from; None if it can."""
    if share <= MOST_DOMINANCE:
        return None
    return (
        f"the samples are few and look like one class for the most part: by {share:.0%} of what "
        f"there is above an equal share (limit {MOST_DOMINANCE:.0%})."
    )


def estimated_change(learnt: float, lost: float) -> float:
    """Estimated change of accuracy from what teaching and pruning did to the answers."""
    return BASE + LEARNT * learnt - LOST * lost


def judge(
    dense: NDArray[np.floating],
    taught: NDArray[np.floating],
    personalized: NDArray[np.floating],
    stream: NDArray[np.floating],
) -> GuardReport:
    """Compare the logits of three networks on held-out samples, each ``(samples, classes)``.

    Args:
        dense: the network as trained.
        taught: the same with what was learnt of the user, all units kept.
        personalized: the outcome.
        stream: the dense network's logits on the samples that were learnt from.
    """
    learnt, lost = _distance(dense, taught), _distance(taught, personalized)
    return GuardReport(
        samples=len(dense),
        agreement=float((taught.argmax(1) == personalized.argmax(1)).mean()),
        confidence_dense=confidence(taught),
        confidence_personalized=confidence(personalized),
        entropy_dense=_entropy(taught),
        entropy_personalized=_entropy(personalized),
        distinctness=distinctness(stream),
        dominance=dominance(stream),
        learnt=learnt,
        lost=lost,
        score=estimated_change(learnt, lost),
        classes=dense.shape[1],
    )


def _entropy(logits: NDArray[np.floating]) -> float:
    logp = log_softmax(logits)
    return float(-(np.exp(logp) * logp).sum(1).mean())


def _distance(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Root of the mean Jensen-Shannon divergence, from 0 to √ln 2."""
    first, second = log_softmax(one), log_softmax(other)
    middle = np.logaddexp(first, second) - np.log(2.0)
    divergences = [(np.exp(p) * (p - middle)).sum(1) for p in (first, second)]
    return float(np.sqrt(max(float(np.mean(divergences)), 0.0)))
