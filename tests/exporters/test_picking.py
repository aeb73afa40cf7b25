"""Units that pick rows or count steps: an index or a length that was pruned is another one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeprune.exporters import export_onnx
from edgeprune.runtime._ort import make_session
from edgeprune.runtime.artifact import Artifact

from .onnx_nets import constant, model_of, tensor, value
from .rows import frozen

FLOATS = value("x", ["batch", 5])


def picker(*, axis: int) -> onnx.ModelProto:
    """Each unit of a layer, rounded, is the number of a row of a table.

    With the third unit pruned, the row that it picks is gone from the sum, and with its weights
    set to zero it would pick row 0: two different networks.
    """
    nodes = [
        helper.make_node("Gemm", ["x", "a.weight"], ["h"], name="a", transB=1),
        helper.make_node("Sigmoid", ["h"], ["s"]),
        helper.make_node("Mul", ["s", "rows"], ["t"]),
        helper.make_node("Cast", ["t"], ["row"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "row"], ["g"], name="pick", axis=axis),
        helper.make_node("ReduceMean", ["g", "axes"], ["m"], keepdims=0),
        helper.make_node("Gemm", ["m", "head.weight"], ["y"], name="head", transB=1),
    ]
    if axis == 1:  # (4, batch, 6): the table's rows come first
        nodes.insert(5, helper.make_node("Transpose", ["g"], ["u"], perm=[1, 2, 0]))
        nodes[6].input[0] = "u"
    constants = [
        tensor("a.weight", 6, 5),
        constant("rows", 8.99, np.float32),
        tensor("table", *((9, 4) if axis == 0 else (4, 9))),
        constant("axes", [1]),
        tensor("head.weight", 4, 4),
    ]
    return model_of(nodes, constants, inputs=[FLOATS])


@pytest.mark.parametrize("axis", [0, 1])
def test_units_that_pick_rows_are_frozen(tmp_path: Path, axis: int) -> None:
    report = export_onnx(picker(axis=axis), tmp_path / "net.onnx")
    assert frozen(report)["a"] == "Gather 'pick' looks rows up by it"
    assert "a" not in [group.name for group in report.info.prunable]


def test_pruning_would_have_picked_other_rows(tmp_path: Path) -> None:
    """What the freeze prevents: a row of zeros picks row 0 of the table, and is no absence."""
    model = picker(axis=0)
    x = np.random.default_rng(0).standard_normal((3, 5), np.float32)
    rows = make_session(with_output(model, "row")).run(["row"], {"x": x})[0]
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[2] = 0
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "a.weight"))
    masked = make_session(with_output(model, "row")).run(["row"], {"x": x})[0]
    assert masked[:, 2].tolist() == [4, 4, 4]  # sigmoid(0) of 8.99 rows
    assert (masked[:, 2] != rows[:, 2]).any()


def with_output(model: onnx.ModelProto, name: str) -> bytes:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(value(name, None, TensorProto.INT64))
    return bytes(copy.SerializeToString())


def test_columns_of_what_is_picked_are_units_all_the_same(tmp_path: Path) -> None:
    report = export_onnx(picker(axis=0), tmp_path / "net.onnx")
    (table,) = report.info.prunable
    assert (table.name, table.units) == ("pick", 4)
    mask = np.array([1, 0, 1, 1], np.float32)
    x = np.random.default_rng(0).standard_normal((3, 5), np.float32)
    whole, masked = (
        make_session(report.path, tensors).run(None, {"x": x})[0]
        for tensors in ({}, {table.mask: mask})
    )
    assert not np.allclose(whole, masked)


def counted(kind: str) -> onnx.ModelProto:
    """A recurrent layer whose lengths, one for each of three samples, are units of a layer."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    nodes = [
        helper.make_node("Gemm", ["first", "a.weight"], ["h"], name="a", transB=1),
        helper.make_node("Sigmoid", ["h"], ["s"]),
        helper.make_node("Mul", ["s", "most"], ["t"]),
        helper.make_node("Add", ["t", "one"], ["u"]),
        helper.make_node("Reshape", ["u", "three"], ["v"]),
        helper.make_node("Cast", ["v"], ["lengths"], to=TensorProto.INT32),
        helper.make_node(
            kind,
            ["sound", "w", "r", "", "lengths"],
            ["steps"],
            name="layer",
            hidden_size=6,
        ),
        helper.make_node("ReduceMean", ["steps", "axes"], ["m"], keepdims=0),
        helper.make_node("Gemm", ["m", "head.weight"], ["y"], name="head", transB=1),
    ]
    constants = [
        tensor("a.weight", 3, 5),
        constant("most", 6.99, np.float32),
        constant("one", 1, np.float32),
        constant("three", [3]),
        tensor("w", 1, gates * 6, 4),
        tensor("r", 1, gates * 6, 6),
        constant("axes", [0, 1]),
        tensor("head.weight", 4, 6),
    ]
    inputs = [value("first", [1, 5]), value("sound", [7, 3, 4])]
    return model_of(nodes, constants, inputs=inputs, outputs=[value("y", [3, 4])])


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_units_that_give_lengths_are_frozen(tmp_path: Path, kind: str) -> None:
    report = export_onnx(counted(kind), tmp_path / "net.onnx")
    assert frozen(report)["a"] == f"{kind} 'layer' takes it for lengths"
    assert Artifact.open(report.path).info.group_by_name["a"].frozen is not None
