"""Operator sets: older ones are converted, what ONNX Runtime lacks is named."""

from __future__ import annotations

import onnx

from ..runtime.errors import ExportError
from ._group_norms import without_old_group_norms
from ._protos import all_nodes, first_line

__all__ = ["OLDEST_OPSET", "check_valid", "foreign_operators", "modern", "standard_opset"]

OLDEST_OPSET = 17
"""The first that has LayerNormalization as one operator; all that follow are read as they are."""

_STANDARD = ("", "ai.onnx")


def standard_opset(model: onnx.ModelProto) -> int:
    """Version of the standard operators that a model uses.

    Raises:
        ExportError: it uses none, or some of the future.
    """
    version = next((int(i.version) for i in model.opset_import if i.domain in _STANDARD), None)
    if version is None:
        raise ExportError("the model uses no standard ONNX operators; nothing was written.")
    newest = onnx.defs.onnx_opset_version()
    if version > newest:
        raise ExportError(
            f"the model uses operator set {version}; the installed onnx knows them up to {newest}. "
            "Install a newer onnx and onnxruntime. Nothing was written."
        )
    return version


def modern(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in `OLDEST_OPSET` or newer, and without operators that ONNX took back.

    Raises:
        ExportError: it cannot be converted.
    """
    version = standard_opset(model)
    if version >= OLDEST_OPSET:
        return without_old_group_norms(model, version)
    from onnx import version_converter

    try:
        converted = version_converter.convert_version(model, OLDEST_OPSET)
        check_valid(converted)
    except Exception as error:  # the converter's errors are RuntimeErrors from C++
        raise ExportError(
            f"the model uses operator set {version}, and cannot be converted to {OLDEST_OPSET}: "
            f"{first_line(error)}. Export it again from its source with operator set "
            f"{OLDEST_OPSET} or newer. Nothing was written."
        ) from error
    return converted


def check_valid(model: onnx.ModelProto) -> None:
    """Refuse what ONNX's own checker refuses, GroupNormalization 18 apart, which we can replace.

    Raises:
        ExportError: the model is invalid.
    """
    try:
        onnx.checker.check_model(without_old_group_norms(model, standard_opset(model)))
    except Exception as error:  # ValidationError, and what protobuf raises for broken messages
        raise ExportError(
            f"the model is invalid: {first_line(error)}. Nothing was written."
        ) from error


def foreign_operators(model: onnx.ModelProto) -> list[str]:
    """Operators that are neither standard nor functions of the model, each with its domain."""
    own = {(function.domain, function.name) for function in model.functions}
    found = {
        f"{node.domain}.{node.op_type}"
        for node in all_nodes(model)
        if node.domain not in _STANDARD and (node.domain, node.op_type) not in own
    }
    return sorted(found)
