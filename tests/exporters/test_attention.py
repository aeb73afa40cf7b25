"""Attention is pruned by heads, however it is written; the rest of the network is as PyTorch's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper
from torch import nn
from torch.nn import functional as F

from edgeprune.exporters import export, export_onnx
from edgeprune.runtime._ort import make_session
from edgeprune.runtime.artifact import Artifact
from edgeprune.runtime.scope import keep_counts, unit_steps

from .onnx_nets import constant, model_of, tensor, value
from .rows import pruned_rows_replaced

X = torch.zeros(1, 7, 12)


class Layer(nn.Module):
    """PyTorch's own layer; with `weights` it multiplies stacks of (batch · heads) matrices."""

    def __init__(self, *, weights: bool, batch_first: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 3, batch_first=batch_first)
        self.head, self.weights = nn.Linear(12, 4), weights

    @property
    def out(self) -> nn.Linear:
        return self.attention.out_proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time = 1 if self.attention.batch_first else 0
        x = x if self.attention.batch_first else x.transpose(0, 1)
        return self.head(self.attention(x, x, x, need_weights=self.weights)[0].mean(time))


class ByHand(nn.Module):
    """Queries, and keys and values that several of them share; turned by their position."""

    def __init__(self, heads: int, shared: int, *, rotary: bool = False) -> None:
        super().__init__()
        self.q, self.kv = nn.Linear(12, 4 * heads), nn.Linear(12, 8 * shared)
        self.out, self.head = nn.Linear(4 * heads, 12), nn.Linear(12, 4)
        self.heads, self.shared, self.rotary = heads, shared, rotary

    def turned(self, x: torch.Tensor) -> torch.Tensor:
        if not self.rotary:
            return x
        angle = torch.arange(7.0)[:, None] * torch.tensor([1.0, 0.1, 1.0, 0.1])
        half = torch.cat([-x[..., 2:], x[..., :2]], -1)
        return x * angle.cos() + half * angle.sin()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.turned(self.q(x).unflatten(-1, (self.heads, 4)).transpose(1, 2))
        k, v = self.kv(x).unflatten(-1, (2, self.shared, 4)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(
            q, self.turned(k), v, is_causal=True, enable_gqa=self.heads != self.shared
        )
        return self.head(self.out(y.transpose(1, 2).flatten(2)).mean(1))


CASES: dict[str, tuple[nn.Module, int, dict[str, Any]]] = {
    "layer": (Layer(weights=False, batch_first=True), 3, {"dynamo": False}),
    "layer, weights": (Layer(weights=True, batch_first=True), 3, {"dynamo": False}),
    "layer, time first": (Layer(weights=False, batch_first=False), 3, {"dynamo": False}),
    "layer, weights, time first": (Layer(weights=True, batch_first=False), 3, {"dynamo": False}),
    "layer, dynamo": (Layer(weights=False, batch_first=True), 3, {}),
    "layer, weights, dynamo": (Layer(weights=True, batch_first=True), 3, {}),
    "by hand": (ByHand(4, 4), 4, {"dynamo": False}),
    "rotary": (ByHand(4, 4, rotary=True), 4, {"dynamo": False}),
    "rotary, dynamo": (ByHand(4, 4, rotary=True), 4, {}),
    "shared keys, dynamo": (ByHand(6, 3), 3, {}),
    "one operator": (ByHand(4, 4), 4, {"opset": 23}),
    "one operator, shared keys": (ByHand(6, 3, rotary=True), 3, {"opset": 23}),
}


@pytest.mark.parametrize("name", CASES)
def test_heads_are_units(tmp_path: Path, name: str) -> None:
    net, units, options = CASES[name]
    path = tmp_path / "net.onnx"
    info = export(net.eval(), X, path, **options).info
    (group,) = (group for group in info.prunable if group.kind == "heads")
    assert group.units == units
    x = np.random.default_rng(0).standard_normal((2, 7, 12), np.float32)
    rng, artifact = np.random.default_rng(1), Artifact.open(path)
    for gone in range(units):
        mask = np.ones(units, np.float32)
        mask[gone] = 0
        noise = pruned_rows_replaced(artifact, {group.name: mask}, rng)
        got = run(path, {group.mask: mask}, x)
        assert np.array_equal(got, run(path, {group.mask: mask} | noise, x))
        np.testing.assert_allclose(got, without_head(net, gone, units, x), atol=1e-5)


@pytest.mark.parametrize(
    ("net", "steps"),
    [
        (Layer(weights=False, batch_first=True), {1: 1, 4: 1, 8: 2, 16: 4}),
        (ByHand(4, 4), {4: 1, 8: 2}),
        (ByHand(6, 3), {4: 1, 8: 1, 16: 2}),
    ],
)
def test_heads_count_by_their_width(tmp_path: Path, net: Any, steps: dict[int, int]) -> None:
    """Heads of four channels each fill a board's eight two by two; single channels by eights."""
    info = export(net.eval(), X, tmp_path / "net.onnx").info
    artifact = Artifact.open(tmp_path / "net.onnx")
    (group,) = (group for group in info.prunable if group.kind == "heads")
    others = [name for name in unit_steps(artifact, 1) if name != group.name]
    for multiple, step in steps.items():
        found = unit_steps(artifact, multiple)
        assert found[group.name] == step
        assert {found[name] for name in others} == {multiple}
    half = keep_counts((group,), 0.5, unit_steps(artifact, 4))
    assert half == {group.name: round(group.units / 2)}


def run(path: Path, tensors: dict[str, Any], x: Any) -> Any:
    session = make_session(path, tensors)
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def without_head(net: Any, gone: int, units: int, x: Any) -> Any:
    """PyTorch's answer when nothing reads one head, or those that share a key."""
    weight = net.out.weight
    kept = weight.detach().clone()
    width = weight.shape[1] // units
    with torch.inference_mode():
        weight[:, gone * width : (gone + 1) * width] = 0
        answer = net(torch.from_numpy(x)).numpy()
        weight.copy_(kept)
    return answer


def test_both_products_count(tmp_path: Path) -> None:
    """Whether attention is one operator or several, its heads carry the same multiply-adds."""
    several = export(ByHand(6, 3), X, tmp_path / "a.onnx", opset=20).info
    one = export(ByHand(6, 3), X, tmp_path / "b.onnx", opset=23).info
    assert several.macs == one.macs
    assert [group.macs for group in several.groups] == [group.macs for group in one.groups]
    assert several.prunable_macs == several.macs


class Neighbours(nn.Module):
    """A graph network: places take in what their neighbours hold, channel by channel."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.hidden, self.activation, self.head = nn.Linear(12, 9), activation, nn.Linear(9, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        near = (x @ x.transpose(1, 2)).softmax(-1)
        return self.head((near @ self.activation(self.hidden(x))).mean(1))


@pytest.mark.parametrize(("activation", "kind"), [(nn.ReLU(), "hidden"), (nn.Identity(), "linear")])
def test_units_that_a_product_mixes_place_by_place_are_no_heads(
    tmp_path: Path, activation: nn.Module, kind: str
) -> None:
    net = Neighbours(activation).eval()
    info = export(net, X, tmp_path / "net.onnx", dynamo=False).info
    (group,) = info.prunable
    assert (group.units, group.kind) == (9, kind)
    assert "MatMul" in [member.op for member in group.members if member.role == "channelwise"]


def test_units_of_a_mask_are_frozen(tmp_path: Path) -> None:
    """What a layer adds to the scores of one place is no unit: the softmax mixes all places."""
    nodes, shape = [], constant("heads", [0, 7, 4, 4])
    for name in "qkv":
        nodes += [
            helper.make_node("MatMul", ["x", f"{name}.weight"], [f"{name}.flat"], name=name),
            helper.make_node("Reshape", [f"{name}.flat", "heads"], [f"{name}.split"]),
            helper.make_node("Transpose", [f"{name}.split"], [f"{name}.4d"], perm=[0, 2, 1, 3]),
        ]
    nodes += [
        helper.make_node("MatMul", ["x", "bias.weight"], ["bias"], name="bias"),
        helper.make_node("Reshape", ["bias", "one"], ["mask"]),
        helper.make_node("Attention", ["q.4d", "k.4d", "v.4d", "mask"], ["a"], name="attention"),
        helper.make_node("Transpose", ["a"], ["t"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["t", "joined"], ["f"]),
        helper.make_node("MatMul", ["f", "out.weight"], ["y"], name="out"),
    ]
    constants = [shape, constant("one", [0, 1, 7, 7]), constant("joined", [0, 7, 16])]
    constants += [tensor(f"{name}.weight", 12, 16) for name in "qkv"]
    constants += [tensor("bias.weight", 12, 7), tensor("out.weight", 16, 5)]
    model = model_of(
        nodes,
        constants,
        inputs=[value("x", ["batch", 7, 12])],
        outputs=[value("y", ["batch", 7, 5])],
        opset=23,
    )
    info = export_onnx(model, tmp_path / "net.onnx").info
    assert info.prunable == ()
    reason = info.group_by_name["bias"].frozen
    assert reason == "Attention 'attention' has a mask that is computed from it"
