"""One answer of a network. Apart from the other results: a first prediction is soon wanted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .runtime.artifact import ModelInfo

__all__ = ["Prediction", "class_name"]


@dataclass(frozen=True)
class Prediction:
    """What the network says about one sample.

    Attributes:
        label: the name of the class, or its index as text where the model names none.
        index: the number of the class.
        probability: what the network gives it, 0 to 1.
        top: the likeliest labels and their probabilities, best first.
        path: the file, or None for an array.
    """

    label: str
    index: int
    probability: float
    top: tuple[tuple[str, float], ...]
    path: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        top = [{"label": label, "probability": share} for label, share in self.top]
        return {
            "file": None if self.path is None else str(self.path),
            "label": self.label,
            "index": self.index,
            "probability": self.probability,
            "top": top,
        }


def class_name(info: ModelInfo, index: int) -> str:
    """The label of a class, or its number as text where the model names none."""
    return str(index) if info.labels is None else info.labels[index]
