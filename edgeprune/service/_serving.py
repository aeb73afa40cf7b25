"""What answers: a session, and what is added to its logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..runtime.prior import softmax
from ..runtime.session import Session

__all__ = ["Serving", "State"]

State = Literal["dense", "relaxed", "personalized"]


@dataclass(frozen=True, eq=False)
class Serving:
    """What answers at the moment; it is replaced as a whole and never changed.

    Attributes:
        session: the network.
        profile: the user.
        generation: of the profile; 0 is the network as trained.
        state: what `LiveResult.state` says.
        shift: added to the logits, float64 ``(classes,)``; None for nothing.
    """

    session: Session
    profile: str
    generation: int
    state: State
    shift: NDArray[np.float64] | None = None

    def logits(self, array: NDArray[np.float32]) -> NDArray[np.floating]:
        """The logits of one sample, ``(classes,)``, before `shift`."""
        outputs = self.session.run(array[None])[0]
        return self.session.artifact.info.logits(outputs)

    def probabilities(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Class probabilities, ``(classes,)``, with `shift`."""
        return softmax(logits if self.shift is None else logits + self.shift)
