"""Operators one by one between two convolutions: passed through, or frozen with the reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgeprune.exporters import export
from edgeprune.runtime._ort import make_session
from edgeprune.runtime.artifact import Artifact

from .rows import pruned_rows_replaced, rows_written

Step = Callable[[torch.Tensor], torch.Tensor]


class Between(nn.Module):
    """A step between a convolution and a mean, with a linear head."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 4)
        self.step = step
        self.extra = step if isinstance(step, nn.Module) else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.step(self.first(x))
        return self.head(x.mean((2, 3)))


PASSES: dict[str, Any] = {
    "prelu": nn.PReLU(6),
    "sigmoid": torch.sigmoid,
    "elu": F.elu,
    "softplus": F.softplus,
    "erf": torch.erf,
    "mish": F.mish,
    "upsample": lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"),
    "pad": lambda x: F.pad(x, (1, 0, 2, 0), mode="reflect"),
    "transpose": lambda x: x.transpose(2, 3),
    "scale": lambda x: x * torch.arange(1.0, 7.0)[:, None, None] - 1,
    "norm": nn.Sequential(nn.ReLU(), nn.BatchNorm2d(6)),
    "there and back": lambda x: x.flatten(2).permute(0, 2, 1).transpose(1, 2).unflatten(2, (8, 8)),
    "mean of rows": lambda x: x.mean(3, keepdim=True),
    "square": lambda x: x**2,
    "with itself": lambda x: x + x.relu(),
    "instance norm": nn.Sequential(nn.InstanceNorm2d(6, affine=True), nn.ReLU()),
    "pixels": lambda x: F.pixel_shuffle(F.pixel_unshuffle(x, 2).relu(), 2),
    "row by row": lambda x: x @ x.transpose(2, 3),
}
# Channels that go together, so that there are fewer units than the six channels.
TIES: dict[str, tuple[Any, list[int]]] = {
    "grouped": (nn.Conv2d(6, 6, 3, padding=1, groups=3), [0, 0, 1, 1, 2, 2]),
    "group norm": (nn.GroupNorm(2, 6), [0, 0, 0, 1, 1, 1]),
    "reversed": (lambda x: x + x[:, [5, 4, 3, 2, 1, 0]], [0, 1, 2, 2, 1, 0]),
    "halves": (lambda x: torch.cat([x[:, :3] * x[:, 3:]] * 2, 1), [0, 1, 2, 0, 1, 2]),
}
FREEZES: dict[str, tuple[Any, str]] = {
    "softmax": (lambda x: x.softmax(1), "Softmax '.*' mixes it"),
    "layer norm": (nn.LayerNorm([6, 8, 8]), "(LayerNormalization|ReduceMean) '.*' mixes it"),
    "max over channels": (lambda x: x - x.amax(1, keepdim=True), "Sub '.*' spreads it"),
    "sum of all": (
        lambda x: torch.ones(6)[:, None, None].cumsum(0) * x.sum((1, 2, 3), True),
        "Mul",
    ),
    "unknown": (lambda x: x.cumsum(1), "CumSum '.*' mixes it"),
}


def invariant(path: Path, shape: tuple[int, ...] = (3, 8, 8), gone: int = 0) -> bool:
    """Whether a pruned unit of each group has no say, whatever the weights of its rows are."""
    artifact, rng = Artifact.open(path), np.random.default_rng(0)
    x = {artifact.info.input_name: rng.standard_normal((2, *shape), np.float32)}
    for group in artifact.info.prunable:
        mask = np.ones(group.units, np.float32)
        mask[gone] = 0
        noise = pruned_rows_replaced(artifact, {group.name: mask}, rng)
        one = make_session(path, {group.mask: mask}).run(None, x)[0]
        two = make_session(path, {group.mask: mask, **noise}).run(None, x)[0]
        three = make_session(path, noise).run(None, x)[0]
        if not np.array_equal(one, two) or np.allclose(one, three):
            return False
    return True


@pytest.mark.parametrize(
    ("name", "dynamo"),
    [(name, False) for name in PASSES]
    # The two exporters write these in different ways; the current one is slow.
    + [(name, True) for name in ("prelu", "softplus", "upsample", "pad", "mean of rows")],
)
def test_passes(tmp_path: Path, name: str, dynamo: bool) -> None:
    path = tmp_path / "net.onnx"
    info = export(Between(PASSES[name]), torch.zeros(1, 3, 8, 8), path, dynamo=dynamo).info
    assert [group.name for group in info.prunable] == ["first"]
    assert info.operator_by_name["first"].write_index is None
    assert invariant(path)


