"""Effective weights, computed before a session is built.

ONNX Runtime folds the same expressions, node by node and with copies, every time that it builds a
session: half of the time that building takes. Masks and gains are mostly ones, and then the
effective weight is the mapped weight itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

__all__ = ["folded", "outside"]

Array = NDArray[Any]


def folded(
    nodes: Iterable[NodeProto], known: Mapping[str, Array]
) -> tuple[list[NodeProto], dict[str, Array]]:
    """Before: `nodes` in the order in which they run. After: those left, and what the others made.

    A node goes if it is one of the few operators that weight expressions are made of and all that
    it reads is known; the bits are those that ONNX Runtime would compute.
    """
    left, made = [], dict[str, Array]()
    for node in nodes:
        inputs = [made.get(name, known.get(name)) for name in node.input]
        compute = _OPERATORS.get(node.op_type)
        values = [value for value in inputs if value is not None]
        if compute is None or len(values) < len(inputs):
            left.append(node)
        else:
            made[node.output[0]] = compute(values, _axis(node))
    return left, made


def outside(name: str, value: Array) -> TensorProto:
    """An initializer whose values are handed over beside the model."""
    tensor = TensorProto(
        name=name,
        dims=value.shape,
        data_type=helper.np_dtype_to_tensor_dtype(value.dtype),
        data_location=TensorProto.EXTERNAL,
    )
    for key, text in (("location", "given"), ("offset", "0"), ("length", str(value.nbytes))):
        tensor.external_data.add(key=key, value=text)
    return tensor


def _axis(node: NodeProto) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "axis"), 0)


def _product(values: list[Array], _: int) -> Array:
    for one, other in (values, values[::-1]):
        if one.ndim == other.ndim and one.size <= other.size and (one == 1).all():
            return other
    return np.asarray(values[0] * values[1])


def _joined(values: list[Array], axis: int) -> Array:
    return np.concatenate(values, axis)


_OPERATORS: Mapping[str, Callable[[list[Array], int], Array]] = {
    "Add": lambda values, _: np.asarray(values[0] + values[1]),
    "Concat": _joined,
    "Gather": lambda values, axis: np.take(values[0], values[1], axis),
    "Mul": _product,
    "Reshape": lambda values, _: values[0].reshape(values[1].tolist()),
}
