"""Noticing that what is seen has changed, without labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DriftMonitor", "DriftReference", "fit_reference"]


@dataclass(frozen=True, eq=False)
class DriftReference:
    """What the network as trained said of the samples that were learnt from."""

    mean: float

    def to_dict(self) -> dict[str, Any]:
        return {"mean": self.mean}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> DriftReference:
        return cls(float(fields["mean"]))


def fit_reference(logits: NDArray[np.floating]) -> DriftReference:
    return DriftReference(float(logits.mean()))


class DriftMonitor:
    """Watches what the network as trained says, sample by sample."""

    def __init__(self, reference: DriftReference) -> None:
        self.reference = reference
        self.suspicious = False
        self.since = 0

    def update(self, logits: NDArray[np.floating]) -> bool:
        return False

    def status(self) -> dict[str, Any]:
        return {"suspicious": self.suspicious}

    def to_dict(self) -> dict[str, Any]:
        return {"reference": self.reference.to_dict()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> DriftMonitor:
        return cls(DriftReference.from_dict(fields["reference"]))
