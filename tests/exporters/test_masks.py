"""Zeroing a mask is the same as pruning the units, as PyTorch computes it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest

from edgeprune.exporters._export import prepare
from edgeprune.exporters._graph import to_model
from edgeprune.runtime._ort import make_session

NAMES = ["dscnn", "vgg", "resnet", "se", "m5", "densenet", "shuffle", "awkward", "mlp"]
CASES = [(name, False) for name in NAMES] + [("se", True), ("shuffle", True), ("m5", True)]
each_animal = pytest.mark.parametrize(("name", "dynamo"), CASES)


def random_masks(info: Any, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    masks = {}
    for group in info.prunable:
        mask = (rng.random(group.units) > 0.4).astype(np.float32)
        mask[rng.integers(group.units)] = 1
        mask[rng.integers(group.units)] = 0
        masks[group.name] = mask
    return masks


def tensors(masks: dict[str, Any]) -> dict[str, Any]:
    return {f"{name}.mask": mask for name, mask in masks.items()}


@each_animal
def test_the_groups_are_those_that_can_be_pruned(specimen: Any, name: str, dynamo: bool) -> None:
    it = specimen(name, dynamo)
    assert {group.name for group in it.report.info.prunable} == it.animal.groups


@each_animal
def test_masked_equals_pruned_in_pytorch(specimen: Any, name: str, dynamo: bool) -> None:
    it = specimen(name, dynamo)
    for seed in range(5):
        masks = random_masks(it.report.info, seed)
        it.animal.apply(it.net, masks)
        np.testing.assert_allclose(it.run(tensors(masks)), it.torch(), atol=2e-5)


@each_animal
def test_pruned_units_have_no_say(specimen: Any, name: str, dynamo: bool) -> None:
    """Whatever the weights of pruned units are, the output is bit for bit the same."""
    it, rng = specimen(name, dynamo), np.random.default_rng(3)
    masks = random_masks(it.report.info, 11)
    changed = tensors(masks)
    expected = it.run(changed)
    for operator in it.report.info.operators:
        if operator.writes is None:
            continue
        gone = masks[operator.writes] == 0
        for tensor in (operator.weight, operator.bias):
            value = np.array(it.artifact.tensors[tensor])
            rows = np.moveaxis(value, operator.out_axis if value.ndim > 1 else 0, 0)
            rows[gone] = 50 * rng.standard_normal(rows[gone].shape)
            changed[tensor] = value
    assert np.array_equal(it.run(changed), expected)


@each_animal
def test_every_mask_gain_and_shift_is_alive(specimen: Any, name: str, dynamo: bool) -> None:
    it = specimen(name, dynamo)
    neutral = it.run()
    for tensor, value in it.artifact.neutral_masks.items():
        noise = np.random.default_rng(0).standard_normal(value.shape)
        changed = 0 * value if tensor.endswith(".mask") else value + noise
        assert not np.allclose(it.run({tensor: changed}), neutral, atol=1e-7), tensor


@each_animal
def test_gain_and_shift_scale_an_operator_and_move_it(
    specimen: Any, name: str, dynamo: bool
) -> None:
    it, rng = specimen(name, dynamo), np.random.default_rng(5)
    for operator in it.report.info.operators:
        gain = rng.uniform(0.5, 2, operator.out_channels).astype(np.float32)
        shift = rng.standard_normal(operator.out_channels).astype(np.float32)
        weight, bias = (np.array(it.artifact.tensors[n]) for n in (operator.weight, operator.bias))
        shape = [1] * weight.ndim
        shape[operator.out_axis] = -1
        by_hand = {
            operator.weight: weight * gain.reshape(shape),
            operator.bias: bias * gain + shift,
        }
        explicit = {operator.gain: gain, operator.shift: shift}
        assert np.array_equal(it.run(explicit), it.run(by_hand))


@each_animal
def test_neutral_is_the_plain_network_and_leaves_no_trace(
    specimen: Any, name: str, dynamo: bool, tmp_path: Any
) -> None:
    it = specimen(name, dynamo)
    plain = to_model(prepare(_neutral_model(it)))
    sessions = []
    for number, model in enumerate((plain.SerializeToString(), it.report.path)):
        session = make_session(model, optimized_model=tmp_path / f"{number}.onnx")
        sessions.append(session.run(None, {it.artifact.info.input_name: it.inputs})[0])
    assert np.array_equal(*sessions)
    one, two = (onnx.load(tmp_path / f"{number}.onnx").graph for number in (0, 1))
    assert Counter(n.op_type for n in one.node) == Counter(n.op_type for n in two.node)
    assert not [n.name for n in two.node if n.name.startswith("edgeprune/")]
    assert not [n for node in two.node for n in node.input if ".mask" in n or ".gain" in n]


def _neutral_model(it: Any) -> onnx.ModelProto:
    """The artifact with its operators reading their plain weights: written without the package."""
    model = onnx.load(it.report.path)
    nodes = [node for node in model.graph.node if not node.name.startswith("edgeprune/")]
    for node in nodes:
        if node.name in it.report.info.operator_by_name:
            node.input[1], node.input[2] = f"{node.name}.weight", f"{node.name}.bias"
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def test_a_depthwise_operator_follows_its_group(specimen: Any) -> None:
    info = specimen("dscnn").report.info
    depthwise = info.operator_by_name["dw.1.conv"]
    assert depthwise.depthwise
    assert depthwise.reads == ()
    assert depthwise.in_axis is None
    assert not depthwise.masked
    assert depthwise.writes == "pw.0.conv"


def test_a_flatten_repeats_each_unit(specimen: Any) -> None:
    it = specimen("vgg")
    operator = it.report.info.operator_by_name["fc1"]
    assert operator.reads == ("b.conv",)
    assert np.array_equal(it.artifact.mask_index(operator), np.repeat(np.arange(10), 16))


def test_a_concat_reads_its_parts_in_order(specimen: Any) -> None:
    it = specimen("densenet")
    operator = it.report.info.operator_by_name["fc"]
    assert operator.reads == ("stem.conv", "a.conv", "b.conv")
    assert np.array_equal(it.artifact.mask_index(operator), np.arange(18))


def test_a_channel_shuffle_is_an_index(specimen: Any) -> None:
    it = specimen("shuffle")
    operator = it.report.info.operator_by_name["last.conv"]
    index = it.artifact.mask_index(operator)
    assert operator.reads == ("stem.conv", "p2.conv")
    assert np.array_equal(index, np.stack([np.arange(6), np.arange(12, 18)], 1).ravel())


@pytest.mark.parametrize(
    ("name", "group", "kind"),
    [
        ("dscnn", "stem.conv", "hidden"),
        ("resnet", "stem.conv", "residual"),
        ("resnet", "b3.conv", "residual"),
        ("resnet", "b1.conv", "hidden"),
        ("se", "expand.conv", "hidden"),
        ("se", "stem.conv", "residual"),
        ("densenet", "stem.conv", "hidden"),
    ],
)
def test_kinds(specimen: Any, name: str, group: str, kind: str) -> None:
    assert specimen(name).report.info.group_by_name[group].kind == kind


@pytest.mark.parametrize(
    ("group", "reason"),
    [
        ("stem.conv", "weights shared by others (shared.weight)"),
        ("after.conv", "not understood channel by channel"),
        ("before.conv", "grouped convolution"),
        ("attention.conv", "spreads it over all channels"),
        ("fc", "network output"),
    ],
)
def test_what_cannot_be_pruned_says_why(specimen: Any, group: str, reason: str) -> None:
    frozen = dict(specimen("awkward").report.frozen)
    assert reason in frozen[group]