@pytest.mark.parametrize("name", TIES)
def test_ties(tmp_path: Path, name: str) -> None:
    step, units = TIES[name]
    path = tmp_path / "net.onnx"
    info = export(Between(step), torch.zeros(1, 3, 8, 8), path, dynamo=False).info
    assert info.group_by_name["first"].units == max(units) + 1
    assert info.operator_by_name["first"].write_index == tuple(units)
    assert invariant(path)


def test_a_transposed_convolution_is_a_dense_operator(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    step = nn.ConvTranspose2d(6, 6, 3, padding=1)
    info = export(Between(step), torch.zeros(1, 3, 8, 8), path, dynamo=False).info
    assert [group.name for group in info.prunable] == ["first", "step"]
    operator = info.operator_by_name["step"]
    assert (operator.in_axis, operator.out_axis, operator.depthwise) == (0, 1, False)
    assert invariant(path)


@pytest.mark.parametrize("name", FREEZES)
def test_freezes(tmp_path: Path, name: str) -> None:
    step, reason = FREEZES[name]
    report = export(Between(step), torch.zeros(1, 3, 8, 8), tmp_path / "net.onnx", dynamo=False)
    frozen = dict(report.frozen)
    assert "first" in frozen, report.info.prunable
    assert re.search(reason, frozen["first"])


class Recurrent(nn.Module):
    def __init__(self, kind: Any, **options: Any) -> None:
        super().__init__()
        self.conv, self.mix = nn.Conv1d(4, 8, 3), nn.Conv1d(8, 6, 1)
        self.cell = kind(6, 5, batch_first=True, **options)
        self.fc = nn.Linear(10 if self.cell.bidirectional else 5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.mix(self.conv(x).relu()).relu().transpose(1, 2)
        return self.fc(self.cell(x)[0][:, -1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"num_layers": 2}])
def test_hidden_units_of_recurrent_layers(
    tmp_path: Path, kind: Any, options: dict[str, Any]
) -> None:
    path, net = tmp_path / "net.onnx", Recurrent(kind, **options)
    info = export(net, torch.zeros(1, 4, 12), path, dynamo=False).info
    cells = [f"cell{n}" for n in ("", "_2")[: net.cell.num_layers]]
    assert [group.name for group in info.prunable] == ["conv", "mix", *cells]
    gates = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[kind]
    for cell in cells:
        group, operator = info.group_by_name[cell], info.operator_by_name[cell]
        assert (group.units, group.kind) == (5, "recurrent")
        assert operator.out_channels == 5 * gates * (1 + net.cell.bidirectional)
        rows = rows_written(info, operator, {cell: np.arange(5)})
        assert np.array_equal(rows, np.arange(operator.out_channels) % 5)
    assert invariant(path, (4, 12))
    assert hidden_units_go(path, net, cells[0])


def hidden_units_go(path: Path, net: Any, cell: str) -> bool:
    """Whether masking hidden unit 2 of a layer is the same as PyTorch without what reads it."""
    x = np.random.default_rng(0).standard_normal((2, 4, 12), np.float32)
    mask = np.array([1, 1, 0, 1, 1], np.float32)
    session = make_session(path, {f"{cell}.mask": mask})
    got = session.run(None, {session.get_inputs()[0].name: x})[0]
    with torch.inference_mode():
        for name, value in net.cell.named_parameters():
            if name.startswith(("weight_hh_l0", "weight_ih_l1")):
                value[:, 2::5] = 0
        if net.cell.num_layers == 1:
            net.fc.weight[:, 2::5] = 0
        expected = net.eval()(torch.from_numpy(x)).numpy()
    return np.allclose(got, expected, atol=1e-5)


def test_a_state_that_is_given_freezes_the_hidden_units(tmp_path: Path) -> None:
    class Stateful(Recurrent):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.mix(self.conv(x).relu()).relu().transpose(1, 2)
            return self.fc(self.cell(y, x[None, :, 0, :5].contiguous())[0][:, -1])

    net = Stateful(nn.GRU)
    report = export(net, torch.zeros(1, 4, 12), tmp_path / "net.onnx", dynamo=False)
    assert [group.name for group in report.info.prunable] == ["conv", "mix"]
    assert "starts from a state that cannot be pruned" in dict(report.frozen)["cell"]


def test_layers_on_a_sequence(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.Flatten(), nn.Linear(24, 3))
    path = tmp_path / "net.onnx"
    info = export(net, torch.zeros(1, 4, 5), path, dynamo=False).info
    assert [(group.name, group.units) for group in info.prunable] == [("0", 7), ("2", 6)]
    assert [info.operator_by_name[name].op for name in "024"] == ["MatMul", "MatMul", "Gemm"]
    index = Artifact.open(path).mask_index(info.operator_by_name["4"])
    assert np.array_equal(index, np.tile(np.arange(6), 4))
    assert info.head == "4"
    assert invariant(path, (4, 5))
