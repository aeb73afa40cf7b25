"""Arrays in half precision, by ONNX Runtime: numpy's own conversion is twenty times slower.

What is kept between the layers of a network needs no more: a sample's activations are rounded by
1/2048 of their value at the most, far below what pruning does to them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ._ort import make_session, run

__all__ = ["halved", "widened"]

_LARGEST = 65504.0
_OPSET, _IR = 17, 8


def halved(value: NDArray[Any]) -> NDArray[Any]:
    """Float32 as float16, what is beyond its range at the end of it; anything else as it is."""
    return _cast(value, np.float32, True)


def widened(value: NDArray[Any]) -> NDArray[Any]:
    """Float16 as float32; anything else as it is."""
    return _cast(value, np.float16, False)


def _cast(value: NDArray[Any], kind: Any, to_half: bool) -> NDArray[Any]:
    if value.dtype != kind:
        return value
    return np.asarray(run(_caster(to_half), None, {"x": np.ascontiguousarray(value)})[0])


@cache
def _caster(to_half: bool) -> Any:
    single, half = TensorProto.FLOAT, TensorProto.FLOAT16
    limits = [
        helper.make_tensor(name, single, [], [value])
        for name, value in (("least", -_LARGEST), ("most", _LARGEST))
    ]
    nodes = (
        [
            helper.make_node("Clip", ["x", "least", "most"], ["within"]),
            helper.make_node("Cast", ["within"], ["y"], to=half),
        ]
        if to_half
        else [helper.make_node("Cast", ["x"], ["y"], to=single)]
    )
    graph = helper.make_graph(
        nodes,
        "cast",
        [helper.make_tensor_value_info("x", single if to_half else half, None)],
        [helper.make_tensor_value_info("y", half if to_half else single, None)],
        limits if to_half else [],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR
    )
    return make_session(model.SerializeToString(), threads=1, arena=False)
