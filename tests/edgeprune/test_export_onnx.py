"""``edgeprune export MODEL.onnx``: what is asked for, what is refused, and what is left behind."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgeprune


def build(*, free: bool = False, rate: bool = False) -> onnx.ModelProto:
    """Two convolutions and a head; with a free width, with a rate that chooses a branch."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)

    def branch(name: str, op: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op, ["r"], [name])], name, [], [out])

    nodes = [
        helper.make_node("Conv", ["x", "a.weight"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
    ]
    if rate:
        nodes += [
            helper.make_node("Equal", ["sr", "high"], ["is_high"]),
            helper.make_node(
                "If", ["is_high"], ["m"],
                then_branch=branch("fast", "Relu"), else_branch=branch("slow", "Neg"),
            ),
        ]  # fmt: skip
    nodes += [
        helper.make_node("Conv", ["m" if rate else "r", "b.weight"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "head.weight"], ["y"]),
    ]
    constants = [
        weight("a.weight", 6, 3, 3, 3),
        weight("b.weight", 5, 6, 1, 1),
        weight("head.weight", 5, 4),
        numpy_helper.from_array(np.array(16000, np.int64), "high"),
    ]
    width = "width" if free else 8
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, width])]
    if rate:
        inputs.append(helper.make_tensor_value_info("sr", TensorProto.INT64, []))
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])
    graph = helper.make_graph(nodes, "net", inputs, [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def source(tmp_path: Path) -> Callable[..., Path]:
    def write(**options: Any) -> Path:
        path = tmp_path / "source.onnx"
        path.write_bytes(build(**options).SerializeToString())
        return path

    return write


def test_an_onnx_model_becomes_an_artifact(run: Any, source: Any, tmp_path: Path) -> None:
    done = run("export", source(), "-o", tmp_path / "net.onnx", "--labels", "a,b,c,d", "--json")
    report = json.loads(done.stdout)
    assert done.exit_code == 0
    assert report["worst_error_random"] < 1e-5
    assert report["parameters_prunable"] == report["parameters"] - 4
    assert "torch" not in edgeprune.load(tmp_path / "net.onnx").info.versions
    shown = run("inspect", tmp_path / "net.onnx")
    assert shown.exit_code == 0


def test_inputs_are_set_and_sizes_fixed(run: Any, source: Any, tmp_path: Path) -> None:
    path = source(free=True, rate=True)
    done = run(
        *("export", path, "-o", tmp_path / "net.onnx"), *("--set", "sr=16000", "--size", "width=9")
    )
    assert done.exit_code == 0, done.stderr
    info = edgeprune.load(tmp_path / "net.onnx").info
    assert info.single
    assert info.input_shape == (None, 3, 8, 9)
    nodes = onnx.load(tmp_path / "net.onnx", load_external_data=False).graph.node
    assert not [node for node in nodes if node.op_type in ("If", "Neg")]


def test_verify_binds_the_inputs_of_the_source_too(run: Any, source: Any, tmp_path: Path) -> None:
    path, target = source(free=True, rate=True), tmp_path / "out.onnx"
    given = ["--set", "sr=16000"]
    run("export", path, *given, "--size", "width=9", "-o", target)
    words = ["verify", target, "--source", path, "--masks", "1", "-q"]
    assert run(*words, *given).exit_code == 0
    other = run(*words, "--set", "sr=8000")
    assert other.exit_code == 1
    assert "differs from the source" in other.stdout
    forgotten = run(*words)
    assert forgotten.exit_code == 1
    assert "has the inputs x, sr and the model x. Give those that the export" in forgotten.stderr
    assert "no input 'rate'" in run(*words, "--set", "rate=1").stderr
    assert run("verify", target, *given).exit_code == 2


def test_a_model_of_two_inputs_is_exported_and_not_personalised(
    run: Any, source: Any, tmp_path: Path
) -> None:
    done = run("export", source(rate=True), "-o", tmp_path / "net.onnx")
    assert done.exit_code == 0
    assert "cannot be personalised" in done.stderr
    done = run("personalize", tmp_path / "net.onnx", tmp_path)
    assert done.exit_code == 1
    assert "the inputs x (float32), sr (int64) and the outputs y" in done.stderr


USAGE = [
    (["--weights", "w.pt"], "--weights is for a PyTorch network"),
    (["--input", "1x3x8x8"], "--input is for a PyTorch network"),
    (["--opset", "18"], "--opset is for a PyTorch network"),
    (["--legacy-exporter"], "--legacy-exporter is for a PyTorch network"),
    (["--set", "sr"], "write NAME=VALUE"),
    (["--set", "sr=loud"], "the value must be a number"),
    (["--size", "width=wide"], "write a number, or batch"),
    (["--size", "width=-1"], "write a number, or batch"),
    (["--size", "width="], "write NAME=VALUE"),
]


@pytest.mark.parametrize(("options", "message"), USAGE)
def test_wrong_usage(
    run: Any, source: Any, tmp_path: Path, options: list[str], message: str
) -> None:
    path = source()
    done = run("export", path, "-o", tmp_path / "net.onnx", *options)
    assert done.exit_code == 2
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("options", [["--set", "a=1"], ["--size", "a=1"]])
def test_options_of_files_are_not_for_factories(run: Any, options: list[str]) -> None:
    done = run("export", "a:b", "--input", "1x3", "-o", "net.onnx", *options)
    assert done.exit_code == 2
    assert "is for a model in an .onnx file" in done.stderr


def cyclic(path: Path) -> None:
    model = build()
    model.graph.node[0].input[0] = "d"
    path.write_bytes(model.SerializeToString())


def without_weight(path: Path) -> None:
    model = build()
    del model.graph.initializer[0]
    path.write_bytes(model.SerializeToString())


def twice(path: Path) -> None:
    model = build()
    model.graph.node[2].output[0] = "c"
    path.write_bytes(model.SerializeToString())


def invalid(path: Path) -> None:
    model = build()
    model.graph.node[1].op_type = "Swirl"
    path.write_bytes(model.SerializeToString())


def custom(path: Path) -> None:
    model = build()
    model.graph.node[1].op_type, model.graph.node[1].domain = "Swirl", "com.acme"
    model.opset_import.append(helper.make_opsetid("com.acme", 1))
    path.write_bytes(model.SerializeToString())


def half(path: Path) -> None:
    model = build()
    for item in model.graph.initializer[:3]:
        array = numpy_helper.to_array(item).astype(np.float16)
        item.CopyFrom(numpy_helper.from_array(array, item.name))
    path.write_bytes(model.SerializeToString())


def elsewhere(path: Path, location: str) -> None:
    """The first weight stands in a file of its own."""
    model = build()
    first = model.graph.initializer[0]
    first.ClearField("raw_data")
    first.data_location = TensorProto.EXTERNAL
    first.external_data.add(key="location", value=location)
    path.write_bytes(model.SerializeToString())


def outside(path: Path) -> None:
    elsewhere(path, "../../../../etc/passwd")


def absolute(path: Path) -> None:
    elsewhere(path, "/etc/passwd")


def leading_out(path: Path) -> None:
    path.with_name("w.bin").symlink_to("/etc/passwd")
    elsewhere(path, "w.bin")


def huge_beside(path: Path) -> None:
    """Three gigabytes that take no room on the disk."""
    onnx.save(build(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    first = model.graph.initializer[0]
    first.dims[:] = [750_000_000]
    for entry in first.external_data:
        entry.value = {"offset": "0", "length": "3000000000"}.get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString())
    os.truncate(path.with_name("w.bin"), 3_000_000_000)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut_in_half(path: Path) -> None:
    content = build().SerializeToString()
    path.write_bytes(content[: len(content) // 2])


def folder(path: Path) -> None:
    path.mkdir()


def shapeless(path: Path) -> None:
    model = build()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    path.write_bytes(model.SerializeToString())


def same_node_name(path: Path) -> None:
    model = build()
    for node in model.graph.node[:2]:
        node.name = "twin"
    path.write_bytes(model.SerializeToString())


def truncated(path: Path) -> None:
    onnx.save(build(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    os.truncate(path.with_name("w.bin"), 8)


def huge(path: Path) -> None:
    path.write_bytes(b"")
    os.truncate(path, 3_000_000_000)


def too_new(path: Path) -> None:
    model = build()
    model.opset_import[0].version = 900
    path.write_bytes(model.SerializeToString())


def free(path: Path) -> None:
    path.write_bytes(build(free=True).SerializeToString())


BAD = {
    cyclic: "depends on itself",
    without_weight: "'a.weight' is read but is neither an input, an initializer nor",
    twice: "'c' is written more than once",
    invalid: "the model is invalid: ",
    custom: "com.acme.Swirl",
    half: "float16",
    outside: "outside the folder of the model",
    truncated: "w.bin is too short",
    huge: "edgeprune exports up to 2.1 GB",
    too_new: "operator set 900; the installed onnx knows them up to",
    free: "--size width=N",
    absolute: "'/etc/passwd' is outside the folder of the model",
    leading_out: "'w.bin' is a link that leads out of the model's folder",
    huge_beside: "the network has 3.0 GB of weights; edgeprune exports up to 2.1 GB",
    empty: "is no ONNX model: it holds no graph",
    cut_in_half: "is no ONNX model: it cannot be parsed",
    folder: "Is a directory",
    shapeless: "the input 'x' does not say how many axes it has",
    same_node_name: "two nodes with same node name (twin). Nothing was written.",
}


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_bad_models_say_what_is_wrong_and_leave_nothing(
    run: Any, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "source.onnx")
    before = sorted(tmp_path.iterdir())
    done = run("export", tmp_path / "source.onnx", "-o", tmp_path / "net.onnx")
    assert done.exit_code == 1
    assert "edgeprune: error: " in done.stderr
    assert BAD[make] in done.stderr
    assert "a bug" not in done.stderr
    assert done.stdout == ""
    assert sorted(tmp_path.iterdir()) == before


def test_the_source_is_not_overwritten(run: Any, source: Any) -> None:
    path = source()
    before = path.read_bytes()
    done = run("export", path, "-o", path)
    assert done.exit_code == 1
    assert "would overwrite" in done.stderr
    assert path.read_bytes() == before


def test_preprocessing_that_makes_another_shape(run: Any, source: Any, tmp_path: Path) -> None:
    path = source()
    done = run("export", path, "-o", tmp_path / "net.onnx", "--preprocess", "imagenet")
    assert done.exit_code == 1
    assert "(3, 224, 224), and the network takes (3, 8, 8)" in done.stderr
    assert list(tmp_path.iterdir()) == [path]
