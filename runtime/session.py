"""Running an artifact: with a profile or without, the same speed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ._ort import make_session, run
from .artifact import Artifact
from .errors import InputError
from .prior import softmax

if TYPE_CHECKING:
    from .profile import Profile

__all__ = ["Session", "default_threads"]

_MOST_THREADS = 4


def default_threads() -> int:
    """Threads that this process may use, at most four: what small boards have."""
    if hasattr(os, "sched_getaffinity"):
        return min(_MOST_THREADS, len(os.sched_getaffinity(0)))
    return min(_MOST_THREADS, os.cpu_count() or 1)


class Session:
    """An artifact ready to run on the CPU.

    Args:
        artifact: the exported model.
        profile: the user's profile; None runs the dense network.
        threads: threads that one operator may use; None takes `default_threads`.

    Raises:
        ArtifactError: ONNX Runtime cannot load the model.
    """

    def __init__(
        self, artifact: Artifact, profile: Profile | None = None, *, threads: int | None = None
    ) -> None:
        self.artifact = artifact
        self.profile = profile
        tensors = dict(artifact.tensors) | dict(artifact.neutral_masks)
        if profile is not None:
            tensors |= profile.tensors(artifact)
        self._session = make_session(artifact.graph, tensors, threads=threads or default_threads())

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network.

        Args:
            batch: preprocessed samples, float32 ``(batch, …)`` as the artifact's input says.

        Returns:
            The network's output, float32 ``(batch, classes)``: logits or probabilities, as
            ``artifact.info.output_kind`` says.

        Raises:
            InputError: the shape or type does not fit, or values are not finite.
        """
        self._check(batch)
        info = self.artifact.info
        outputs = run(self._session, [info.output_name], {info.input_name: batch})
        return np.asarray(outputs[0], np.float32)

    def probabilities(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """As `run`, but always class probabilities, float32 ``(batch, classes)``."""
        outputs = self.run(batch)
        if self.artifact.info.output_kind == "probabilities":
            return outputs
        return softmax(outputs).astype(np.float32)

    def _check(self, batch: NDArray[np.float32]) -> None:
        expected = self.artifact.info.input_shape
        fits = batch.ndim == len(expected) and all(
            want is None or want == have for want, have in zip(expected, batch.shape, strict=True)
        )
        if not fits:
            raise InputError(
                f"the input has shape {batch.shape}; this model takes {expected} (None is the "
                "batch). Check the preprocessing."
            )
        if batch.dtype != np.float32:
            raise InputError(f"the input is {batch.dtype}; this model takes float32.")
        if not np.isfinite(batch).all():
            raise InputError("the input holds NaN or infinite values.")
