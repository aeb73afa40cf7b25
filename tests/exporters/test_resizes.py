"""Resizing to the size of another tensor, as the decoder of a U-Net does."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import helper
from torch import nn
from torch.nn import functional as F

import edgeprune
from edgeprune.exporters import export, export_onnx

from .onnx_nets import around, constant
from .rows import frozen


class Decoder(nn.Module):
    """What is seen at half the size is brought to the size of what was seen before."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.wide, self.deep = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.last = nn.Conv2d(14, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.wide(x).relu()
        y = self.deep(F.max_pool2d(x, 2)).relu()
        y = F.interpolate(y, size=x.shape[-2:], mode=self.mode)
        return self.last(torch.cat([x, y], 1))


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_to_the_size_of_another_tensor(tmp_path: Path, mode: str, dynamo: bool) -> None:
    net = Decoder(mode)
    report = export(net, torch.zeros(1, 3, 9, 7), tmp_path / "net.onnx", dynamo=dynamo)
    assert [group.name for group in report.info.prunable] == ["wide", "deep"]
    assert edgeprune.verify(report.path, source=net, masks=5).ok


def network(opset: int, **attributes: object) -> onnx.ModelProto:
    """A Resize to sizes that hold those of the batch."""
    middle = [
        helper.make_node("Shape", ["r"], ["shape"]),
        helper.make_node("Slice", ["shape", "zero", "two"], ["front"]),
        helper.make_node("Concat", ["front", "eleven"], ["sizes"], axis=0),
        helper.make_node("Resize", ["r", "", "", "sizes"], ["m"], name="resize", **attributes),
    ]
    constants = [constant("zero", [0]), constant("two", [2]), constant("eleven", [11, 5])]
    return around(middle, constants, opset=opset)


@pytest.mark.parametrize("opset", [18, 20, 22])
def test_the_axes_that_change_are_named(tmp_path: Path, opset: int) -> None:
    report = export_onnx(network(opset), tmp_path / "net.onnx")
    assert [group.name for group in report.info.prunable] == ["a", "b"]
    assert edgeprune.verify(report.path, masks=5).ok


def test_where_axes_cannot_be_named_the_channels_stay(tmp_path: Path) -> None:
    report = export_onnx(network(17), tmp_path / "net.onnx")
    assert "reads them for its size" in frozen(report)["a"]
    assert edgeprune.verify(report.path, masks=3).ok


@pytest.mark.parametrize(("axes", "prunable"), [([2, 3], ["a", "b"]), ([1, 2], ["b"])])
def test_axes_that_the_source_names(tmp_path: Path, axes: list[int], prunable: list[str]) -> None:
    """Resized channels are others than those that were written: they cannot go one by one."""
    middle = [
        helper.make_node("Resize", ["r", "", "", "sizes"], ["big"], name="resize", axes=axes),
        helper.make_node("Slice", ["big", "from", "to", "one"], ["m"]),  # the channels as before
    ]
    constants = [constant("sizes", [12, 12]), constant("from", [0]), constant("to", [6])]
    report = export_onnx(around(middle, [*constants, constant("one", [1])]), tmp_path / "net.onnx")
    assert [group.name for group in report.info.prunable] == prunable
    assert edgeprune.verify(report.path, masks=4).ok
