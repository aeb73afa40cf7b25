"""Constant matrices that stand where PyTorch's layers do not put them."""

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
from .rows import frozen, invariant


def turned(rank: int, shape: tuple[int, ...], *extra: onnx.NodeProto) -> onnx.ModelProto:
    """``W @ r`` between two convolutions; `r` has its six channels on the last axis but one."""
    wanted = {3: [0, 6, 64], 4: [0, 1, 6, 64]}[rank]
    middle = [
        helper.make_node("Reshape", ["r", "wanted"], ["flat"]),
        helper.make_node("MatMul", ["w", "flat"], ["product"], name="left"),
        *extra,
        helper.make_node("Relu", [extra[-1].output[0] if extra else "product"], ["h"]),
        helper.make_node("Reshape", ["h", "back"], ["m"]),
    ]
    constants = [tensor("w", *shape), constant("wanted", wanted), constant("back", [0, 6, 8, 8])]
    return around(middle, constants, inputs=[value("x", ["batch", 3, 10, 10])])


@pytest.mark.parametrize(("rank", "shape"), [(3, (6, 6)), (3, (1, 6, 6)), (4, (6, 6))])
def test_a_matrix_on_the_left_is_a_layer(tmp_path: Path, rank: int, shape: Any) -> None:
    report = export_onnx(turned(rank, shape), tmp_path / "net.onnx")
    assert [group.name for group in report.info.prunable] == ["a", "left", "b"]
    assert report.info.prunable_parameters == report.info.parameters - 4  # all but its answers'
    x = np.random.default_rng(0).standard_normal((2, 3, 10, 10), np.float32)
    assert invariant(report.path, {"x": x})
    assert edgeprune.verify(report.path, masks=6).ok


def test_what_is_added_to_each_row_becomes_its_bias(tmp_path: Path) -> None:
    add = helper.make_node("Add", ["product", "offset"], ["moved"], name="add")
    model = turned(3, (6, 6), add)
    model.graph.initializer.append(tensor("offset", 6, 1))
    report = export_onnx(model, tmp_path / "net.onnx")
    assert "Add" not in {n.op_type for n in onnx.load(report.path).graph.node if n.name == "add"}
    assert edgeprune.verify(report.path, masks=4).ok


def test_a_matrix_that_mixes_positions_from_the_left(tmp_path: Path) -> None:
    """The mixer's layer over tokens: (batch, tokens, channels) by matrices of tokens."""
    nodes = [
        helper.make_node("MatMul", ["up", "x"], ["u"], name="up"),
        helper.make_node("Relu", ["u"], ["h"]),
        helper.make_node("MatMul", ["down", "h"], ["d"], name="down"),
        helper.make_node("ReduceMean", ["d", "axes"], ["f"], keepdims=0),
        helper.make_node("Gemm", ["f", "head.weight"], ["y"], name="head"),
    ]
    constants = [tensor("up", 9, 5), tensor("down", 5, 9), tensor("head.weight", 7, 4)]
    model = model_of(nodes, [*constants, constant("axes", [1])], inputs=[value("x", [None, 5, 7])])
    report = export_onnx(model, tmp_path / "net.onnx")
    assert report.info.group_by_name["up"].units == 9
    assert "down" in frozen(report)  # its mean over the tokens makes one unit of all
    assert edgeprune.verify(report.path, source=_function(model), masks=6).ok


def _function(model: onnx.ModelProto) -> Any:
    from edgeprune.runtime._ort import make_session

    session = make_session(model.SerializeToString())
    return lambda feeds: session.run(None, dict(feeds))


def test_a_matrix_on_the_right_with_axes_of_size_one(tmp_path: Path) -> None:
    middle = [
        helper.make_node("Transpose", ["r"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["last", "w"], ["product"], name="right"),
        helper.make_node("Relu", ["product"], ["h"]),
        helper.make_node("Transpose", ["h"], ["m"], perm=[0, 3, 1, 2]),
    ]
    report = export_onnx(around(middle, [tensor("w", 1, 6, 6)]), tmp_path / "net.onnx")
    assert [group.name for group in report.info.prunable] == ["a", "right", "b"]
    assert edgeprune.verify(report.path, masks=4).ok
