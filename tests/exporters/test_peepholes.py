"""LSTMs whose gates look at the cell, and states that are learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import edgeprune
from edgeprune.exporters import export_onnx

from .onnx_nets import constant, model_of, tensor, value
from .rows import frozen, invariant

HIDDEN, READ = 6, 5


def network(direction: str = "forward", **options: Any) -> onnx.ModelProto:
    """A layer, an LSTM with peepholes, and a linear head on its last state."""
    d = 2 if direction == "bidirectional" else 1
    inputs = ["h", "W", "R", "B", "", "", "", "P"]
    attributes = {"hidden_size": HIDDEN, "direction": direction, **options}
    nodes = [
        helper.make_node("MatMul", ["x", "first.weight"], ["f"], name="first"),
        helper.make_node("Relu", ["f"], ["g"]),
        helper.make_node("Transpose", ["g"], ["h"], perm=[1, 0, 2]),
        helper.make_node("LSTM", inputs, ["", "last"], name="lstm", **attributes),
        helper.make_node("Transpose", ["last"], ["turned"], perm=[1, 0, 2]),
        helper.make_node("Reshape", ["turned", "flat"], ["z"]),
        helper.make_node("Gemm", ["z", "head.weight"], ["y"], name="head"),
    ]
    constants = [
        tensor("first.weight", 4, READ),
        *(tensor("W", d, 4 * HIDDEN, READ), tensor("R", d, 4 * HIDDEN, HIDDEN)),
        *(tensor("B", d, 8 * HIDDEN), tensor("P", d, 3 * HIDDEN)),
        *(constant("flat", [-1, d * HIDDEN]), tensor("head.weight", d * HIDDEN, 4)),
    ]
    return model_of(nodes, constants, inputs=[value("x", ["batch", 7, 4])])


@pytest.mark.parametrize(
    ("direction", "options"),
    [("forward", {}), ("reverse", {}), ("bidirectional", {}), ("forward", {"input_forget": 1})],
)
def test_each_unit_looks_at_its_own_cell(
    tmp_path: Path, direction: str, options: dict[str, Any]
) -> None:
    model = network(direction, **options)
    report = export_onnx(model, tmp_path / "net.onnx")
    assert [g.name for g in report.info.prunable] == ["first", "lstm"]
    assert report.info.group_by_name["lstm"].units == HIDDEN
    x = np.random.default_rng(0).standard_normal((2, 7, 4), np.float32)
    assert invariant(report.path, {"x": x})
    assert edgeprune.verify(report.path, masks=6).ok


def test_peepholes_are_parameters_that_can_go(tmp_path: Path) -> None:
    info = export_onnx(network(), tmp_path / "net.onnx").info
    # Those of the head's answers, a bias for each, stay.
    assert info.parameters - info.prunable_parameters == 4
    lstm = 4 * HIDDEN * (READ + HIDDEN) + 8 * HIDDEN + 3 * HIDDEN
    assert info.parameters == (4 * READ + READ) + lstm + (HIDDEN * 4 + 4)


def test_peepholes_that_are_computed_are_told(tmp_path: Path) -> None:
    model = network()
    model.graph.node[3].input[7] = "peepholes"
    steps = [
        helper.make_node("ReduceMax", ["x"], ["max"], keepdims=0),
        helper.make_node("Mul", ["P", "max"], ["peepholes"]),
    ]
    for place, step in enumerate(steps):
        model.graph.node.insert(place, step)
    report = export_onnx(model, tmp_path / "net.onnx")
    assert frozen(report)["lstm"] == "LSTM 'lstm' has weights that are computed"
