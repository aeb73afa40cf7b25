"""The artifact: an immutable model with explicit mask tensors (see docs/artifact.md)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ._external import FloatArray, map_tensors
from .errors import ArtifactError

__all__ = [
    "FORMAT_VERSION",
    "PERSONALIZED_KEY",
    "Artifact",
    "ChannelGroup",
    "Member",
    "ModelInfo",
    "Operator",
    "Reference",
    "decode_floats",
    "encode_floats",
]

FORMAT_VERSION = 1
ONES = "edgeprune.ones"
_PREFIX = "edgeprune."
_READABLE = frozenset(str(version) for version in range(1, FORMAT_VERSION + 1))
# What hostile or broken JSON can make Python's parser and our constructors raise.
_DAMAGE = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)
PERSONALIZED_KEY = "edgeprune.personalized"


def encode_floats(values: NDArray[Any]) -> str:
    """Write an array as base64 of little-endian float32."""
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode("ascii")


def decode_floats(text: str) -> FloatArray:
    """Read what `encode_floats` wrote, as a float32 vector; ValueError if it is damaged."""
    try:
        raw = base64.b64decode(text, validate=True)
        return np.frombuffer(raw, dtype="<f4").astype(np.float32)
    except (binascii.Error, TypeError) as error:
        raise ValueError(f"not base64 of float32 values: {error}") from error


@dataclass(frozen=True)
class Member:
    """One ONNX node that stands in a channel group, and what it does there."""

    node: str
    op: str
    role: Literal["producer", "channelwise", "consumer"]


@dataclass(frozen=True)
class ChannelGroup:
    """Tensor axes that are pruned together, unit by unit."""

    name: str
    units: int
    kind: Literal["hidden", "linear", "residual"]
    frozen: str | None
    members: tuple[Member, ...] = ()

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


@dataclass(frozen=True)
class Operator:
    """A dense or depthwise operator whose effective weights the tensors of a profile change."""

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
    writes: str | None
    parameters: int
    macs: int
    reference: Reference | None = None

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
class ModelInfo:
    """What the metadata of an artifact says."""

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
        return _to_metadata(self)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], *, where: str = "model") -> ModelInfo:
        """Read ``metadata_props``.

        Raises:
            ArtifactError: not an artifact, a newer format, or damaged metadata.
        """
        version = metadata.get(_PREFIX + "format")
        if version is None:
            raise ArtifactError(
                f"{where} is an ONNX model but not an edgeprune artifact (it has no edgeprune "
                "metadata). Make one with `edgeprune export`."
            )
        if version not in _READABLE:
            raise ArtifactError(
                f"{where} has artifact format {version!r}; this edgeprune reads up to "
                f"{FORMAT_VERSION}. Upgrade edgeprune, or export the model again."
            )
        if PERSONALIZED_KEY in metadata:
            raise ArtifactError(
                f"{where} is a copy with a profile written into it, for programs without "
                "edgeprune; it is no base for profiles. Open the model that it was made from."
            )
        try:
            return _from_metadata(metadata)
        except _DAMAGE as error:
            raise ArtifactError(
                f"{where} has damaged edgeprune metadata ({type(error).__name__}: {error}). "
                "Export the model again."
            ) from error


def _group_to_json(group: ChannelGroup) -> dict[str, Any]:
    members = [{"node": m.node, "op": m.op, "role": m.role} for m in group.members]
    return {
        "name": group.name,
        "units": group.units,
        "kind": group.kind,
        "frozen": group.frozen,
        "members": members,
    }


def _operator_to_json(operator: Operator) -> dict[str, Any]:
    keys = [
        "name",
        "op",
        "depthwise",
        "input",
        "output",
        "in_channels",
        "out_channels",
        "in_axis",
        "out_axis",
    ]
    keys += ["masked", "writes", "parameters", "macs"]
    result: dict[str, Any] = {key: getattr(operator, key) for key in keys}
    result["reads"] = list(operator.reads)
    reference = operator.reference
    result["reference"] = reference and {
        "source": reference.source,
        "mean": encode_floats(reference.mean),
        "std": encode_floats(reference.std),
    }
    return result


def _to_metadata(info: ModelInfo) -> dict[str, str]:
    values: dict[str, Any] = {
        "input": {"name": info.input_name, "shape": list(info.input_shape)},
        "output": {
            "name": info.output_name,
            "classes": info.classes,
            "head": info.head,
            "kind": info.output_kind,
        },
        "groups": [_group_to_json(group) for group in info.groups],
        "operators": [_operator_to_json(operator) for operator in info.operators],
        "parameters": info.parameters,
        "macs": info.macs,
        "preprocess": info.preprocess and dict(info.preprocess),
        "labels": info.labels and list(info.labels),
        "versions": dict(info.versions),
    }
    texts = {key: json.dumps(value, separators=(",", ":")) for key, value in values.items()}
    texts |= {
        "format": str(FORMAT_VERSION),
        "model_id": info.model_id,
        "source_sha256": info.source_sha256,
        "weights_sha256": info.weights_sha256,
        "masks_sha256": info.masks_sha256,
    }
    return {_PREFIX + key: text for key, text in texts.items()}


def _group_from_json(value: Mapping[str, Any]) -> ChannelGroup:
    members = tuple(Member(m["node"], m["op"], m["role"]) for m in value["members"])
    return ChannelGroup(
        str(value["name"]), int(value["units"]), value["kind"], value["frozen"], members
    )


def _reference_from_json(value: Mapping[str, Any] | None, channels: int) -> Reference | None:
    if value is None:
        return None
    reference = Reference(
        value["source"], decode_floats(value["mean"]), decode_floats(value["std"])
    )
    if reference.mean.shape != (channels,) or reference.std.shape != (channels,):
        raise ValueError("reference statistics have the wrong length")
    return reference


def _operator_from_json(value: Mapping[str, Any]) -> Operator:
    fields = {key: item for key, item in value.items() if key not in ("reads", "reference")}
    return Operator(
        **fields,
        reads=tuple(value["reads"]),
        reference=_reference_from_json(value["reference"], int(value["out_channels"])),
    )


def _from_metadata(metadata: Mapping[str, str]) -> ModelInfo:
    def parsed(key: str) -> Any:
        return json.loads(metadata[_PREFIX + key])

    model_input, output, labels = parsed("input"), parsed("output"), parsed("labels")
    info = ModelInfo(
        model_id=metadata[_PREFIX + "model_id"],
        source_sha256=metadata[_PREFIX + "source_sha256"],
        weights_sha256=metadata[_PREFIX + "weights_sha256"],
        masks_sha256=metadata[_PREFIX + "masks_sha256"],
        input_name=str(model_input["name"]),
        input_shape=tuple(model_input["shape"]),
        output_name=str(output["name"]),
        classes=output["classes"],
        head=output["head"],
        output_kind=output["kind"],
        groups=tuple(_group_from_json(group) for group in parsed("groups")),
        operators=tuple(_operator_from_json(operator) for operator in parsed("operators")),
        parameters=int(parsed("parameters")),
        macs=int(parsed("macs")),
        preprocess=parsed("preprocess"),
        labels=None if labels is None else tuple(labels),
        versions=parsed("versions"),
    )
    _check_references(info)
    return info


def _check_references(info: ModelInfo) -> None:
    """Names must resolve, so that no later code has to ask."""
    prunable = {group.name for group in info.prunable} | {ONES}
    for operator in info.operators:
        if not prunable.issuperset(operator.reads):
            raise ValueError(f"operator {operator.name} reads an unknown group")
        if operator.writes is not None and operator.writes not in prunable:
            raise ValueError(f"operator {operator.name} writes an unknown group")
    if info.head is not None and info.head not in info.operator_by_name:
        raise ValueError(f"the head {info.head!r} is no operator")


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
        graph = _read_graph(path)
        artifact = cls(
            path, graph, ModelInfo.from_metadata(_metadata(graph, path), where=str(path))
        )
        artifact.tensors  # noqa: B018 - maps and checks the companions now, not at first use
        return artifact

    @cached_property
    def model(self) -> Any:
        """The parsed ``onnx.ModelProto``, without external data. Do not change it: copy it."""
        import onnx

        return onnx.load_from_string(self.graph)

    @cached_property
    def tensors(self) -> Mapping[str, FloatArray]:
        """Every external tensor as exported or as written beside the model, read-only float32."""
        return map_tensors(self.path, self.model)

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
        import onnx

        for tensor in self.model.graph.initializer:
            if tensor.name == operator.mask_index:
                return np.asarray(onnx.numpy_helper.to_array(tensor), np.int64)
        return np.arange(operator.in_channels, dtype=np.int64)

    def verify_weights(self) -> None:
        """Check the weights file against the hash taken at export.

        Raises:
            ArtifactError: it was changed or damaged.
        """
        with self.path.with_suffix(".weights").open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != self.info.weights_sha256:
            raise ArtifactError(
                f"{self.path.with_suffix('.weights')} is not the file that was exported with "
                f"{self.path.name}: its contents changed. Export the model again or restore it."
            )


def _read_graph(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"cannot read the model {path}: {error.strerror or error}. Check the path."
        ) from error


def _metadata(graph: bytes, path: Path) -> dict[str, str]:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_from_string(graph)
    except DecodeError as error:
        raise ArtifactError(
            f"{path} is not an ONNX model: it cannot be parsed. Give the .onnx file that "
            "`edgeprune export` wrote."
        ) from error
    if not model.graph.node:
        raise ArtifactError(f"{path} is not an ONNX model: it holds no graph.")
    return {prop.key: prop.value for prop in model.metadata_props}
