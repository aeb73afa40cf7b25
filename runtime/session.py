"""Running an artifact: with a profile or without, the same speed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._ort import make_session, run
from .artifact import Artifact, InputInfo, ModelInfo
from .errors import InputError
from .prior import softmax

if TYPE_CHECKING:
    from .profile import Profile

__all__ = ["Inputs", "Session", "default_threads"]

Inputs = NDArray[Any] | Mapping[str, NDArray[Any]]
"""A batch for a model of one input; for one of several, a batch for each by name."""

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

    def run(self, inputs: Inputs) -> NDArray[Any]:
        """Run the network and take its first output, which is the only one of most networks.

        Args:
            inputs: preprocessed samples ``(batch, …)`` as ``artifact.info.inputs`` says; for a
                network of several inputs all of them, by name.

        Returns:
            The output, for a classifier float32 ``(batch, classes)``: logits or probabilities, as
            ``artifact.info.output_kind`` says.

        Raises:
            InputError: an input is missing or unknown, its shape or type does not fit, the batches
                are not of one size, or values are not finite.
        """
        return self._run(inputs, [self.artifact.info.output_name])[0]

    def run_all(self, inputs: Inputs) -> dict[str, NDArray[Any]]:
        """As `run`, but every output of the network, by name."""
        names = self.artifact.info.outputs
        return dict(zip(names, self._run(inputs, names), strict=True))

    def _run(self, inputs: Inputs, outputs: Sequence[str]) -> list[NDArray[Any]]:
        feeds = _checked(self.artifact.info, inputs)
        return [np.asarray(output) for output in run(self._session, list(outputs), feeds)]

    def probabilities(self, inputs: Inputs) -> NDArray[np.float32]:
        """As `run`, but always class probabilities, float32 ``(batch, classes)``."""
        outputs = np.asarray(self.run(inputs), np.float32)
        if self.artifact.info.output_kind == "probabilities":
            return outputs
        return softmax(outputs).astype(np.float32)


def _checked(info: ModelInfo, inputs: Inputs) -> dict[str, NDArray[Any]]:
    """The inputs by name, every one of them as the model says."""
    known = [item.name for item in info.inputs]
    if not isinstance(inputs, Mapping):
        if len(known) > 1:
            raise InputError(
                f"this model has several inputs; give all by name: {', '.join(known)}."
            )
        inputs = {known[0]: inputs}
    if set(inputs) != set(known):
        raise InputError(
            f"the inputs given are {', '.join(inputs) or 'none'}; this model takes "
            f"{', '.join(known)}."
        )
    for item in info.inputs:
        _check(item, inputs[item.name])
    batches = {
        size
        for item in info.inputs
        for want, size in zip(item.shape, inputs[item.name].shape, strict=True)
        if want is None
    }
    if len(batches) > 1:
        raise InputError(f"the inputs are batches of different sizes: {sorted(batches)}.")
    return dict(inputs)


def _check(item: InputInfo, values: NDArray[Any]) -> None:
    fits = values.ndim == len(item.shape) and all(
        want is None or want == have for want, have in zip(item.shape, values.shape, strict=True)
    )
    if not fits:
        raise InputError(
            f"the input {item.name!r} has shape {values.shape}; this model takes {item.shape} "
            "(None is the batch). Check the preprocessing."
        )
    if values.dtype != np.dtype(item.dtype):
        raise InputError(
            f"the input {item.name!r} is {values.dtype}; this model takes {item.dtype}."
        )
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"the input {item.name!r} holds NaN or infinite values.")
