"""Which networks are refused for the types that they compute with."""

from __future__ import annotations

import onnx
from onnx import TensorProto

from ..runtime.errors import ExportError
from ._protos import all_nodes, all_tensors

__all__ = ["check_types"]

_ADVICE = "edgeprune exports float32 networks: export it before that. Nothing was written."
_NAMES = {number: str(name) for name, number in TensorProto.DataType.items()}
_SMALL = ("FLOAT16", "BFLOAT16", "FLOAT8", "FLOAT6", "FLOAT4", "INT4", "UINT4", "INT2", "UINT2")
_QUANTISED = ("QLinear", "QAttention", "QGemm", "QMoE", "MatMulNBits", "MatMulBnb")


def check_types(model: onnx.ModelProto) -> None:
    """Refuse networks of half or quantised precision, and inputs that are no numbers.

    Raises:
        ExportError: it is one of those.
    """
    for item in model.graph.input:
        kind = _name(item.type.tensor_type.elem_type)
        if kind in ("UNDEFINED", "STRING"):
            raise ExportError(f"the input {item.name!r} is {kind.lower()}, no number.")
        if kind.startswith(_SMALL):
            raise ExportError(f"the input {item.name!r} is {kind.lower()}. {_ADVICE}")
    for tensor in all_tensors(model):
        kind, name = _name(tensor.data_type), tensor.name or "a constant"
        if kind == "UNDEFINED":
            raise ExportError(f"the model is invalid: {name} is of no known type.")
        if kind.startswith(_SMALL):
            raise ExportError(f"{name} is {kind.lower()}. {_ADVICE}")
    for node in all_nodes(model):
        name = node.op_type
        if "Quantize" in name or name.startswith(_QUANTISED) or name.endswith("Integer"):
            raise ExportError(f"the network is quantised: it has a {name}. {_ADVICE}")


def _name(elem_type: int) -> str:
    return _NAMES.get(elem_type, "UNDEFINED")
