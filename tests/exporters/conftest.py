"""A zoo of small networks, each with a mask reference written in PyTorch only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgeprune.exporters import ExportReport, export
from edgeprune.runtime._ort import make_session
from edgeprune.runtime.artifact import Artifact


class ConvBN(nn.Module):
    """Convolution and normalisation; `keep`, one number a channel, multiplies what it writes."""

    def __init__(  # noqa: PLR0917 - short for the many lines that build blocks
        self, a: int, b: int, k: int = 3, stride: int = 1, groups: int = 1, bn: bool = True
    ):
        super().__init__()
        self.conv = nn.Conv2d(a, b, k, stride, k // 2, groups=groups, bias=not bn)
        self.bn = nn.BatchNorm2d(b) if bn else None
        self.keep: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        x = x if self.bn is None else self.bn(x)
        return x if self.keep is None else x * self.keep[:, None, None]


class DSCNN(nn.Module):
    """Keyword spotting: depthwise-separable blocks, a mean over space, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBN(1, 12, 5, 2)
        self.dw = nn.ModuleList([ConvBN(a, a, 3, 1, a) for a in (12, 16)])
        self.pw = nn.ModuleList([ConvBN(a, b, 1) for a, b in ((12, 16), (16, 20))])
        self.fc = nn.Linear(20, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        for dw, pw in zip(self.dw, self.pw, strict=True):
            x = pw(dw(x).relu()).relu()
        return self.fc(x.mean((2, 3)))


class VGG(nn.Module):
    """A flatten repeats each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a = ConvBN(3, 8, bn=False)
        self.b = ConvBN(8, 10)
        self.fc1 = nn.Linear(10 * 4 * 4, 14)
        self.fc2 = nn.Linear(14, 6)
        self.keep: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(self.a(x).relu(), 2)
        x = F.avg_pool2d(self.b(x).relu(), 2).flatten(1)
        x = self.fc1(x).relu()
        x = x if self.keep is None else x * self.keep
        return self.fc2(F.dropout(x, 0.5, self.training))


class ResNet(nn.Module):
    """A basic block, a bottleneck and a projection; SiLU, Hardswish and GELU keep zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBN(3, 8)
        self.a1, self.a2 = ConvBN(8, 12), ConvBN(12, 8)
        self.b1, self.b2, self.b3 = ConvBN(8, 6, 1), ConvBN(6, 6, 3, 2), ConvBN(6, 16, 1)
        self.down = ConvBN(8, 16, 1, 2)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = F.relu(x + self.a2(F.silu(self.a1(x))))
        y = self.b3(F.gelu(self.b2(F.hardswish(self.b1(x)))))
        x = F.relu(y + self.down(x))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)).softmax(1)


