"""The artifact: an immutable model with explicit mask tensors (see docs/artifact.md)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._external import FloatArray, map_tensors
from ._metadata import FORMAT_VERSION, ONES, PERSONALIZED_KEY, decode_floats, encode_floats
from ._model_info import (
    RECURRENT,
    ChannelGroup,
    InputInfo,
    Member,
    ModelInfo,
    Operator,
    Reference,
)
from ._wire import Tensor, WireModel, read_model
from .errors import ArtifactError

__all__ = [
    "FORMAT_VERSION",
    "ONES",
    "PERSONALIZED_KEY",
    "RECURRENT",
    "Artifact",
    "ChannelGroup",
    "InputInfo",
    "Member",
    "ModelInfo",
    "Operator",
    "Reference",
    "decode_floats",
    "encode_floats",
    "parse_graph",
    "read_graph",
]


class Artifact:
    """An exported model on disk: ``NAME.onnx`` with ``NAME.weights`` and ``NAME.masks`` beside it.

    Opening reads the graph and maps the tensors; it starts no ONNX Runtime session.
    """

    def __init__(self, path: Path, graph: bytes, info: ModelInfo) -> None:
        self.path = path
        self.info = info
        self.graph = graph

    @classmethod
    def open(cls, path: str | Path) -> Artifact:
        """Open ``NAME.onnx`` and check it and its two companions.

        Raises:
            ArtifactError: the file is missing, no ONNX model, no artifact, or its companions are
                missing or of the wrong size.
        """
        path = Path(path)
        graph = read_graph(path)
        read = parse_graph(graph, path)
        artifact = cls(path, graph, ModelInfo.from_metadata(read.metadata, where=str(path)))
        artifact._initializers = read.initializers
        artifact.tensors  # noqa: B018 - maps and checks the companions now, not at first use
        return artifact

    @cached_property
    def model(self) -> Any:
        """The parsed ``onnx.ModelProto``, without external data. Do not change it: copy it.

        Raises:
            ArtifactError: it is damaged where opening it does not look.
        """
        import onnx
        from google.protobuf.message import DecodeError

        try:
            return onnx.load_from_string(self.graph)
        except DecodeError as error:
            raise ArtifactError(f"{self.path} is damaged. Export the model again.") from error

    @cached_property
    def tensors(self) -> Mapping[str, FloatArray]:
        """Every external tensor as exported or as written beside the model, read-only float32."""
        return map_tensors(self.path, self._initializers)

    @cached_property
    def _initializers(self) -> tuple[Tensor, ...]:
        return parse_graph(self.graph, self.path).initializers

    @cached_property
    def _inner(self) -> Mapping[str, Tensor]:
        """The tensors inside the graph by name."""
        return {tensor.name: tensor for tensor in self._initializers if not tensor.external}

    @cached_property
    def neutral_masks(self) -> Mapping[str, FloatArray]:
        """The neutral value of every mask, gain and shift, whatever the masks file holds now."""
        neutral: dict[str, FloatArray] = {}
        for group in self.info.prunable:
            neutral[group.mask] = np.ones(group.units, np.float32)
        for operator in self.info.operators:
            neutral[operator.gain] = np.ones(operator.out_channels, np.float32)
            neutral[operator.shift] = np.zeros(operator.out_channels, np.float32)
        return neutral

    def mask_index(self, operator: Operator) -> NDArray[np.int64]:
        """For each input channel of `operator`, its place in the concatenation of `reads`."""
        tensor = self._inner.get(operator.mask_index)
        if tensor is None:
            return np.arange(operator.in_channels, dtype=np.int64)
        return np.array(tensor.integers or np.frombuffer(tensor.raw, "<i8"), np.int64)

    def verify_weights(self) -> None:
        """Check the weights file against the hash taken at export.

        Raises:
            ArtifactError: it was changed or damaged.
        """
        import hashlib

        with self.path.with_suffix(".weights").open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != self.info.weights_sha256:
            raise ArtifactError(
                f"{self.path.with_suffix('.weights')} is not the file that was exported with "
                f"{self.path.name}: its contents changed. Export the model again or restore it."
            )


def read_graph(path: Path) -> bytes:
    """The bytes of a model; ArtifactError where there are none."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"cannot read the model {path}: {error.strerror or error}. Check the path."
        ) from error


def parse_graph(graph: bytes, path: Path) -> WireModel:
    """What of a model is needed to open it; ArtifactError if it is none."""
    try:
        model = read_model(graph)
    except ValueError as error:
        raise ArtifactError(
            f"{path} is not an ONNX model: it cannot be parsed. Give the .onnx file that "
            "`edgeprune export` wrote."
        ) from error
    if not model.has_nodes:
        raise ArtifactError(f"{path} is not an ONNX model: it holds no graph.")
    return model
