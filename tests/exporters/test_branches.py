"""Branches and loops: inlined where they are decided, frozen where they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import edgeprune
from edgeprune.exporters import export_onnx

from .onnx_nets import around, constant, model_of, tensor, value
from .rows import frozen, invariant


def branch(name: str, op: str, source: str = "r", out: str = "") -> onnx.GraphProto:
    """A graph of one operator on a tensor of the graph around it."""
    out = out or f"{name}.out"
    node = helper.make_node(op, [source], [out], name=f"{name}.{op}")
    return helper.make_graph([node], name, [], [value(out, None)])


def an_if(condition: str, **attributes: Any) -> onnx.NodeProto:
    branches = {"then_branch": branch("yes", "Neg"), "else_branch": branch("no", "Abs")}
    return helper.make_node("If", [condition], ["m"], name="if", **branches | attributes)


@pytest.mark.parametrize(("condition", "left"), [(True, "Neg"), (False, "Abs")])
def test_a_branch_that_is_always_taken_is_inlined(
    tmp_path: Path, condition: bool, left: str
) -> None:
    model = around([an_if("condition")], [constant("condition", condition, np.bool_)])
    report = export_onnx(model, tmp_path / "net.onnx")
    operators = {node.op_type for node in onnx.load(report.path).graph.node}
    assert left in operators
    assert "If" not in operators
    assert [group.name for group in report.info.prunable] == ["a", "b"]
    assert invariant(report.path)


def test_a_branch_that_depends_on_sizes_is_inlined(tmp_path: Path) -> None:
    """As torch writes `squeeze`: is this axis of size one?"""
    middle = [
        helper.make_node("Shape", ["r"], ["shape"], start=1, end=2),
        helper.make_node("Equal", ["shape", "one"], ["same"]),
        an_if("same"),
    ]
    report = export_onnx(around(middle, [constant("one", [1])]), tmp_path / "net.onnx")
    assert "Abs" in {node.op_type for node in onnx.load(report.path).graph.node}
    assert [group.name for group in report.info.prunable] == ["a", "b"]


def test_branches_within_branches(tmp_path: Path) -> None:
    """An If inside, an inner constant, two outputs."""
    nodes = [
        helper.make_node("Conv", ["r", "inner.weight"], ["i"], name="inner"),
        helper.make_node("Equal", ["zero", "zero"], ["always"]),
        helper.make_node(
            "If",
            ["always"],
            ["deep"],
            then_branch=branch("yes2", "Relu", "i", "out2"),
            else_branch=branch("no2", "Abs", "i", "out3"),
        ),
        helper.make_node("Identity", ["deep"], ["out0"]),
        helper.make_node("Neg", ["i"], ["out1"]),
    ]
    weight = tensor("inner.weight", 6, 6, 1, 1)
    then = helper.make_graph(
        nodes, "then", [], [value("out0", None), value("out1", None)], [weight]
    )
    otherwise = helper.make_graph(
        [helper.make_node("Split", ["r"], ["out4", "out5"], num_outputs=2)],
        "else",
        [],
        [value("out4", None), value("out5", None)],
    )
    constants = [constant("condition", True, np.bool_), constant("zero", 0)]
    middle = [
        helper.make_node("If", ["condition"], ["u", "v"], then_branch=then, else_branch=otherwise),
        helper.make_node("Add", ["u", "v"], ["m"]),
    ]
    report = export_onnx(around(middle, constants), tmp_path / "net.onnx")
    assert [group.name for group in report.info.prunable] == ["a", "inner", "b"]
    assert invariant(report.path)


def test_a_branch_that_depends_on_values_freezes_what_it_captures(tmp_path: Path) -> None:
    middle = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        an_if("positive"),
    ]
    model = around(middle, [constant("zero", 0, np.float32)])
    report = export_onnx(model, tmp_path / "net.onnx")
    assert frozen(report)["a"] == "If 'if' holds a sub-graph, which is not looked into"
    assert [group.name for group in report.info.prunable] == ["b"]


def captured_weight() -> onnx.ModelProto:
    """A branch reads a weight of the graph around it, and what a convolution there makes."""
    middle = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("Conv", ["r", "inner.weight"], ["q"], name="inner"),
        an_if(
            "positive",
            then_branch=branch("yes", "Neg", "q"),
            else_branch=helper.make_graph(
                [helper.make_node("Conv", ["q", "inner.weight"], ["out"])],
                *("else", [], [value("out", None)]),
            ),
        ),
    ]
    weights = [tensor("inner.weight", 6, 6, 1, 1), constant("zero", 0, np.float32)]
    return around(middle, weights)


def test_a_branch_that_captures_a_weight_is_compacted(tmp_path: Path) -> None:
    report = export_onnx(captured_weight(), tmp_path / "net.onnx")
    assert [group.name for group in report.info.prunable] == ["a", "b"]
    assert edgeprune.verify(report.path, masks=4).ok


@pytest.mark.parametrize("strength", ["light", "deep"])
def test_a_network_with_a_branch_is_personalised(tmp_path: Path, strength: Any) -> None:
    """Cut into pieces, the network still finds what a branch captures of an earlier one."""
    path = export_onnx(captured_weight(), tmp_path / "net.onnx").path
    samples = np.random.default_rng(0).standard_normal((30, 3, 8, 8), np.float32)
    settings = edgeprune.Settings(
        sparsity=0.5, strength=strength, channel_multiple=1, min_agreement=0.0
    )
    report = edgeprune.personalize(path, list(samples), settings=settings, store=tmp_path / "store")
    assert report.sparsity.hidden_units == pytest.approx(0.5, abs=0.1)


def test_what_a_branch_captures_through_an_identity_is_found(tmp_path: Path) -> None:
    middle = [
        helper.make_node("Identity", ["r"], ["same"]),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        an_if("positive", then_branch=branch("yes", "Neg", "same")),
    ]
    model = around(middle, [constant("zero", 0, np.float32)])
    assert "a" in frozen(export_onnx(model, tmp_path / "net.onnx"))


def test_a_loop_freezes_what_it_captures(tmp_path: Path) -> None:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still"]),
            helper.make_node("Add", ["carried", "r"], ["sum"]),
        ],
        "body",
        [
            value("i", [], TensorProto.INT64),
            value("going", [], TensorProto.BOOL),
            value("carried", None),
        ],
        [value("still", [], TensorProto.BOOL), value("sum", None)],
    )
    middle = [helper.make_node("Loop", ["three", "", "r"], ["m"], name="loop", body=body)]
    report = export_onnx(around(middle, [constant("three", 3)]), tmp_path / "net.onnx")
    assert frozen(report)["a"] == "Loop 'loop' holds a sub-graph, which is not looked into"


# --- outputs whose sizes nobody can tell --------------------------------------------------------


def undecided(*, other: str) -> onnx.ModelProto:
    """A network whose output comes out of an If that depends on values."""
    nodes = [
        helper.make_node("Conv", ["x", "a.weight"], ["c"], name="a"),
        helper.make_node("Relu", ["c"], ["h"]),
        helper.make_node("Conv", ["h", "b.weight"], ["r"], name="b"),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        an_if("positive", else_branch=branch("no", other)),
    ]
    nodes[-1].output[0] = "y"
    constants = [tensor("a.weight", 6, 3, 3, 3), tensor("b.weight", 4, 6, 1, 1)]
    return model_of(
        nodes,
        [*constants, constant("zero", 0, np.float32)],
        outputs=[value("y", ["batch", None, None, None])],
    )


@pytest.mark.parametrize(("other", "sizes"), [("Abs", [4, 6, 6]), ("Flatten", [0, 0, 0])])
def test_an_output_of_unknown_size_keeps_its_type(
    tmp_path: Path, other: str, sizes: list[int]
) -> None:
    """The checker wants the type of an output, and how many sizes there are, if not which."""
    report = export_onnx(undecided(other=other), tmp_path / "net.onnx")
    onnx.checker.check_model(report.path, full_check=True)
    declared = onnx.load(report.path).graph.output[0].type.tensor_type
    assert declared.elem_type == TensorProto.FLOAT
    assert [dim.dim_value for dim in declared.shape.dim] == [0, *sizes]
    assert [group.name for group in report.info.prunable] == ["a"]
    verdict = edgeprune.verify(report.path, masks=3)  # what it compacts is checked as strictly
    assert verdict.failures == ()
