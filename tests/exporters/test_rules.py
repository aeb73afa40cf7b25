"""Operators one by one between two convolutions: passed through, or frozen with the reason."""

from __future__ import annotations

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
}
FREEZES: dict[str, tuple[Any, str]] = {
    "softmax": (lambda x: x.softmax(1), "Softmax"),
    "layer norm": (nn.LayerNorm([6, 8, 8]), "LayerNormalization|ReduceMean"),
    "instance norm": (nn.InstanceNorm2d(6, affine=True), "InstanceNormalization"),
    "transposed": (nn.ConvTranspose2d(6, 6, 3, padding=1), "ConvTranspose"),
    "grouped": (nn.Conv2d(6, 6, 3, padding=1, groups=3), "grouped convolution"),
    "matmul": (lambda x: x @ x.transpose(2, 3), "MatMul"),
    "max over channels": (lambda x: x - x.amax(1, keepdim=True), "ReduceMax"),
    "reversed": (lambda x: x + x[:, [5, 4, 3, 2, 1, 0]], "same channels in the same order"),
    "input": (lambda x: x + torch.ones(6)[:, None, None].cumsum(0) * x.sum((1, 2, 3), True), "Sum"),
}


def invariant(path: Path, info: Any, group: str) -> bool:
    """Whether pruned units have no say, whatever their weights are."""
    artifact, rng = Artifact.open(path), np.random.default_rng(0)
    mask = np.ones(info.group_by_name[group].units, np.float32)
    mask[[0, 3]] = 0
    operator = info.operator_by_name[group]
    weight = np.array(artifact.tensors[operator.weight])
    weight[[0, 3]] = rng.standard_normal(weight[[0, 3]].shape)
    x = {info.input_name: rng.standard_normal((2, 3, 8, 8), np.float32)}
    plain = {f"{group}.mask": mask}
    one = make_session(path, plain).run(None, x)[0]
    two = make_session(path, {**plain, operator.weight: weight}).run(None, x)[0]
    return bool(np.array_equal(one, two))


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
    assert invariant(path, info, "first")


@pytest.mark.parametrize("name", FREEZES)
def test_freezes(tmp_path: Path, name: str) -> None:
    step, reason = FREEZES[name]
    report = export(Between(step), torch.zeros(1, 3, 8, 8), tmp_path / "net.onnx", dynamo=False)
    frozen = dict(report.frozen)
    assert "first" in frozen, report.info.prunable
    assert any(part in frozen["first"] for part in reason.split("|")), frozen["first"]


def test_recurrent_layers_freeze_what_they_read(tmp_path: Path) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.mix = nn.Conv1d(4, 8, 3), nn.Conv1d(8, 6, 1)
            self.gru, self.fc = nn.GRU(6, 5, batch_first=True), nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.mix(self.conv(x).relu()).relu().transpose(1, 2)
            return self.fc(self.gru(x)[0][:, -1])

    report = export(Recurrent(), torch.zeros(1, 4, 12), tmp_path / "net.onnx", dynamo=False)
    assert [group.name for group in report.info.prunable] == ["conv"]
    assert "mix" in dict(report.frozen)


def test_a_layer_on_a_sequence_is_left_alone(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.Flatten(), nn.Linear(24, 3))
    report = export(net, torch.zeros(1, 4, 5), tmp_path / "net.onnx", dynamo=False)
    assert report.info.prunable == ()
    assert report.info.head == "4"
