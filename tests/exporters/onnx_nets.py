"""Small ONNX models, written by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

X_SHAPE = ["batch", 3, 8, 8]


def value(name: str, shape: Sequence[Any] | None, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def tensor(name: str, *shape: int, seed: int = 0) -> onnx.TensorProto:
    rng = np.random.default_rng([seed, *map(ord, name)])
    return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)


def constant(name: str, values: Any, dtype: Any = np.int64) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, dtype), name)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    constants: Sequence[onnx.TensorProto],
    *,
    inputs: Sequence[Any] = (value("x", X_SHAPE),),
    outputs: Sequence[Any] = (value("y", ["batch", 4]),),
    opset: int = 20,
    domains: dict[str, int] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "net", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(*item) for item in (domains or {}).items()]
    ir_version = max(4, helper.find_min_ir_version_for(opsets[:1]))
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def around(
    middle: Sequence[onnx.NodeProto] = (),
    constants: Sequence[onnx.TensorProto] = (),
    **options: Any,
) -> onnx.ModelProto:
    """Two convolutions and a linear head; `middle` makes ``m`` of ``r``, between them."""
    nodes = [
        helper.make_node("Conv", ["x", "a.weight", "a.bias"], ["c"], name="a"),
        helper.make_node("Relu", ["c"], ["r"]),
        *(middle or [helper.make_node("Identity", ["r"], ["m"])]),
        helper.make_node("Conv", ["m", "b.weight"], ["d"], name="b"),
        helper.make_node("Relu", ["d"], ["s"]),
        helper.make_node("GlobalAveragePool", ["s"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "head.weight", "head.bias"], ["y"], name="head"),
    ]
    own = [
        tensor("a.weight", 6, 3, 3, 3),
        tensor("a.bias", 6),
        tensor("b.weight", 5, 6, 1, 1),
        tensor("head.weight", 5, 4),
        tensor("head.bias", 4),
    ]
    return model_of(nodes, [*own, *constants], **options)


def save(model: onnx.ModelProto, path: Path, edit: Callable[[Any], None] | None = None) -> Path:
    """Write a model with all of its weights in ``weights.bin`` beside it; `edit` the tensors."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    onnx.save(copy, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    if edit is not None:
        copy = onnx.load(path, load_external_data=False)
        edit(copy.graph.initializer[0])
        path.write_bytes(copy.SerializeToString())
    return path


def point(tensor: onnx.TensorProto, **entries: str) -> None:
    """Say anew where an external tensor stands."""
    known = {entry.key: entry.value for entry in tensor.external_data} | entries
    del tensor.external_data[:]
    for key, text in known.items():
        tensor.external_data.add(key=key, value=text)
