"""What tests of personalisation share."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeprune.runtime._graph import Graph
from edgeprune.runtime._plan import groups_in_scope, keep_counts
from edgeprune.runtime._prune import PruneJob, best_units
from edgeprune.runtime._stream import Batches
from edgeprune.runtime.artifact import Artifact
from edgeprune.runtime.profile import Profile
from edgeprune.runtime.session import Session

QUICK: dict[str, Any] = {"threads": 1, "max_samples": 40, "allocation": "uniform"}

SEEDS = st.integers(0, 2**32 - 1)
FAST = settings(max_examples=30, deadline=None)
LOGITS = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.floats(-1e4, 1e4, width=32)
)


def outputs_of(artifact: Artifact, profile: Profile | None, samples: Any) -> np.ndarray:
    return Session(artifact, profile, threads=1).run(samples)


def random_job(
    graph: Graph, batches: Batches, *, share: float = 0.4, choose_here: bool = False
) -> PruneJob:
    """Take this share of every hidden group, at random, from the network as trained."""
    artifact, rng = graph.artifact, np.random.default_rng(0)
    groups = groups_in_scope(artifact, "hidden")
    keep = keep_counts(groups, share, 1)
    units = {group.name: group.units for group in groups}
    return PruneJob(
        graph,
        batches,
        dict(artifact.tensors) | dict(artifact.neutral_masks),
        keep,
        {name: best_units(rng.random(units[name]), count) for name, count in keep.items()},
        choose_here=choose_here,
        ridge=0.1,
        budget_bytes=10**9,
        threads=1,
    )
