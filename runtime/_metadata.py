"""The metadata of an artifact as the strings of ``metadata_props`` (see docs/artifact.md)."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._model_info import (
    ChannelGroup,
    FloatArray,
    InputInfo,
    Member,
    ModelInfo,
    Operator,
    Reference,
)
from .errors import ArtifactError

__all__ = [
    "FORMAT_VERSION",
    "ONES",
    "PERSONALIZED_KEY",
    "decode_floats",
    "encode_floats",
    "read",
    "write",
]

FORMAT_VERSION = 2
ONES = "edgeprune.ones"
PERSONALIZED_KEY = "edgeprune.personalized"
COMPACTED_KEY = "edgeprune.compacted"
_PREFIX = "edgeprune."
_READABLE = frozenset(str(version) for version in range(1, FORMAT_VERSION + 1))
# What hostile or broken JSON can make Python's parser and our constructors raise.
_DAMAGE = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)


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


def read(metadata: Mapping[str, str], where: str) -> ModelInfo:
    """Read what `write` wrote, or an earlier version of it.

    Raises:
        ArtifactError: not an artifact, a newer format, or damaged metadata.
    """
    version = metadata.get(_PREFIX + "format")
    if COMPACTED_KEY in metadata:
        raise ArtifactError(
            f"{where} is a compacted network: a plain ONNX model, which any program can run, and "
            "no base for profiles. Open the model that it was made from."
        )
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
    members = [{"node": m.node, "op": m.op, "role": m.role, "axis": m.axis} for m in group.members]
    return {
        "name": group.name,
        "units": group.units,
        "kind": group.kind,
        "frozen": group.frozen,
        "members": members,
        "parameters": group.parameters,
        "macs": group.macs,
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
    keys += ["masked", "parameters", "macs"]
    result: dict[str, Any] = {key: getattr(operator, key) for key in keys}
    result |= {"reads": list(operator.reads), "writes": list(operator.writes)}
    result["write_index"] = operator.write_index and list(operator.write_index)
    reference = operator.reference
    result["reference"] = reference and {
        "source": reference.source,
        "mean": encode_floats(reference.mean),
        "std": encode_floats(reference.std),
    }
    return result


def write(info: ModelInfo) -> dict[str, str]:
    """The metadata of a model as strings."""
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
        "inputs": [
            {"name": item.name, "shape": list(item.shape), "dtype": item.dtype}
            for item in info.inputs
        ],
        "outputs": list(info.outputs),
        "prunable": {"parameters": info.prunable_parameters, "macs": info.prunable_macs},
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
    members = tuple(
        Member(m["node"], m["op"], m["role"], _optional_int(m.get("axis")))
        for m in value["members"]
    )
    return ChannelGroup(
        str(value["name"]),
        int(value["units"]),
        value["kind"],
        value["frozen"],
        members,
        int(value["parameters"]),
        int(value["macs"]),
    )


def _optional_int(value: Any) -> int | None:
    return None if value is None else int(value)


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
    listed = ("reads", "writes", "write_index", "reference")
    fields = {key: item for key, item in value.items() if key not in listed}
    index = value["write_index"]
    return Operator(
        **fields,
        reads=tuple(value["reads"]),
        writes=tuple(value["writes"]),
        write_index=None if index is None else tuple(int(place) for place in index),
        reference=_reference_from_json(value["reference"], int(value["out_channels"])),
    )


def _inputs_from_json(values: Any) -> tuple[InputInfo, ...]:
    return tuple(
        InputInfo(
            str(v["name"]), tuple(_optional_int(n) for n in v["shape"]), np.dtype(v["dtype"]).name
        )
        for v in values
    )


def _upgraded(metadata: Mapping[str, str]) -> Mapping[str, str]:
    """Metadata of format 1 in the words of format 2, which says more."""
    if metadata[_PREFIX + "format"] != "1":
        return metadata
    operators = json.loads(metadata[_PREFIX + "operators"])
    for operator in operators:
        writes = operator["writes"]
        operator |= {"writes": [] if writes is None else [str(writes)], "write_index": None}
    groups = json.loads(metadata[_PREFIX + "groups"])
    for group in groups:
        touching = [op for op in operators if group["name"] in (*op["reads"], *op["writes"])]
        group.update(_sums(touching))
    first, output = (json.loads(metadata[_PREFIX + key]) for key in ("input", "output"))
    newer = {
        "operators": operators,
        "groups": groups,
        "prunable": _sums([op for op in operators if op["reads"] or op["writes"]]),
        "inputs": [{"name": first["name"], "shape": first["shape"], "dtype": "float32"}],
        "outputs": [output["name"]],
    }
    return {**metadata, **{_PREFIX + key: json.dumps(value) for key, value in newer.items()}}


def _sums(operators: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Format 1 did not count what units carry: whole operators stand in for that."""
    return {what: sum(int(op[what]) for op in operators) for what in ("parameters", "macs")}


def _from_metadata(metadata: Mapping[str, str]) -> ModelInfo:
    metadata = _upgraded(metadata)

    def parsed(key: str) -> Any:
        return json.loads(metadata[_PREFIX + key])

    model_input, output, labels = parsed("input"), parsed("output"), parsed("labels")
    prunable, inputs, outputs = parsed("prunable"), parsed("inputs"), parsed("outputs")
    if not (inputs and outputs):
        raise ValueError("it has no inputs or no outputs")
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
        inputs=_inputs_from_json(inputs),
        outputs=tuple(str(name) for name in outputs),
        prunable_parameters=int(prunable["parameters"]),
        prunable_macs=int(prunable["macs"]),
    )
    _check_references(info)
    return info


def _check_references(info: ModelInfo) -> None:
    """Names must resolve, so that no later code has to ask."""
    units = {group.name: group.units for group in info.prunable} | {ONES: 1}
    for operator in info.operators:
        if not units.keys() >= set(operator.reads):
            raise ValueError(f"operator {operator.name} reads an unknown group")
        if not units.keys() >= set(operator.writes):
            raise ValueError(f"operator {operator.name} writes an unknown group")
        _check_write_index(operator, sum(units[name] for name in operator.writes))
    if info.head is not None and info.head not in info.operator_by_name:
        raise ValueError(f"the head {info.head!r} is no operator")
    first = info.inputs[0]
    if (first.name, first.shape) != (info.input_name, info.input_shape):
        raise ValueError("the first of the inputs is not the input")
    if info.outputs[0] != info.output_name:
        raise ValueError("the first of the outputs is not the output")


def _check_write_index(operator: Operator, units: int) -> None:
    index = operator.write_index
    if index is None:
        if operator.writes and units != operator.out_channels:
            raise ValueError(f"operator {operator.name} writes {units} units without an index")
    elif len(index) != operator.out_channels or not all(0 <= place < units for place in index):
        raise ValueError(f"operator {operator.name} has a wrong write_index")
