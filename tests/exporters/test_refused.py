"""Operators that are not understood: each of them that has weights is told, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import edgeprune
from edgeprune.exporters import export_onnx

from .onnx_nets import around, constant, model_of, tensor, value
from .rows import frozen


def first(node: onnx.NodeProto, *constants: onnx.TensorProto) -> onnx.ModelProto:
    """A network that begins with an operator: nothing before it could be frozen by it."""
    nodes = [
        node,
        helper.make_node("Conv", ["n", "b.weight"], ["c"], name="b"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "head.weight"], ["y"], name="head"),
    ]
    own = [tensor("b.weight", 5, 3, 1, 1), tensor("head.weight", 5, 4)]
    return model_of(nodes, [*constants, *own])


def stack() -> tuple[onnx.NodeProto, onnx.TensorProto]:
    return helper.make_node("MatMul", ["x", "w"], ["n"], name="stack"), tensor("w", 3, 8, 8)


def computed() -> tuple[onnx.NodeProto, Any]:
    node = helper.make_node("Einsum", ["x", "w"], ["n"], name="odd", equation="bchw,chw->bchw")
    return node, tensor("w", 3, 8, 8)


@pytest.mark.parametrize(
    ("case", "told"),
    [
        (stack, "MatMul 'stack' multiplies by a constant that is no matrix"),
        (computed, "Einsum 'odd' is not understood channel by channel"),
    ],
)
def test_an_operator_that_keeps_its_weights(tmp_path: Path, case: Any, told: str) -> None:
    node, weight = case()
    report = export_onnx(first(node, weight), tmp_path / "net.onnx")
    assert frozen(report)[node.name] == told
    group = report.info.group_by_name[node.name]
    assert (group.parameters, group.macs) == (0, 0)
    assert [(m.node, m.role) for m in group.members] == [(node.name, "producer")]
    assert "b" in {group.name for group in report.info.prunable}
    assert edgeprune.verify(report.path, masks=4).ok


def test_weights_within_a_branch(tmp_path: Path) -> None:
    def branch(name: str, op: str) -> onnx.GraphProto:
        nodes = [
            helper.make_node("Conv", ["x", f"{name}.weight"], [f"{name}.c"]),
            helper.make_node(op, [f"{name}.c"], [f"{name}.out"]),
        ]
        weight = tensor(f"{name}.weight", 3, 3, 1, 1)
        return helper.make_graph(nodes, name, [], [value(f"{name}.out", None)], [weight])

    node = helper.make_node(
        *("If", ["positive"], ["n"]),
        name="if",
        then_branch=branch("yes", "Neg"),
        else_branch=branch("no", "Abs"),
    )
    model = first(node, constant("zero", 0, np.float32))
    for place, step in enumerate(
        (
            helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
            helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        )
    ):
        model.graph.node.insert(place, step)
    report = export_onnx(model, tmp_path / "net.onnx")
    assert frozen(report)["if"] == "If 'if' holds a sub-graph, which is not looked into"
    assert "b" in {group.name for group in report.info.prunable}


def test_what_has_no_weights_is_not_told_of(tmp_path: Path) -> None:
    middle = [helper.make_node("CumSum", ["r", "axis"], ["m"], name="sum")]
    report = export_onnx(around(middle, [constant("axis", 1)]), tmp_path / "net.onnx")
    assert set(frozen(report)) == {"a", "head"}
