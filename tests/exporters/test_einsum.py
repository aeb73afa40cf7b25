"""Products written as sums over letters, and sums along an axis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgeprune.exporters import export_onnx

from .onnx_nets import around, constant, model_of, tensor, value
from .rows import invariant


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("bhqd,bhkd->bhqk", ((2, 3, 4, 5), (2, 3, 6, 5))),
        ("bhqk,bhkd->bqhd", ((2, 3, 4, 6), (2, 3, 6, 5))),
        ("bqhd, bkhd -> bhqk", ((2, 4, 3, 5), (2, 6, 3, 5))),
        ("bd,cd->bc", ((2, 5), (6, 5))),
        ("bd,dc->cb", ((2, 5), (5, 6))),
        ("abc,cd->abd", ((2, 3, 4), (4, 5))),
        ("abc,dc->dab", ((2, 3, 4), (5, 4))),
    ],
)
@pytest.mark.parametrize("weight", [None, 0, 1])
def test_an_einsum_that_is_a_matmul(
    tmp_path: Path, equation: str, shapes: Any, weight: int | None
) -> None:
    if weight == 0 and len(shapes[0]) == 3:
        pytest.skip("a stack of weights on the left is none that a layer has")
    names = [f"i{place}" for place in range(2) if place != weight]
    inputs = [value(name, shapes[int(name[1])]) for name in names]
    constants = [] if weight is None else [tensor(f"i{weight}", *shapes[weight])]
    nodes = [helper.make_node("Einsum", ["i0", "i1"], ["y"], equation=equation)]
    model = model_of(nodes, constants, inputs=inputs, outputs=[value("y", None)])
    rank = len(equation.partition("->")[2].strip())
    model.graph.output[0].CopyFrom(value("y", [None] * rank))
    report = export_onnx(model, tmp_path / "net.onnx")
    operators = {node.op_type for node in onnx.load(report.path).graph.node}
    assert operators & {"MatMul", "Gemm"}
    assert "Einsum" not in operators


@pytest.mark.parametrize("equation", ["bd,bd->b", "bd,bd->bd", "ab,cd->abcd", "bb,bd->bd"])
def test_an_einsum_that_is_no_matmul_stays(tmp_path: Path, equation: str) -> None:
    nodes = [helper.make_node("Einsum", ["x", "x"], ["y"], equation=equation)]
    rank = len(equation.partition("->")[2])
    model = model_of(nodes, [], inputs=[value("x", [4, 4])], outputs=[value("y", [None] * rank)])
    report = export_onnx(model, tmp_path / "net.onnx")
    assert [node.op_type for node in onnx.load(report.path).graph.node] == ["Einsum"]


def test_attention_by_einsum_is_pruned_by_heads(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Attention(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = torch.nn.Linear(12, 36), torch.nn.Linear(12, 5)

        def forward(self, x: Any) -> Any:
            q, k, v = self.qkv(x).unflatten(-1, (3, 3, 4)).unbind(2)
            weights = torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1)
            return self.out(torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2).mean(1))

    from edgeprune.exporters import export

    report = export(Attention(), torch.zeros(1, 7, 12), tmp_path / "net.onnx", dynamo=False)
    group = report.info.group_by_name["qkv"]
    assert (group.units, group.kind) == (3, "heads")
    x = np.random.default_rng(0).standard_normal((2, 7, 12), np.float32)
    assert invariant(report.path, {report.info.input_name: x})


def test_a_sum_along_another_axis_passes(tmp_path: Path) -> None:
    middle = [helper.make_node("CumSum", ["r", "axis"], ["m"])]
    for axis, left in ((3, ["a", "b"]), (1, ["b"])):
        model = around(middle, [constant("axis", axis)])
        report = export_onnx(model, tmp_path / "net.onnx")
        assert [group.name for group in report.info.prunable] == left
