"""Whether rounding down harms: it removes units that the network uses, and nothing is repaired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._probe import sample_feeds
from .runtime._ort import make_session, run
from .runtime.answers import AnswerChange, answer_change
from .runtime.artifact import Artifact
from .runtime.compact import CompactReport, Masks, tensors_in_force
from .runtime.errors import GuardRefused
from .runtime.profile import Profile

__all__ = ["RoundingJudge", "units_removed"]

_MOST_EXPECTED_LOSS = 0.01  # as for int8


@dataclass
class RoundingJudge:
    """Compares a network that was rounded down with the one that was asked for.

    Called before anything is written. `units` counts what was removed beyond the masks asked for,
    `change` says what that did to the answers: `None` without samples, or where there are no
    classes to compare.
    """

    artifact: Artifact
    profile: Profile | None
    masks: Masks | None
    samples: Sequence[NDArray[Any]] | None
    units: int = field(default=0, init=False)
    change: AnswerChange | None = field(default=None, init=False)

    def __call__(self, report: CompactReport, model: bytes) -> None:
        """Judge the outcome.

        Raises:
            GuardRefused: more than one percent of the answers are expected to be lost.
        """
        asked = {**({} if self.profile is None else self.profile.masks), **(self.masks or {})}
        self.units = units_removed(asked, report)
        info = self.artifact.info
        if not self.units or not self.samples or not info.single or info.classes is None:
            return
        tensors = tensors_in_force(self.artifact, self.profile, asked)
        wanted, got = self._answers(self.artifact.graph, tensors), self._answers(model)
        self.change = answer_change(wanted, got, logits=info.output_kind == "logits")
        if self.change.expected_loss > _MOST_EXPECTED_LOSS:
            raise GuardRefused(
                f"rounding down to multiples of {report.channel_multiple} would remove "
                f"{self.units} units that the network is using: {self.change.sentence} (limit "
                f"{_MOST_EXPECTED_LOSS:.0%}). Nothing was written. Round up, or personalise with "
                "this channel multiple, which repairs what it removes."
            )

    def _answers(
        self, model: bytes, tensors: Mapping[str, NDArray[Any]] | None = None
    ) -> NDArray[np.float64]:
        """Outputs ``(samples, classes)``."""
        session = make_session(model, tensors)
        feeds = sample_feeds(self.artifact.info, self.samples or ())
        return np.concatenate([np.asarray(run(session, None, one)[0], np.float64) for one in feeds])


def units_removed(asked: Masks, report: CompactReport) -> int:
    """Units that the masks in force remove and those that were asked for do not."""
    return sum(
        int(np.count_nonzero(~mask & asked.get(name, np.ones(len(mask), np.bool_))))
        for name, mask in report.masks.items()
    )
