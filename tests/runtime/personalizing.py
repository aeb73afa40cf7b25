"""What tests of personalisation share."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeprune.runtime.artifact import Artifact
from edgeprune.runtime.profile import Profile
from edgeprune.runtime.session import Session

QUICK: dict[str, Any] = {"threads": 1, "max_samples": 40, "allocation": "uniform"}


def outputs_of(artifact: Artifact, profile: Profile | None, samples: Any) -> np.ndarray:
    return Session(artifact, profile, threads=1).run(samples)
