"""ONNX models from elsewhere: their names, weights that are read twice, what is no source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeprune.exporters import export_onnx
from edgeprune.runtime.artifact import Artifact
from edgeprune.runtime.errors import ExportError
from edgeprune.runtime.profile import Profile

from .onnx_nets import around, constant, model_of, save, tensor, value
from .rows import invariant


def test_names_that_the_artifact_needs_are_given_others(tmp_path: Path) -> None:
    middle = [
        helper.make_node("Mul", ["r", "edgeprune.ones"], ["edgeprune/a/weight"], name="a.mask"),
        helper.make_node("Add", ["edgeprune/a/weight", "a.mask"], ["m"], name="edgeprune/x"),
    ]
    constants = [constant("edgeprune.ones", 3, np.float32), constant("a.mask", 1, np.float32)]
    report = export_onnx(around(middle, constants), tmp_path / "net.onnx")
    assert invariant(report.path)
    names = [group.name for group in report.info.prunable]
    assert len(names) == 2
    assert "a" not in names


def test_a_network_of_reserved_interface_names(tmp_path: Path) -> None:
    model = around()
    model.graph.output[0].name = model.graph.node[-1].output[0] = "edgeprune.y"
    with pytest.raises(ExportError, match=r"'edgeprune\.y' has a name that edgeprune needs"):
        export_onnx(model, tmp_path / "net.onnx")


def test_a_weight_that_is_read_elsewhere_is_a_copy(tmp_path: Path) -> None:
    """A table of embeddings that the head multiplies by, too: a profile changes one of them."""
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["e"], name="embedding"),
        helper.make_node("ReduceMean", ["e", "axes"], ["m"], keepdims=0),
        helper.make_node("Gemm", ["m", "table"], ["y"], name="head", transB=1),
    ]
    constants = [tensor("table", 7, 6), constant("axes", [1])]
    inputs = [value("x", ["batch", 9], TensorProto.INT64)]
    model = model_of(nodes, constants, inputs=inputs, outputs=[value("y", ["batch", 7])])
    report = export_onnx(model, tmp_path / "net.onnx")
    artifact = Artifact.open(report.path)
    head = report.info.operator_by_name["head"]
    gather = next(
        n for n in artifact.model.graph.node if n.op_type == "Gather" and n.name == "embedding"
    )
    assert gather.input[0] not in artifact.tensors
    assert head.weight in artifact.tensors
    group = report.info.group_by_name["embedding"]
    assert (group.units, group.frozen, group.parameters) == (6, None, 2 * 7 * 6)
    assert not report.info.single


def test_a_compacted_model_can_be_exported_again(tmp_path: Path) -> None:
    from edgeprune.runtime.compact import compact

    report = export_onnx(around(), tmp_path / "net.onnx")
    masks = {"a": np.array([1, 0, 1, 1, 0, 1], np.bool_)}
    artifact = Artifact.open(report.path)
    profile = Profile(report.info.model_id, masks=masks)
    compact(artifact, profile, tmp_path / "small.onnx")
    again = export_onnx(tmp_path / "small.onnx", tmp_path / "again.onnx")
    assert [group.units for group in again.info.prunable] == [4, 5]


def test_an_artifact_is_no_source(tmp_path: Path) -> None:
    report = export_onnx(around(), tmp_path / "net.onnx")
    with pytest.raises(ExportError, match="exported by edgeprune already"):
        export_onnx(report.path, tmp_path / "again.onnx")


def test_a_model_in_memory_must_be_whole(tmp_path: Path) -> None:
    model = onnx.load(save(around(), tmp_path / "source.onnx"), load_external_data=False)
    with pytest.raises(ExportError, match=r"stands outside the model.*Give the path"):
        export_onnx(model, tmp_path / "net.onnx")


def test_a_network_that_draws_random_numbers_is_refused_for_that(tmp_path: Path) -> None:
    middle = [
        helper.make_node("RandomNormalLike", ["r"], ["noise"]),
        helper.make_node("Add", ["r", "noise"], ["m"]),
    ]
    with pytest.raises(ExportError, match=r"draws random numbers .* \(RandomNormalLike\)"):
        export_onnx(around(middle), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("/features/features.2/features.2.0/norm/Relu", "features.2.0.norm.Relu"),
        ("/layer/layer2/Relu", "layer.layer2.Relu"),
    ],
)
def test_names_of_modules_within_modules(tmp_path: Path, said: str, name: str) -> None:
    """PyTorch's older exporter repeats the path of a Sequential within a Sequential."""
    model = around([helper.make_node("Neg", ["r"], ["m"], name=said)])
    report = export_onnx(model, tmp_path / "net.onnx")
    assert name in {node.name for node in onnx.load(report.path).graph.node}
