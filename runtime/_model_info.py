"""What the metadata of an artifact says (see docs/artifact.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

__all__ = [
    "RECURRENT",
    "ChannelGroup",
    "InputInfo",
    "Member",
    "ModelInfo",
    "Operator",
    "Reference",
]

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Member:
    """One ONNX node that stands in a channel group, and what it does there.

    ``axis`` is where the units stand: of a producer and a consumer the axis of its weight, of all
    else the axis of what it writes; None where format 1 does not say.
    """

    node: str
    op: str
    role: Literal["producer", "channelwise", "consumer"]
    axis: int | None = None


@dataclass(frozen=True)
class ChannelGroup:
    """Tensor axes that are pruned together, unit by unit.

    ``parameters`` and ``macs`` are what would go with all of its units.
    """

    name: str
    units: int
    kind: Literal["hidden", "linear", "residual", "heads", "recurrent"]
    frozen: str | None
    members: tuple[Member, ...] = ()
    parameters: int = 0
    macs: int = 0

    @property
    def mask(self) -> str:
        """Name of the mask tensor, shape ``(units,)``."""
        return f"{self.name}.mask"


@dataclass(frozen=True)
class Reference:
    """Mean and standard deviation of an operator's output, per channel, over the training data."""

    source: Literal["batchnorm", "samples"]
    mean: FloatArray
    std: FloatArray


RECURRENT = frozenset(["LSTM", "GRU", "RNN"])
"""Operators with a hidden state: two weight tensors, and a mask over what they write as well."""


@dataclass(frozen=True)
class Operator:
    """A dense, grouped or recurrent operator whose effective weights a profile changes.

    ``reads`` are the groups of its input channels, one after the other, and ``writes`` those of
    its output channels, in whose concatenation `write_index` gives each channel its place; None
    where they stand in order. ``depthwise`` is true for every grouped convolution.
    """

    name: str
    op: str
    depthwise: bool
    input: str
    output: str
    in_channels: int
    out_channels: int
    in_axis: int | None
    out_axis: int
    reads: tuple[str, ...]
    masked: bool
    writes: tuple[str, ...]
    parameters: int
    macs: int
    reference: Reference | None = None
    write_index: tuple[int, ...] | None = None

    @property
    def recurrent(self) -> bool:
        """Whether it has a hidden state, and a `recurrence` beside its weight."""
        return self.op in RECURRENT

    @property
    def recurrence(self) -> str:
        """Name of the weight that a recurrent operator has for its hidden state."""
        return f"{self.name}.recurrence"

    @property
    def weight(self) -> str:
        """Name of the weight tensor."""
        return f"{self.name}.weight"

    @property
    def bias(self) -> str:
        """Name of the bias tensor, shape ``(out_channels,)``."""
        return f"{self.name}.bias"

    @property
    def gain(self) -> str:
        """Name of the gain tensor, shape ``(out_channels,)``."""
        return f"{self.name}.gain"

    @property
    def shift(self) -> str:
        """Name of the shift tensor, shape ``(out_channels,)``."""
        return f"{self.name}.shift"

    @property
    def mask_index(self) -> str:
        """Name of the index tensor, int64 ``(in_channels,)``, where there is one."""
        return f"{self.name}.mask_index"


@dataclass(frozen=True)
class InputInfo:
    """An input of the network: `None` in its shape is the batch, `dtype` is numpy's name."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class ModelInfo:
    """What the metadata of an artifact says.

    ``inputs`` and ``outputs`` are all of them, in order; ``input_name`` and ``output_name`` are
    the first. ``prunable_parameters`` and ``prunable_macs`` would go with all prunable units.
    """

    model_id: str
    source_sha256: str
    weights_sha256: str
    masks_sha256: str
    input_name: str
    input_shape: tuple[int | None, ...]
    output_name: str
    classes: int | None
    head: str | None
    output_kind: Literal["logits", "probabilities"]
    groups: tuple[ChannelGroup, ...]
    operators: tuple[Operator, ...]
    parameters: int
    macs: int
    preprocess: Mapping[str, Any] | None
    labels: tuple[str, ...] | None
    versions: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[InputInfo, ...] = ()
    outputs: tuple[str, ...] = ()
    prunable_parameters: int = 0
    prunable_macs: int = 0

    def __post_init__(self) -> None:
        if not self.inputs:
            one = InputInfo(self.input_name, self.input_shape)
            object.__setattr__(self, "inputs", (one,))
        if not self.outputs:
            object.__setattr__(self, "outputs", (self.output_name,))

    @property
    def single(self) -> bool:
        """Whether it has one input of floats and one output, as personalisation needs."""
        return len(self.outputs) == 1 and [item.dtype for item in self.inputs] == ["float32"]

    @property
    def classifier(self) -> bool:
        """Whether it is `single` and that output has a score for each of several classes."""
        return self.single and self.classes is not None and self.classes > 1

    def require_classifier(self, doing: str) -> None:
        """Refuse to do what is for a network of one input of floats and a score for each class.

        Raises:
            InputError: it has other inputs or outputs.
        """
        if self.classifier:
            return
        inputs = ", ".join(f"{item.name} ({item.dtype})" for item in self.inputs)
        scores = (
            "one score" if self.classes == 1 else "something else than one score for each class"
        )
        told = (
            f"its output {self.output_name} holds {scores}"
            if self.single
            else f"this one has the inputs {inputs} and the outputs {', '.join(self.outputs)}"
        )
        raise InputError(
            f"{doing} is for networks of one float32 input and one output with a score for each "
            f"of several classes; {told}. Run it with edgeprune.runtime.session.Session, or "
            "compact it; nothing was changed."
        )

    def logits(self, outputs: NDArray[np.floating]) -> NDArray[np.floating]:
        """The network's outputs as logits, whatever it ends with."""
        if self.output_kind == "logits":
            return outputs
        return np.asarray(np.log(np.maximum(outputs, np.float32(1e-30))))

    @cached_property
    def group_by_name(self) -> Mapping[str, ChannelGroup]:
        """Groups by name."""
        return {group.name: group for group in self.groups}

    @cached_property
    def operator_by_name(self) -> Mapping[str, Operator]:
        """Operators by name."""
        return {operator.name: operator for operator in self.operators}

    @property
    def prunable(self) -> tuple[ChannelGroup, ...]:
        """The groups that have a mask."""
        return tuple(group for group in self.groups if group.frozen is None)

    def to_metadata(self) -> dict[str, str]:
        """Write the metadata as the strings of ``metadata_props``."""
        from ._metadata import write

        return write(self)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], *, where: str = "model") -> ModelInfo:
        """Read ``metadata_props``.

        Raises:
            ArtifactError: not an artifact, a newer format, or damaged metadata.
        """
        from ._metadata import read

        return read(metadata, where)
