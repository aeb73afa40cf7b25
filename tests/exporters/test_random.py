"""Random networks: whatever is joined, split and flattened, masks mean what they say."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from edgeprune.exporters import export
from edgeprune.runtime._ort import make_session
from edgeprune.runtime.artifact import Artifact

from .rows import pruned_rows_replaced, rows_written

# All of them keep zero, so that masking what a unit writes is pruning it.
ACTIVATIONS: dict[str, Any] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "none": lambda x: x,
}
BLOCKS = ("conv", "depthwise", "residual", "pool", "gate", "concat", "pad", "cut", "scale")

block = st.tuples(
    st.sampled_from(BLOCKS), st.integers(2, 7), st.sampled_from(sorted(ACTIVATIONS)), st.booleans()
)


class Masked(nn.Module):
    """A convolution that can be told to write zeros."""

    def __init__(self, conv: nn.Module, channels: int, bn: bool) -> None:
        super().__init__()
        self.conv, self.bn = conv, nn.BatchNorm2d(channels) if bn else nn.Identity()
        self.keep: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn(self.conv(x))
        return x if self.keep is None else x * self.keep.reshape(-1, *[1] * (x.ndim - 2))


class RandomNet(nn.Module):
    """Blocks drawn at random, then a flatten or a mean, then one or two linear layers."""

    def __init__(self, blocks: list[Any], flatten: bool, hidden: int) -> None:
        super().__init__()
        self.blocks, self.flatten, self.layers = blocks, flatten, nn.ModuleDict()
        channels = self._add("stem", 2, 4, 3)
        for number, (kind, width, _, bn) in enumerate(blocks):
            name = f"b{number}"
            if kind == "conv":
                channels = self._add(name, channels, width, 3, bn)
            elif kind == "depthwise":
                self._add(name, channels, channels, 3, bn, channels)
            elif kind == "residual":
                self._add(f"{name}a", channels, width, 1, bn)
                self._add(f"{name}b", width, channels, 3, bn)
            elif kind == "gate":
                self._add(name, channels, channels, 1, False)
            elif kind == "concat":
                channels += self._add(name, channels, width, 1, bn)
            elif kind == "cut" and channels > 3:
                channels -= 1
        size = channels * 36 if flatten else channels
        self.layers["hidden"] = Masked(nn.Linear(size, hidden), hidden, False)
        self.head = nn.Linear(hidden, 3)

    def _add(self, name: str, a: int, b: int, k: int, *norm_and_groups: Any) -> int:
        bn, groups = (*norm_and_groups, *(True, 1)[len(norm_and_groups) :])
        conv = nn.Conv2d(a, b, k, padding=k // 2, groups=groups, bias=not bn)
        self.layers[name] = Masked(conv, b, bn)
        return b

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layers["stem"](x)
        for number, (kind, width, activation, _) in enumerate(self.blocks):
            x = ACTIVATIONS[activation](self._step(f"b{number}", kind, width, x))
        x = x.flatten(1) if self.flatten else x.mean((2, 3))
        return self.head(self.layers["hidden"](x).relu())

    def _step(self, name: str, kind: str, width: int, x: torch.Tensor) -> torch.Tensor:
        layers = self.layers
        steps: dict[str, Any] = {
            "conv": lambda: layers[name](x),
            "depthwise": lambda: layers[name](x),
            "residual": lambda: x + layers[f"{name}b"](layers[f"{name}a"](x).relu()),
            "pool": lambda: (F.max_pool2d if width % 2 else F.avg_pool2d)(x, 3, 1, 1),
            "gate": lambda: x * torch.sigmoid(layers[name](F.adaptive_avg_pool2d(x, 1))),
            "concat": lambda: torch.cat([x, layers[name](x)], 1),
            "pad": lambda: F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1),
            "cut": lambda: x[:, 1:] if x.shape[1] > 3 else x,
            "scale": lambda: x * 0.5,
        }
        return steps[kind]()


def keep_where_written(net: RandomNet, info: Any, masks: dict[str, Any]) -> None:
    """Let every convolution write zeros where a mask of its own group says so."""
    for operator in info.operators:
        name = operator.name.split(".")[1] if operator.name.startswith("layers.") else None
        if name is not None:
            keep = rows_written(info, operator, masks).astype(np.float32)
            net.layers[name].keep = torch.from_numpy(keep)


def randomized(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            nn.init.normal_(module.running_mean, 0, 0.3)
    return net.eval()


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    st.lists(block, min_size=1, max_size=5), st.booleans(), st.integers(2, 6), st.integers(0, 99)
)
def test_masked_equals_pruned(blocks: list[Any], flatten: bool, hidden: int, seed: int) -> None:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = randomized(RandomNet(blocks, flatten, hidden))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        info = export(net, torch.zeros(1, 2, 6, 6), path, dynamo=False).info
        masks = {g.name: (rng.random(g.units) > 0.4).astype(np.float32) for g in info.prunable}
        tensors = {f"{name}.mask": mask for name, mask in masks.items()}
        x = rng.standard_normal((2, 2, 6, 6), np.float32)
        got = make_session(path, tensors).run(None, {info.input_name: x})[0]
        noisy = tensors | pruned_rows_replaced(Artifact.open(path), masks, rng)
        assert np.array_equal(got, make_session(path, noisy).run(None, {info.input_name: x})[0])
    keep_where_written(net, info, masks)
    with torch.inference_mode():
        expected = net(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-4, rtol=1e-4)
    assert "layers.hidden.conv" in masks
