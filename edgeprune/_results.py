"""What the front door hands back: small frozen records that know how to become JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ._prediction import Prediction
from .runtime.settings import Report

__all__ = ["Accuracy", "Evaluation", "Prediction", "ProfileReport", "Quartiles", "Rejected"]

Rejected = tuple[tuple[Path, str], ...]
"""Files that could not be used, each with the reason."""


def rejected_to_json(rejected: Sequence[tuple[Path, str]]) -> list[dict[str, str]]:
    """Paths and reasons as JSON holds them."""
    return [{"file": str(path), "reason": reason} for path, reason in rejected]


@dataclass(frozen=True, kw_only=True)
class ProfileReport(Report):
    """The runtime's report on a personalisation, and where its outcome was stored.

    Attributes:
        profile: the name it was saved under.
        generation: its number.
        path: its file.
        size_bytes: of that file.
        rejected: the files that could not be used.
    """

    profile: str
    generation: int
    path: Path
    size_bytes: int
    rejected: Rejected

    @classmethod
    def of(cls, report: Report, **stored: Any) -> ProfileReport:
        """Add to a report where the outcome was stored."""
        return cls(**{f.name: getattr(report, f.name) for f in fields(report)}, **stored)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        figures = super().to_dict()
        rejected = rejected_to_json(self.rejected)
        return {**figures, "path": str(self.path), "rejected": rejected}


@dataclass(frozen=True)
class Accuracy:
    """Share of right answers, each with its 95 % Wilson interval.

    ``top5`` is None where there are ten classes or fewer.
    """

    top1: float
    top1_interval: tuple[float, float]
    top5: float | None = None


@dataclass(frozen=True)
class Quartiles:
    """Median, first and third quartile."""

    median: float
    first: float
    third: float


def scores_to_json(
    fields: Mapping[str, Any], unknown: Iterable[tuple[str, int]], rejected: Rejected
) -> dict[str, Any]:
    """The fields of scores as plain JSON values, with the methods that the intervals come from."""
    return {
        **fields,
        "difference_method": "Agresti-Min paired 95 % interval",
        "accuracy_method": "Wilson 95 % interval",
        "unknown": dict(unknown),
        "rejected": rejected_to_json(rejected),
    }


@dataclass(frozen=True)
class Evaluation:
    """A network against labels: dense, and personalised where there is a profile.

    Attributes:
        samples: how many were scored; both networks saw the same.
        profile: the profile's name, None if only the dense network was scored.
        generation: the profile's generation.
        dense, personalized: their accuracies.
        difference: top-1 of the personalised network minus top-1 of the dense one.
        difference_interval: its 95 % interval, paired by sample (Agresti and Min 2005).
        agreement: share of samples on which both name the same class.
        latency_ratio: time of the personalised network over that of the dense one, one sample at
            a time, interleaved in this process.
        unknown: labels that the model does not know, and how many samples had them.
        unlabelled: samples without a label, left out.
        rejected: files that could not be used.
    """

    samples: int
    dense: Accuracy
    profile: str | None = None
    generation: int | None = None
    personalized: Accuracy | None = None
    difference: float | None = None
    difference_interval: tuple[float, float] | None = None
    agreement: float | None = None
    latency_ratio: Quartiles | None = None
    unknown: tuple[tuple[str, int], ...] = ()
    unlabelled: int = 0
    rejected: Rejected = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return scores_to_json(asdict(self), self.unknown, self.rejected)