class SE(nn.Module):
    """MobileNetV3's squeeze-and-excitation in an inverted residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBN(3, 8)
        self.expand, self.dw, self.project = (
            ConvBN(8, 24, 1),
            ConvBN(24, 24, 5, 1, 24),
            ConvBN(24, 8, 1),
        )
        self.down, self.up = ConvBN(24, 6, 1, bn=False), ConvBN(6, 24, 1, bn=False)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = F.hardswish(self.dw(F.hardswish(self.expand(x))))
        gate = self.up(F.relu(self.down(F.adaptive_avg_pool2d(y, 1))))
        x = x + self.project(y * F.hardsigmoid(gate))
        return self.fc(x.mean([2, 3]))


class M5(nn.Module):
    """Convolutions over time."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.b1 = nn.Conv1d(1, 8, 9, 4), nn.BatchNorm1d(8)
        self.c2, self.b2 = nn.Conv1d(8, 12, 3), nn.BatchNorm1d(12)
        self.fc = nn.Linear(12, 5)
        self.keep: dict[str, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.b1(self.c1(x)).relu()
        x = x * self.keep["c1"][:, None] if self.keep else x
        x = self.b2(self.c2(F.max_pool1d(x, 4))).relu()
        x = x * self.keep["c2"][:, None] if self.keep else x
        return F.log_softmax(self.fc(x.mean(-1)), 1)


class DenseNet(nn.Module):
    """Concatenation, and a BatchNorm after it that cannot be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = (
            ConvBN(3, 6, bn=False),
            ConvBN(6, 5, bn=False),
            ConvBN(11, 7, bn=False),
        )
        self.na, self.nb, self.n = nn.BatchNorm2d(6), nn.BatchNorm2d(11), nn.BatchNorm2d(18)
        self.fc = nn.Linear(18, 4)
        self.masks: dict[str, torch.Tensor] = {}

    def cut(self, x: torch.Tensor, *names: str) -> torch.Tensor:
        if not self.masks:
            return x
        return x * torch.cat([self.masks[name] for name in names])[:, None, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.a(self.cut(self.na(x).relu(), "stem"))], 1)
        x = torch.cat([x, self.b(self.cut(self.nb(x).relu(), "stem", "a"))], 1)
        return self.fc(self.cut(self.n(x).relu(), "stem", "a", "b").mean((2, 3)))


class Shuffle(nn.Module):
    """ShuffleNet: split, one branch through convolutions, concatenation, channel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBN(3, 12)
        self.p1, self.dw, self.p2 = ConvBN(6, 8, 1), ConvBN(8, 8, 3, 1, 8), ConvBN(8, 6, 1)
        self.last = ConvBN(12, 10, 1)
        self.fc = nn.Linear(10, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        left, right = x.chunk(2, 1)
        right = self.p2(self.dw(self.p1(right).relu())).relu()
        x = torch.cat([left, right], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.fc(self.last(x).relu().mean((2, 3)))


class Awkward(nn.Module):
    """A layer used twice, GroupNorm, a grouped convolution, spatial attention of one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBN(3, 8, bn=False)
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.after = ConvBN(8, 8, bn=False)
        self.norm = nn.GroupNorm(2, 8)
        self.before, self.grouped = ConvBN(8, 8, bn=False), nn.Conv2d(8, 8, 3, groups=4)
        self.free, self.attention = ConvBN(8, 10, bn=False), ConvBN(10, 1, 1, bn=False)
        self.fc = nn.Linear(10, 4)
        self.keep: dict[str, torch.Tensor] = {}

    def cut(self, x: torch.Tensor, name: str, channels_per_unit: int = 1) -> torch.Tensor:
        if not self.keep:
            return x
        return x * self.keep[name].repeat_interleave(channels_per_unit)[:, None, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.cut(self.shared(self.cut(self.stem(x).relu(), "stem.conv")).relu(), "shared")
        x = self.after(self.cut(self.shared(x), "shared_2"))
        x = self.before(self.cut(self.norm(x).relu(), "after.conv", 4)).relu()
        x = self.cut(self.grouped(x).relu(), "before.conv", 2)
        x = self.cut(self.free(x).relu(), "free.conv")
        return self.fc((x * self.attention(x).sigmoid()).mean((2, 3)))


class MLP(nn.Module):
    """Linear layers only; tanh and sigmoid, of which one does not keep zero."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(9, 12), nn.Linear(12, 7, bias=False), nn.Linear(7, 3)
        self.keep: dict[str, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x).tanh()
        x = self.b(x * self.keep["a"] if self.keep else x).sigmoid()
        return self.c(x * self.keep["b"] if self.keep else x)


def _mask_blocks(
    net: nn.Module, masks: Mapping[str, torch.Tensor], where: Mapping[str, str]
) -> None:
    """`where`: block of the network → block whose mask it shares, if not its own."""
    for name, block in net.named_modules():
        if isinstance(block, ConvBN):
            block.keep = masks.get(f"{where.get(name, name)}.conv")


def _mask_attribute(net: Any, masks: Mapping[str, torch.Tensor]) -> None:
    net.keep = dict(masks)


def _mask_vgg(net: Any, masks: Mapping[str, torch.Tensor]) -> None:
    _mask_blocks(net, masks, {})
    net.keep = masks["fc1"]


def _mask_densenet(net: Any, masks: Mapping[str, torch.Tensor]) -> None:
    net.masks = {name.removesuffix(".conv"): mask for name, mask in masks.items()}


@dataclass(frozen=True)
class Animal:
    """A network, its input, the groups that must be prunable, and how PyTorch masks them."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    groups: frozenset[str]
    mask: Callable[[Any, Mapping[str, torch.Tensor]], None] | None = None
    where: Mapping[str, str] = field(default_factory=dict)

    def apply(self, net: nn.Module, masks: Mapping[str, Any]) -> None:
        """Prune `net` with masks by group name."""
        tensors = {name: torch.from_numpy(np.array(mask)) for name, mask in masks.items()}
        if self.mask is None:
            _mask_blocks(net, tensors, self.where)
        else:
            self.mask(net, tensors)


def _convs(names: str) -> frozenset[str]:
    return frozenset(f"{name}.conv" for name in names.split())


ZOO = {
    "dscnn": Animal(
        DSCNN, (1, 20, 16), _convs("stem pw.0 pw.1"), where={"dw.0": "stem", "dw.1": "pw.0"}
    ),
    "vgg": Animal(VGG, (3, 16, 16), _convs("a b") | {"fc1"}, _mask_vgg),
    "resnet": Animal(
        ResNet,
        (3, 12, 12),
        _convs("stem a1 b1 b2 b3"),
        where={"a2": "stem", "down": "b3"},
    ),
    "se": Animal(
        SE,
        (3, 10, 10),
        _convs("stem expand down"),
        where={"project": "stem", "dw": "expand", "up": "expand"},
    ),
    "m5": Animal(M5, (1, 400), frozenset({"c1", "c2"}), _mask_attribute),
    "densenet": Animal(DenseNet, (3, 8, 8), _convs("stem a b"), _mask_densenet),
    "shuffle": Animal(Shuffle, (3, 8, 8), _convs("stem p1 p2 last"), where={"dw": "p1"}),
    "awkward": Animal(
        Awkward,
        (3, 10, 10),
        _convs("stem after before free") | {"shared", "shared_2"},
        _mask_attribute,
    ),
    "mlp": Animal(MLP, (9,), frozenset({"a", "b"}), _mask_attribute),
}


def randomize(net: nn.Module, seed: int = 0) -> nn.Module:
    """Give a network weights and BatchNorm statistics that are not special in any way."""
    torch.manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Conv1d | nn.Linear):
            module.reset_parameters()
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return net.eval()


@dataclass(frozen=True)
class Specimen:
    """An exported animal."""

    animal: Animal
    net: nn.Module
    report: ExportReport
    artifact: Artifact

    @property
    def inputs(self) -> Any:
        """A batch of two."""
        return np.random.default_rng(7).standard_normal((2, *self.animal.shape), np.float32)

    def run(self, tensors: Mapping[str, Any] | None = None) -> Any:
        """Run the artifact with some external tensors replaced."""
        values = {name: np.asarray(value, np.float32) for name, value in (tensors or {}).items()}
        session = make_session(self.report.path, values)
        return session.run(None, {self.artifact.info.input_name: self.inputs})[0]

    def torch(self) -> Any:
        """Run the PyTorch network."""
        with torch.inference_mode():
            return self.net(torch.from_numpy(self.inputs)).numpy()


@pytest.fixture(scope="session")
def specimen(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Specimen]:
    """Export an animal of the zoo, once."""
    folder: Path = tmp_path_factory.mktemp("zoo")

    @cache
    def get(name: str, dynamo: bool = False) -> Specimen:
        animal = ZOO[name]
        net = randomize(animal.build())
        path = folder / f"{name}{dynamo}.onnx"
        report = export(net, torch.zeros(1, *animal.shape), path, dynamo=dynamo)
        return Specimen(animal, net, report, Artifact.open(path))

    return get
