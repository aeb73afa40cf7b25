"""What one personalisation carries from step to step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ._external import FloatArray
from ._graph import Graph
from ._plan import groups_in_scope, keep_counts, unit_steps
from ._stream import Batches
from ._targets import SiteMoments, Targets
from .allocation import DamageCurve
from .artifact import Artifact
from .costs import DEFAULT_RATES, Rates
from .prior import LEAST_SHARE
from .session import default_threads
from .settings import Settings
from .sparse import Harm
from .teach import HeadUpdate

__all__ = ["Classes", "OnProgress", "State"]

OnProgress = Callable[[str, float], None]


@dataclass(frozen=True)
class Classes:
    """What was learnt about the user's classes: the prior, and an update of the teacher's head.

    ``bias`` is what the stream adds to all logits alike: see `domain_bias`. ``floor`` is the share
    that a class not met keeps, relative to a fair one: see `share_of_the_unseen`.
    """

    prior: NDArray[np.float64]
    bias: NDArray[np.float64]
    head: HeadUpdate | None
    floor: float = LEAST_SHARE


@dataclass
class State:
    """What one personalisation carries from step to step."""

    artifact: Artifact
    graph: Graph
    settings: Settings
    adapt: Batches
    held_out: Batches
    on_progress: OnProgress
    teacher: dict[str, FloatArray]
    normalization: float = 0.0
    normalized: dict[str, FloatArray] = field(default_factory=dict)
    targets: Targets | None = None
    curve_moments: SiteMoments | None = None
    curves: Mapping[str, DamageCurve] | None = None
    harm: Mapping[str, Harm] | None = None
    stream: NDArray[np.floating] = field(default_factory=lambda: np.empty(0, np.float32))
    scores: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    classes: Classes | None = None
    dense_on_held_out: NDArray[np.floating] = field(default_factory=lambda: np.empty(0, np.float32))
    rates: Rates = DEFAULT_RATES

    def __post_init__(self) -> None:
        self.threads = self.settings.threads or default_threads()
        self.budget_bytes = self.settings.memory_mb * 1_000_000
        self.may_lose = self._groups_that_may_lose()

    def _groups_that_may_lose(self) -> set[str]:
        """Groups that lose units at one of the sparsities that are tried."""
        if self.settings.granularity == "weight":
            return set()
        groups = groups_in_scope(self.artifact, self.settings.scope)
        most = max(self.settings.sparsities)
        return set(
            keep_counts(groups, most, unit_steps(self.artifact, self.settings.channel_multiple))
        )

    def counter(self, step: str, total: int) -> Callable[[int], None]:
        """A callback that counts towards `total` and reports the share of `step` that is done."""
        done = 0

        def count(more: int = 1) -> None:
            nonlocal done
            done += more
            self.on_progress(step, min(done / max(total, 1), 1.0))

        return count

    def logits(self, outputs: FloatArray) -> NDArray[np.floating]:
        """The network's outputs as logits, whatever it ends with."""
        return self.artifact.info.logits(outputs)
