"""Sizes that a model leaves free, computes from values, or fixes; inputs that become constants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeprune.exporters import export_onnx
from edgeprune.runtime._ort import make_session
from edgeprune.runtime.errors import ExportError

from .onnx_nets import around, constant, model_of, tensor, value
from .rows import frozen


def test_sizes_that_depend_on_values_freeze(tmp_path: Path) -> None:
    """Channels are picked by what is not zero: two runs that agree prove nothing."""
    nodes = [
        helper.make_node("Conv", ["x", "a.weight"], ["c"], name="a"),
        helper.make_node("ReduceMean", ["c", "axes"], ["mean"], keepdims=0),
        helper.make_node("NonZero", ["mean"], ["found"]),
        helper.make_node("Squeeze", ["found"], ["places"]),
        helper.make_node("Gather", ["c", "places"], ["g"], axis=1),
        helper.make_node("Conv", ["g", "b.weight"], ["d"], name="b"),
        helper.make_node("GlobalAveragePool", ["d"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    constants = [
        tensor("a.weight", 6, 3, 3, 3),
        tensor("b.weight", 4, 6, 1, 1),
        constant("axes", [0, 2, 3]),
    ]
    report = export_onnx(model_of(nodes, constants), tmp_path / "net.onnx")
    assert report.info.prunable == ()
    assert "a" in frozen(report)


def test_a_shape_that_is_computed_from_values_is_not_taken_for_fixed(tmp_path: Path) -> None:
    middle = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Mul", ["whole", "zero"], ["nothing"]),
        helper.make_node("Add", ["shape", "nothing"], ["target"]),
        helper.make_node("Reshape", ["r", "target"], ["m"], name="reshape"),
    ]
    constants = [constant("zero", 0), constant("shape", [-1, 6, 6, 6])]
    report = export_onnx(around(middle, constants), tmp_path / "net.onnx")
    assert frozen(report)["a"] == "Reshape 'reshape' has no known shape"


FREE = {"inputs": [value("x", ["batch", 3, "height", None])], "outputs": [value("y", ["batch", 4])]}


def test_free_sizes_are_told_and_can_be_fixed(tmp_path: Path) -> None:
    model = around(**FREE)
    with pytest.raises(ExportError, match=r"'x' has no fixed size.*--size height=N --size x:3=N"):
        export_onnx(model, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []
    info = export_onnx(model, tmp_path / "net.onnx", sizes={"height": 8, "x:3": 9}).info
    assert info.input_shape == (None, 3, 8, 9)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"width": 8}, "no free size 'width'; free are: batch, height, x:3"),
        ({"x:1": 8}, "no free size 'x:1'"),
        ({"height": 0}, "height=0 is not positive"),
        ({"height": 1, "x:3": 1}, "fails on inputs|refuses the network"),
    ],
)
def test_sizes_that_do_not_fit(tmp_path: Path, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        export_onnx(around(**FREE), tmp_path / "net.onnx", sizes=sizes)
    assert list(tmp_path.iterdir()) == []


def two_inputs(batch: str | None = "batch") -> onnx.ModelProto:
    """``y`` of a picture and a vector beside it, which is scaled."""
    nodes = [
        helper.make_node("Gemm", ["x", "a.weight"], ["h"], name="a"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Mul", ["z", "scale"], ["w"]),
        helper.make_node("Concat", ["r", "w"], ["j"], axis=1),
        helper.make_node("Gemm", ["j", "head.weight"], ["y"], name="head"),
    ]
    inputs = [value("x", ["batch", 5]), value("z", [batch, 2]), value("scale", [])]
    weights = [tensor("a.weight", 5, 6), tensor("head.weight", 8, 4)]
    return model_of(nodes, weights, inputs=inputs)


@pytest.mark.parametrize("batch", ["batch", None, "n"])
def test_the_batch_of_other_inputs(tmp_path: Path, batch: str | None) -> None:
    sizes: Any = {"n": "batch"} if batch == "n" else {}
    report = export_onnx(two_inputs(batch), tmp_path / "net.onnx", sizes=sizes)
    shapes = {item.name: item.shape for item in report.info.inputs}
    assert shapes == {"x": (None, 5), "z": (None, 2), "scale": ()}


def test_a_free_size_of_another_name_has_to_be_told(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"--size n=N \(or n=batch\)"):
        export_onnx(two_inputs("n"), tmp_path / "net.onnx")


def test_a_size_that_is_not_the_batch_although_it_has_no_name(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "a.weight"], ["h"], name="a"),
        helper.make_node("Gemm", ["h", "z"], ["y"], name="b"),
    ]
    inputs = [value("x", ["batch", 5]), value("z", [None, 2])]
    outputs = [value("y", ["batch", 2])]
    model = model_of(nodes, [tensor("a.weight", 5, 6)], inputs=inputs, outputs=outputs)
    with pytest.raises(ExportError, match=r"Taken for the batch: z:0\. If .*--size z:0=N\.$"):
        export_onnx(model, tmp_path / "net.onnx")
    report = export_onnx(model, tmp_path / "net.onnx", sizes={"z:0": 6})
    assert [item.shape for item in report.info.inputs] == [(None, 5), (6, 2)]


def test_an_input_becomes_a_constant(tmp_path: Path) -> None:
    model = two_inputs()
    report = export_onnx(model, tmp_path / "net.onnx", constants={"scale": 2})
    assert [item.name for item in report.info.inputs] == ["x", "z"]
    feeds = {"x": np.ones((2, 5), np.float32), "z": np.ones((2, 2), np.float32)}
    expected = make_session(model.SerializeToString()).run(
        None, {**feeds, "scale": np.array(2, np.float32)}
    )[0]
    got = make_session(report.path).run(None, feeds)[0]
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert len(model.graph.input) == 3  # the caller's model is as it was


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"rate": 1}, "no input 'rate'; its inputs are x, z, scale"),
        ({"scale": "loud"}, "'loud' for the input 'scale' is no float32"),
        ({"scale": [1, 2]}, r"does not have the shape \(\)"),
        ({"scale": 1e300}, "cannot be a float32"),
        ({"z": 1}, r"cannot fill it while its sizes are free"),
        ({"x": [[1] * 5], "z": [[1] * 2], "scale": 1}, "no input or no output"),
    ],
)
def test_constants_that_do_not_fit(tmp_path: Path, constants: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message), np.errstate(over="ignore"):
        export_onnx(two_inputs(), tmp_path / "net.onnx", constants=constants)
    assert list(tmp_path.iterdir()) == []


def test_a_value_for_a_whole_input(tmp_path: Path) -> None:
    constants = {"scale": 1, "z": [[1, 2]]}
    nodes = around().graph.node
    assert nodes
    model = two_inputs()
    model.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 1
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    report = export_onnx(model, tmp_path / "net.onnx", constants=constants)
    assert report.info.input_shape == (1, 5)  # one sample of z, so one of x


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_becomes_free_where_the_network_allows_it(tmp_path: Path, batch: int) -> None:
    inputs, outputs = [value("x", [batch, 3, 8, 8])], [value("y", [batch, 4])]
    report = export_onnx(around(inputs=inputs, outputs=outputs), tmp_path / "net.onnx")
    assert report.info.input_shape == (None, 3, 8, 8)
    x = np.zeros((7, 3, 8, 8), np.float32)
    assert make_session(report.path).run(None, {"x": x})[0].shape == (7, 4)


@pytest.mark.parametrize("shape", [[1, 6, 6, 6], [1, -1, 6, 6]])
def test_a_fixed_batch_stays_where_the_network_is_made_for_it(
    tmp_path: Path, shape: list[int]
) -> None:
    """The second shape would run with any batch, and lay all samples side by side."""
    nodes = [
        helper.make_node("Conv", ["x", "a.weight"], ["c"], name="a"),
        helper.make_node("Reshape", ["c", "shape"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    inputs, outputs = [value("x", [1, 3, 8, 8])], [value("y", [1, 6, 6, 6])]
    constants = [tensor("a.weight", 6, 3, 3, 3), constant("shape", shape)]
    model = model_of(nodes, constants, inputs=inputs, outputs=outputs)
    report = export_onnx(model, tmp_path / "net.onnx")
    assert report.info.input_shape == (1, 3, 8, 8)


# --- shapes that are not stated -----------------------------------------------------------------


def test_an_output_that_does_not_say_its_shape(tmp_path: Path) -> None:
    """ONNX demands it, and ONNX Runtime runs the model all the same."""
    model = around(outputs=[value("y", None)])
    report = export_onnx(model, tmp_path / "net.onnx")
    assert report.info.classes == 4
    onnx.checker.check_model(report.path, full_check=True)


def test_an_output_whose_shape_nobody_knows(tmp_path: Path) -> None:
    middle = [helper.make_node("Reshape", ["r", "target"], ["m"])]
    inputs = [value("x", ["batch", 3, 8, 8]), value("target", ["rank"], TensorProto.INT64)]
    model = around(middle, inputs=inputs, outputs=[value("m", None)])
    with pytest.raises(ExportError, match=r"the output 'm' does not say how many axes it has"):
        export_onnx(model, tmp_path / "net.onnx")


def test_an_input_that_does_not_say_its_shape(tmp_path: Path) -> None:
    model = around(inputs=[value("x", None)])
    with pytest.raises(ExportError, match=r"the input 'x' does not say .*State its shape"):
        export_onnx(model, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []
