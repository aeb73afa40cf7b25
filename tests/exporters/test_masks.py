"""Zeroing a mask is the same as pruning the units, as PyTorch computes it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest

from edgeprune.exporters._export import prepare
from edgeprune.runtime._ort import make_session
from edgeprune.runtime.network._graph import to_model

from .rows import pruned_rows_replaced

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
    noise = pruned_rows_replaced(it.artifact, masks, rng)
    assert noise
    assert np.array_equal(it.run(changed | noise), it.run(changed))


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
    # ONNX Runtime shares equal constants, so a GroupNorm's ones may bear the name of a mask: what
    # counts is that nothing computes with masks any more.
    one, two = (
        onnx.load(tmp_path / f"{number}.onnx", load_external_data=False).graph for number in (0, 1)
    )
    assert Counter(map(_form, one.node)) == Counter(map(_form, two.node))
    assert not [n.name for n in two.node if n.name.startswith("edgeprune/")]


def _form(node: onnx.NodeProto) -> tuple[str, int]:
    return node.op_type, len(node.input)


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
    assert depthwise.writes == ("pw.0.conv",)
    assert depthwise.write_index is None


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


def test_a_layer_used_twice_becomes_two_operators(specimen: Any) -> None:
    it = specimen("awkward")
    first, second = (it.report.info.operator_by_name[name] for name in ("shared", "shared_2"))
    assert (first.reads, first.writes) == (("stem.conv",), ("shared",))
    assert (second.reads, second.writes) == (("shared",), ("shared_2",))
    weights = [it.artifact.tensors[operator.weight] for operator in (first, second)]
    assert np.array_equal(*weights)


def test_group_norm_ties_its_groups(specimen: Any) -> None:
    it = specimen("awkward")
    after, before = (it.report.info.operator_by_name[f"{n}.conv"] for n in ("after", "before"))
    assert it.report.info.group_by_name["after.conv"].units == 2
    assert (after.writes, after.write_index) == (("after.conv",), (0,) * 4 + (1,) * 4)
    assert np.array_equal(it.artifact.mask_index(before), np.repeat([0, 1], 4))


def test_a_grouped_convolution_ties_its_groups(specimen: Any) -> None:
    info = specimen("awkward").report.info
    grouped, free = info.operator_by_name["grouped"], info.operator_by_name["free.conv"]
    assert (grouped.depthwise, grouped.reads, grouped.masked) == (True, (), False)
    assert grouped.writes == free.reads == ("before.conv",)
    assert grouped.write_index == (0, 0, 1, 1, 2, 2, 3, 3)


def test_a_single_channel_belongs_to_no_other_group(specimen: Any) -> None:
    members = specimen("awkward").report.info.group_by_name["attention.conv"].members
    assert [(m.node, m.role) for m in members] == [("attention.conv", "producer")]


@pytest.mark.parametrize(
    ("group", "reason"), [("attention.conv", "it has one unit"), ("fc", "network output")]
)
def test_what_cannot_be_pruned_says_why(specimen: Any, group: str, reason: str) -> None:
    frozen = dict(specimen("awkward").report.frozen)
    assert reason in frozen[group]
