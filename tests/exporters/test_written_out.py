"""Recurrent cells that are written out step by step, and constants spread over the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from onnx import helper
from torch import nn

import edgeprune
from edgeprune.exporters import export, export_onnx

from .onnx_nets import around, tensor


class Steps(nn.Module):
    """A cell called for each of four steps, from a state of zeros."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.cell, self.head = kind(5, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.zeros(x.shape[0], 6)
        state: Any = (hidden, hidden) if isinstance(self.cell, nn.LSTMCell) else hidden
        for step in range(4):
            state = self.cell(x[:, step], state)
        return self.head(state[0] if isinstance(state, tuple) else state)


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_the_units_of_all_steps_go_together(tmp_path: Path, kind: Any, dynamo: bool) -> None:
    net = Steps(kind)
    report = export(net, torch.zeros(1, 4, 5), tmp_path / "net.onnx", dynamo=dynamo)
    if kind is nn.RNNCell:  # nothing ties the steps of one that has no memory but its output
        assert [group.units for group in report.info.prunable] == [6] * 4
    else:
        assert [group.units for group in report.info.prunable] == [6]
    assert edgeprune.verify(report.path, source=net, masks=5).ok


@pytest.mark.parametrize("made", ["spread", "filled"])
def test_a_constant_for_every_sample_is_cut(tmp_path: Path, made: str) -> None:
    steps = {
        "spread": helper.make_node("Expand", ["row", "sizes"], ["all"]),
        "filled": helper.make_node("ConstantOfShape", ["sizes"], ["all"]),
    }
    middle = [
        helper.make_node("Shape", ["r"], ["sizes"]),
        steps[made],
        helper.make_node("Add", ["all", "r"], ["m"]),
    ]
    report = export_onnx(around(middle, [tensor("row", 1, 6, 1, 1)]), tmp_path / "net.onnx")
    assert [group.name for group in report.info.prunable] == ["a", "b"]
    assert edgeprune.verify(report.path, masks=5).ok


def test_what_alone_says_how_large_the_answer_is_stays(tmp_path: Path) -> None:
    """A row that is spread gives the Add its shape; the other factor has one place only."""
    middle = [
        helper.make_node("GlobalAveragePool", ["r"], ["small"]),
        helper.make_node("Shape", ["r"], ["sizes"]),
        helper.make_node("Expand", ["row", "sizes"], ["all"]),
        helper.make_node("Add", ["small", "all"], ["m"]),
    ]
    report = export_onnx(around(middle, [tensor("row", 1, 6, 1, 1)]), tmp_path / "net.onnx")
    assert edgeprune.verify(report.path, masks=3).ok
