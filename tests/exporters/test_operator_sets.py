"""Operator sets old and new, and operators that are in none of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper

from edgeprune.exporters import export, export_onnx
from edgeprune.runtime._ort import make_session
from edgeprune.runtime.errors import ExportError

from .onnx_nets import around, constant, tensor, value
from .rows import frozen, invariant

NEWEST = onnx.defs.onnx_opset_version()


def loads(model: onnx.ModelProto) -> bool:
    try:
        make_session(model.SerializeToString())
    except Exception:
        return False
    return True


@pytest.mark.parametrize("opset", range(17, NEWEST + 1))
def test_operator_sets(tmp_path: Path, opset: int) -> None:
    model = around(opset=opset)
    if not loads(model):
        pytest.skip(f"onnxruntime {onnxruntime.__version__} does not load operator set {opset}")
    report = export_onnx(model, tmp_path / "net.onnx")
    assert [group.name for group in report.info.prunable] == ["a", "b"]
    written = onnx.load(report.path)
    assert written.opset_import[0].version == opset
    onnx.checker.check_model(written, full_check=True)
    onnxruntime.InferenceSession(report.path)
    assert invariant(report.path)


def test_the_newest_operator_set_that_loads_is_not_an_old_one() -> None:
    assert loads(around(opset=min(23, NEWEST)))


def old_forms(opset: int) -> onnx.ModelProto:
    """Operators whose form changed: Pad, Squeeze, Unsqueeze, Clip and Dropout had attributes."""
    middle = [
        helper.make_node("Pad", ["r"], ["q"], pads=[0, 0, 1, 1, 0, 0, 1, 1]),
        helper.make_node("Unsqueeze", ["q"], ["u"], axes=[0]),
        helper.make_node("Squeeze", ["u"], ["v"], axes=[0]),
        helper.make_node("Clip", ["v"], ["w"], min=0.0, max=6.0),
        helper.make_node("Dropout", ["w"], ["m"], ratio=0.5),
    ]
    return around(middle, opset=opset)


@pytest.mark.parametrize("opset", [7, 8, 9, 10])
def test_old_operator_sets_are_converted(tmp_path: Path, opset: int) -> None:
    report = export_onnx(old_forms(opset), tmp_path / "net.onnx")
    assert onnx.load(report.path).opset_import[0].version == 17
    assert [group.name for group in report.info.prunable] == ["a", "b"]
    assert report.worst_error_random < 1e-5
    assert invariant(report.path)


@pytest.mark.parametrize("opset", range(11, 17))
def test_operator_sets_before_17_are_converted(tmp_path: Path, opset: int) -> None:
    report = export_onnx(around(opset=opset), tmp_path / "net.onnx")
    assert onnx.load(report.path).opset_import[0].version == 17
    assert invariant(report.path)


def test_a_conversion_that_changes_the_network(tmp_path: Path) -> None:
    scales = constant("scales", [1, 1, 2, 2], np.float32)
    middle = [helper.make_node("Upsample", ["r", "scales"], ["m"], mode="linear")]
    with pytest.raises(ExportError, match=r"converted from operator set 9.*may be why"):
        export_onnx(around(middle, [scales], opset=9), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_standard_operators(tmp_path: Path) -> None:
    model = around()
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    with pytest.raises(ExportError, match="no standard ONNX operators"):
        export_onnx(model, tmp_path / "net.onnx")


def test_custom_operators_are_named(tmp_path: Path) -> None:
    middle = [helper.make_node("Swirl", ["r"], ["m"], domain="com.acme")]
    with pytest.raises(ExportError, match=r"cannot run the network.*com\.acme\.Swirl"):
        export_onnx(around(middle, domains={"com.acme": 1}), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_standard_name_that_does_not_exist(tmp_path: Path) -> None:
    middle = [helper.make_node("Swirl", ["r"], ["m"])]
    with pytest.raises(ExportError, match=r"the model is invalid: .*Swirl"):
        export_onnx(around(middle), tmp_path / "net.onnx")


def test_what_onnxruntime_knows_beyond_the_standard_freezes(tmp_path: Path) -> None:
    middle = [helper.make_node("QuickGelu", ["r"], ["m"], name="quick", domain="com.microsoft")]
    report = export_onnx(around(middle, domains={"com.microsoft": 1}), tmp_path / "net.onnx")
    assert frozen(report)["a"] == "QuickGelu 'quick' is not understood channel by channel"
    assert [group.name for group in report.info.prunable] == ["b"]


def test_functions_are_inlined(tmp_path: Path) -> None:
    body = [helper.make_node("Neg", ["i"], ["n"]), helper.make_node("Neg", ["n"], ["o"])]
    opsets = [helper.make_opsetid("", 20)]
    function = helper.make_function("com.acme", "Twice", ["i"], ["o"], body, opsets)
    middle = [helper.make_node("Twice", ["r"], ["m"], domain="com.acme")]
    model = around(middle, domains={"com.acme": 1})
    model.functions.append(function)
    report = export_onnx(model, tmp_path / "net.onnx")
    assert [group.name for group in report.info.prunable] == ["a", "b"]


# --- an operator that ONNX took back ------------------------------------------------------------


def old_group_norm(opset: int, groups: int = 2) -> onnx.ModelProto:
    """GroupNormalization with a scale for each group, twice, one of them within a branch."""
    names = ["r", "scale", "shift"]
    inner = helper.make_node("GroupNormalization", names, ["t"], num_groups=groups)
    other = helper.make_node("Neg", ["r"], ["e"])
    middle = [
        helper.make_node(
            "GroupNormalization", names, ["g"], name="norm", num_groups=groups, epsilon=0.01
        ),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node(
            "If",
            ["positive"],
            ["i"],
            then_branch=helper.make_graph([inner], "then", [], [value("t", None)]),
            else_branch=helper.make_graph([other], "else", [], [value("e", None)]),
        ),
        helper.make_node("Add", ["g", "i"], ["g.sizes"]),  # a name that an expansion might want
        helper.make_node("Identity", ["g.sizes"], ["m"]),
    ]
    constants = [tensor("scale", groups), tensor("shift", groups), constant("zero", 0, np.float32)]
    return around(middle, constants, opset=opset)


def only_norm(opset: int, groups: int) -> onnx.ModelProto:
    names = ["r", "scale", "shift"]
    middle = [helper.make_node("GroupNormalization", names, ["m"], num_groups=groups)]
    return around(middle, [tensor("scale", groups), tensor("shift", groups)], opset=opset)


def answers(model: str | bytes | Path) -> Any:
    x = np.random.default_rng(0).standard_normal((3, 3, 8, 8), np.float32)
    return onnxruntime.InferenceSession(model).run(None, {"x": x})[0]


@pytest.mark.parametrize("opset", [18, 19, 20])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_norm_of_old_operator_sets(tmp_path: Path, opset: int, groups: int) -> None:
    """ONNX 1.16 took it back: the checker refuses it, and ONNX Runtime computes it all the same."""
    model = only_norm(opset, groups)
    report = export_onnx(model, tmp_path / "net.onnx")
    onnx.checker.check_model(report.path, full_check=True)
    wanted, got = answers(model.SerializeToString()), answers(report.path)
    np.testing.assert_allclose(got, wanted, atol=1e-6 * np.abs(wanted).max())
    units = {group.name: group.units for group in report.info.prunable}
    assert units == {"a": groups, "b": 5} if groups > 1 else {"b": 5}
    assert invariant(report.path)


def test_group_norm_within_a_branch(tmp_path: Path) -> None:
    model = old_group_norm(18)
    report = export_onnx(model, tmp_path / "net.onnx")
    onnx.checker.check_model(report.path, full_check=True)
    wanted, got = answers(model.SerializeToString()), answers(report.path)
    np.testing.assert_allclose(got, wanted, atol=1e-6 * np.abs(wanted).max())
    assert "GroupNormalization" not in str(onnx.load(report.path, load_external_data=False))


def test_a_model_with_an_old_group_norm_that_is_invalid_otherwise(tmp_path: Path) -> None:
    model = only_norm(18, 2)
    model.graph.node[-1].attribute.append(helper.make_attribute("swirl", 1))
    with pytest.raises(ExportError, match=r"the model is invalid: .*swirl"):
        export_onnx(model, tmp_path / "net.onnx")


@pytest.mark.parametrize(("opset", "dynamo"), [(99, True), (99, False)])
def test_an_operator_set_that_pytorch_does_not_write(
    tmp_path: Path, opset: int, dynamo: bool
) -> None:
    """The advice is another operator set or exporter, not to mend the network."""
    other = "--legacy-exporter" if dynamo else "without --legacy-exporter"
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    with pytest.raises(
        ExportError, match=f"{opset}(.|\n)*{other}(.|\n)*Nothing was written"
    ) as told:
        export(net, torch.zeros(1, 4), tmp_path / "net.onnx", opset=opset, dynamo=dynamo)
    assert "batch size" not in str(told.value)
    assert not list(tmp_path.iterdir())
