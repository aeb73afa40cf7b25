"""Reading models that somebody else made: broken graphs, tensors in files, sizes, types."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeprune.exporters import _source, export, export_onnx
from edgeprune.runtime.errors import ExportError

from .onnx_nets import around, constant, model_of, point, save, tensor, value


def assert_refused(source: Any, folder: Path) -> str:
    """What is said; nothing may be written."""
    before = sorted(folder.iterdir())
    with pytest.raises(ExportError) as caught:
        export_onnx(source, folder / "out.onnx")
    assert sorted(folder.iterdir()) == before
    return str(caught.value)


# --- graphs that are none -----------------------------------------------------------------------


def unsorted_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def test_nodes_in_any_order(tmp_path: Path) -> None:
    info = export_onnx(unsorted_nodes(around()), tmp_path / "out.onnx").info
    assert [group.name for group in info.prunable] == ["a", "b"]


def cyclic() -> onnx.ModelProto:
    return around(
        [helper.make_node("Add", ["r", "q"], ["m"]), helper.make_node("Neg", ["m"], ["q"])]
    )


def without_weight() -> onnx.ModelProto:
    model = around()
    del model.graph.initializer[0]
    return model


def written_twice() -> onnx.ModelProto:
    model = around()
    model.graph.node[3].output[0] = "c"
    return model


def weight_twice() -> onnx.ModelProto:
    model = around()
    model.graph.initializer.append(tensor("a.weight", 6, 3, 3, 3))
    return model


def wrong_attribute() -> onnx.ModelProto:
    model = around()
    model.graph.node[0].attribute.append(helper.make_attribute("kernel_shape", "three"))
    return model


def wrong_shapes() -> onnx.ModelProto:
    model = around()
    model.graph.initializer[2].dims[1] = 5
    model.graph.initializer[2].raw_data = model.graph.initializer[2].raw_data[: 5 * 5 * 4]
    return model


def short_weight() -> onnx.ModelProto:
    model = around()
    model.graph.initializer[0].raw_data = b"\0" * 8
    return model


BROKEN: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "cyclic": (cyclic, "the model is invalid: '[mq]' depends on itself"),
    "no weight": (without_weight, "'a.weight' is read but is neither an input, an initializer nor"),
    "tensor written twice": (written_twice, "'c' is written more than once"),
    "initializer twice": (weight_twice, "'a.weight' is written more than once"),
    "wrong attribute": (wrong_attribute, "the model is invalid: .*kernel_shape"),
    "wrong shapes": (wrong_shapes, "refuses the network|fails on inputs"),
    "short weight": (short_weight, "the model is invalid: .*a.weight"),
    "no nodes": (lambda: model_of([], []), "holds no graph"),
    "no output": (lambda: around(outputs=[]), "no input or no output"),
    "no input": (
        lambda: model_of([helper.make_node("Constant", [], ["y"], value_float=1.0)], [], inputs=[]),
        "no input or no output|invalid",
    ),
}


def same_node_name() -> onnx.ModelProto:
    model = around()
    model.graph.node[1].name = model.graph.node[0].name
    return model


BROKEN["node name twice"] = (same_node_name, r"ONNX Runtime refuses .* same node name \(a\)\. Not")


@pytest.mark.parametrize("name", BROKEN)
def test_broken_graphs(tmp_path: Path, name: str) -> None:
    build, message = BROKEN[name]
    with pytest.raises(ExportError, match=message):
        export_onnx(build(), tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", BROKEN)
def test_broken_graphs_are_told_in_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(ExportError) as caught:
        export_onnx(BROKEN[name][0](), tmp_path / "out.onnx")
    message = str(caught.value)
    assert ".." not in message
    assert "[ONNXRuntimeError]" not in message
    assert message.lower().endswith("nothing was written.")


@pytest.mark.parametrize(
    "content", [b"", b"hello, world\n" * 40, b"\x00" * 64, b"\x89PNG\r\n\x1a\n"]
)
def test_files_that_are_no_models(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "in.onnx").write_bytes(content)
    assert "no ONNX model" in assert_refused(tmp_path / "in.onnx", tmp_path)


def test_a_model_cut_short(tmp_path: Path) -> None:
    content = around().SerializeToString()
    for length in (10, len(content) // 2, len(content) - 1):
        (tmp_path / "in.onnx").write_bytes(content[:length])
        assert_refused(tmp_path / "in.onnx", tmp_path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "No such file" in assert_refused(tmp_path / "in.onnx", tmp_path)
    assert "cannot read the model" in assert_refused(tmp_path, tmp_path)


edits = st.lists(
    st.tuples(
        st.sampled_from(["put", "cut", "add"]),
        st.integers(0, 10**6),
        st.binary(min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(edits)
@example([("put", 30, b"\xff")])
def test_damaged_models_are_exported_or_refused(changes: list[tuple[str, int, bytes]]) -> None:
    """Whatever a few wrong bytes make of a model, nothing but our own error comes of it."""
    content = bytearray(around().SerializeToString())
    for how, where, what in changes:
        start = where % len(content)
        end = start if how == "add" else start + len(what)
        content[start:end] = b"" if how == "cut" else what
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in.onnx").write_bytes(content)
        try:
            export_onnx(folder / "in.onnx", folder / "out.onnx")
        except ExportError:
            assert [file.name for file in folder.iterdir()] == ["in.onnx"]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    content = around().SerializeToString().replace(b"head.weight", b"head\xffweight")
    (tmp_path / "in.onnx").write_bytes(content)
    assert "names that are not UTF-8 text" in assert_refused(tmp_path / "in.onnx", tmp_path)


def test_a_weight_of_a_type_that_there_is_none(tmp_path: Path) -> None:
    model = around()
    model.graph.initializer[0].data_type = 65
    assert "a.weight is of no known type" in assert_refused(model, tmp_path)


# --- tensors in files of their own --------------------------------------------------------------


def test_tensors_beside_the_model_are_read(tmp_path: Path) -> None:
    source = save(around(), tmp_path / "in.onnx")
    assert len(source.read_bytes()) < len(around().SerializeToString())
    beside = export_onnx(source, tmp_path / "out.onnx").info
    inside = export_onnx(around(), tmp_path / "out2.onnx").info
    assert beside.weights_sha256 == inside.weights_sha256


def test_tensors_in_a_folder_beside_the_model_are_read(tmp_path: Path) -> None:
    source = save(around(), tmp_path / "in.onnx")
    (tmp_path / "data").mkdir()
    (tmp_path / "weights.bin").rename(tmp_path / "data" / "w.bin")
    model = onnx.load(source, load_external_data=False)
    for item in model.graph.initializer:
        point(item, location="data/w.bin")
    source.write_bytes(model.SerializeToString())
    assert export_onnx(source, tmp_path / "out.onnx").info.prunable


@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "../outside.bin", "data/../../outside.bin", "..", "C:\\w.bin", "..\\w.bin"],
)
def test_tensors_outside_the_folder_are_not_read(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    (folder / "data").mkdir(parents=True)
    (tmp_path / "outside.bin").write_bytes(bytes(4096))
    save(around(), folder / "in.onnx", lambda t: point(t, location=location))
    assert "outside the folder of the model" in assert_refused(folder / "in.onnx", folder)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    source = save(around(), folder / "in.onnx")
    (folder / "weights.bin").rename(tmp_path / "outside.bin")
    (folder / "weights.bin").symlink_to(tmp_path / "outside.bin")
    assert "a link that leads out" in assert_refused(source, folder)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "outside.bin").rename(tmp_path / "elsewhere" / "w.bin")
    (folder / "data").symlink_to(tmp_path / "elsewhere")
    (folder / "weights.bin").unlink()
    save(around(), folder / "in2.onnx", lambda t: point(t, location="data/w.bin"))
    assert "a link that leads out" in assert_refused(folder / "in2.onnx", folder)


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    source = save(around(), tmp_path / "in.onnx")
    (tmp_path / "weights.bin").rename(tmp_path / "real.bin")
    (tmp_path / "weights.bin").symlink_to("real.bin")
    assert export_onnx(source, tmp_path / "out.onnx").info.prunable


def test_a_missing_file(tmp_path: Path) -> None:
    source = save(around(), tmp_path / "in.onnx")
    (tmp_path / "weights.bin").unlink()
    assert "'weights.bin' beside the model is missing" in assert_refused(source, tmp_path)


@pytest.mark.parametrize("size", [0, 4, 800])
def test_a_truncated_file(tmp_path: Path, size: int) -> None:
    source = save(around(), tmp_path / "in.onnx")
    os.truncate(tmp_path / "weights.bin", size)
    assert "weights.bin is too short" in assert_refused(source, tmp_path)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file(tmp_path: Path, make: Any) -> None:
    source = save(around(), tmp_path / "in.onnx")
    (tmp_path / "weights.bin").unlink()
    make(tmp_path / "weights.bin")
    assert "no regular file" in assert_refused(source, tmp_path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"length": "8"}, "does not fit its shape"),
        ({"length": "-1"}, "does not fit its shape"),
        ({"length": "many"}, "is no number"),
        ({"offset": "-64"}, "does not fit its shape"),
        ({"offset": "1.5"}, "is no number"),
        ({"offset": str(2**70)}, "is too short"),
        ({"location": ""}, "does not say in which file"),
        ({"location": "a\0b"}, "does not say in which file"),
        ({"location": "weights.bin/x"}, "is missing"),
        ({"secret": "1"}, "does not fit its shape"),
    ],
)
def test_places_that_make_no_sense(tmp_path: Path, entries: dict[str, str], message: str) -> None:
    source = save(around(), tmp_path / "in.onnx", lambda t: point(t, **entries))
    assert message in assert_refused(source, tmp_path)


@pytest.mark.parametrize("dims", [[-6, 3, 3, 3], [6, 2**62, 4]])
def test_shapes_that_make_no_sense(tmp_path: Path, dims: list[int]) -> None:
    def edit(item: Any) -> None:
        item.dims[:] = dims

    assert_refused(save(around(), tmp_path / "in.onnx", edit), tmp_path)


@pytest.mark.parametrize("target", ["in.onnx", "weights.onnx"])
def test_the_source_is_not_overwritten(tmp_path: Path, target: str) -> None:
    model = around()
    onnx.save(
        model, tmp_path / "in.onnx", save_as_external_data=True, location="weights.masks",
        size_threshold=0,
    )  # fmt: skip
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ExportError, match="would overwrite"):
        export_onnx(tmp_path / "in.onnx", tmp_path / target)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


# --- sizes --------------------------------------------------------------------------------------


def test_models_beyond_what_a_file_can_hold(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(_source, "LARGEST_BYTES", 500)
    assert "edgeprune exports up to" in assert_refused(around(), tmp_path)
    (tmp_path / "in.onnx").write_bytes(around().SerializeToString())
    assert "edgeprune exports up to" in assert_refused(tmp_path / "in.onnx", tmp_path)
    assert "edgeprune exports up to" in assert_refused(
        save(around(), tmp_path / "in2.onnx"), tmp_path
    )
    torch = pytest.importorskip("torch")
    with pytest.raises(ExportError, match="edgeprune exports up to"):
        export(torch.nn.Linear(40, 40), torch.zeros(1, 40), tmp_path / "out.onnx")


def test_a_large_model_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """Three gigabytes of zeros that take no room on the disk and may take none in memory."""
    source = save(around(), tmp_path / "in.onnx")
    model = onnx.load(source, load_external_data=False)
    first = model.graph.initializer[0]
    first.dims[:] = [750_000_000]
    point(first, offset="0", length="3000000000")
    source.write_bytes(model.SerializeToString())
    os.truncate(tmp_path / "weights.bin", 3_000_000_000)
    code = (
        "import resource, sys\n"
        "from edgeprune.exporters import export_onnx\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    export_onnx(sys.argv[1], sys.argv[2])\n"
        "except Exception as error:\n    print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(source), str(tmp_path / "out.onnx")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    message, kilobytes = done.stdout.splitlines()
    assert "the network has 3.0 GB of weights; edgeprune exports up to 2.1 GB" in message
    assert int(kilobytes) < 200_000


# --- types --------------------------------------------------------------------------------------


def with_types(dtype: Any) -> onnx.ModelProto:
    """A convolution in another precision."""
    weight = np.zeros((4, 3, 1, 1)).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    return model_of(
        nodes,
        [numpy_helper.from_array(weight, "w")],
        inputs=[value("x", ["batch", 3, 8, 8], kind)],
        outputs=[value("y", ["batch", 4, 8, 8], kind)],
        opset=22,
    )


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_refused(tmp_path: Path, dtype: Any) -> None:
    model = with_types(dtype)
    name = np.dtype(dtype).name
    assert f"'x' is {name}" in assert_refused(model, tmp_path)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    model.graph.node[0].input[0] = "h"
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model.graph.node.insert(0, helper.make_node("Cast", ["x"], ["h"], to=kind))
    assert f"w is {name}. edgeprune exports float32 networks" in assert_refused(model, tmp_path)


def test_half_precision_within_a_branch_is_refused(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.zeros((1,), np.float16), "inside")
    nodes = [helper.make_node("Neg", ["r"], ["out"])]
    branch = helper.make_graph(nodes, "then", [], [value("out", None)], [weight])
    middle = [helper.make_node("If", ["c"], ["m"], then_branch=branch, else_branch=branch)]
    model = around(middle, [constant("c", True, np.bool_)])
    assert "inside is float16" in assert_refused(model, tmp_path)


def quantised(*nodes: tuple[str, list[str], str]) -> onnx.ModelProto:
    constants = [
        constant("scale", 0.1, np.float32),
        constant("zero", 0, np.uint8),
        constant("q", np.ones((6, 6, 1, 1)), np.uint8),
    ]
    return around([helper.make_node(op, inputs, [out]) for op, inputs, out in nodes], constants)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (
            quantised(
                ("QuantizeLinear", ["r", "scale", "zero"], "u"),
                ("DequantizeLinear", ["u", "scale", "zero"], "m"),
            ),
            "QuantizeLinear",
        ),
        (
            quantised(
                ("QuantizeLinear", ["r", "scale", "zero"], "u"),
                ("ConvInteger", ["u", "q"], "v"),
                ("Cast", ["v"], "m"),
            ),
            "QuantizeLinear",
        ),
        (quantised(("ConvInteger", ["r", "q"], "m")), "ConvInteger"),
        (quantised(("DynamicQuantizeLinear", ["r"], "m")), "DynamicQuantizeLinear"),
    ],
)
def test_quantised_networks_are_refused(tmp_path: Path, model: onnx.ModelProto, name: str) -> None:
    assert f"the network is quantised: it has a {name}" in assert_refused(model, tmp_path)


def test_four_bit_weights_are_refused(tmp_path: Path) -> None:
    packed = helper.make_tensor("w", TensorProto.INT4, [4], [1, 2, 3, 4])
    model = around(constants=[packed], opset=21)
    assert "w is int4" in assert_refused(model, tmp_path)


def test_text_is_no_input(tmp_path: Path) -> None:
    inputs = [value("x", ["batch", 3, 8, 8]), value("words", ["batch"], TensorProto.STRING)]
    assert "'words' is string, no number" in assert_refused(around(inputs=inputs), tmp_path)


def test_an_input_that_is_no_tensor(tmp_path: Path) -> None:
    item = helper.make_tensor_sequence_value_info("xs", TensorProto.FLOAT, None)
    model = around(
        [
            helper.make_node("SequenceAt", ["xs", "zero"], ["t"]),
            helper.make_node("Add", ["r", "t"], ["m"]),
        ],
        [constant("zero", 0)],
        inputs=[value("x", ["batch", 3, 8, 8]), item],
    )
    assert "'xs' is" in assert_refused(model, tmp_path)


def test_sparse_weights_are_refused(tmp_path: Path) -> None:
    model = around()
    values = constant("sparse", [1.0, 2.0], np.float32)
    places = constant("places", [0, 2])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4]))
    assert "sparse initializers" in assert_refused(model, tmp_path)
