"""From an artifact and a profile to one plain ONNX file."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from edgeprune.exporters import export_onnx
from edgeprune.runtime import compact as module
from edgeprune.runtime.artifact import Artifact
from edgeprune.runtime.compact import CompactReport, compact, rounded_profile
from edgeprune.runtime.errors import ArtifactError, CompactError, ProfileMismatch
from edgeprune.runtime.profile import Profile, kept_weight
from edgeprune.runtime.session import Session

from .net import Array, Net
from .nets import NETS

Masks = dict[str, Array]
Export = Callable[[str], Artifact]
# ONNX 1.16 took GroupNormalization 18 back, and the exporter verifies with a batch of 1.
EXPORTABLE = [name for name in NETS if name not in ("group_norm[(18, True)]", "squeezes")]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Export:
    folder, done = tmp_path_factory.mktemp("artifacts"), dict[str, Artifact]()

    def get(name: str) -> Artifact:
        if name not in done:
            path = folder / f"{len(done)}.onnx"
            export_onnx(NETS[name](), path, labels=None)
            done[name] = Artifact.open(path)
        return done[name]

    return get


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Groups of 24, 20 and 6 units, the second of them read through a flatten of four places."""
    n = Net()
    x = n.relu(n.conv(n.input(3, 8, 8), 3, 24))
    x = n.relu(n.conv(x, 24, 20, strides=[4, 4]))
    hidden = n.relu(n.gemm(n.op("Flatten", x), 80, 6))
    path = tmp_path_factory.mktemp("wide") / "wide.onnx"
    labels = [f"class {number}" for number in range(4)]
    preprocess = {"kind": "array"}
    export_onnx(n.model(n.gemm(hidden, 6, 4)), path, labels=labels, preprocess=preprocess)
    return Artifact.open(path)


def random_masks(artifact: Artifact, share: float, seed: int = 0) -> Masks:
    """Masks that remove about this share of the units, and never a whole group."""
    rng = np.random.default_rng(seed)
    masks = {}
    for group in artifact.info.prunable:
        mask = rng.random(group.units) >= share
        mask[rng.integers(group.units)] = True
        masks[group.name] = mask
    return masks


def first_kept(artifact: Artifact, *counts: int) -> Masks:
    groups = artifact.info.prunable
    return {g.name: np.arange(g.units) < n for g, n in zip(groups, counts, strict=True)}


def left(report: CompactReport) -> list[int]:
    return [group.left for group in report.groups]


def inputs(artifact: Artifact, batch: int, seed: int = 0) -> Array:
    shape = artifact.info.input_shape[1:]
    return np.random.default_rng(seed).standard_normal((batch, *map(int, shape)), np.float32)


def answers(path: Path, batch: Array) -> Array:
    """What the file gives in bare ONNX Runtime, without any of our code."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: batch})[0]


# Equality.


@pytest.mark.parametrize("name", EXPORTABLE)
def test_every_structure(exported: Export, name: str, tmp_path: Path) -> None:
    """`compact` itself compares with the masked artifact, and refuses a difference."""
    artifact = exported(name)
    for share, multiple, rounding in [
        (0.0, 1, "up"), (0.3, 1, "up"), (0.7, 4, "up"), (0.6, 4, "down"), (0.95, 1, "up"),
    ]:  # fmt: skip
        masks = random_masks(artifact, share)
        report = compact(
            artifact, None, tmp_path / "small.onnx", masks=masks, channel_multiple=multiple,
            rounding=rounding,
        )  # fmt: skip
        assert report.worst_error_random <= 1e-4
        assert report.parameters_before == artifact.info.parameters
        assert report.macs_before == artifact.info.macs
        assert (report.parameters_after < report.parameters_before) == (share > 0)


def test_the_profile_is_folded_in(wide: Artifact, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    operators = wide.info.operators
    gains = {op.name: rng.uniform(0.5, 2, op.out_channels) for op in operators}
    shifts = {op.name: rng.standard_normal(op.out_channels) for op in operators}
    masks = random_masks(wide, 0.5)
    weights = {
        op.name: 1.1 * kept_weight(wide, op, masks, wide.tensors[op.weight]) for op in operators
    }
    profile = Profile(
        wide.info.model_id, masks=masks, gains=gains, shifts=shifts, weights=weights,
        strength="deep",
    )  # fmt: skip
    report = compact(wide, profile, tmp_path / "small.onnx", samples=list(inputs(wide, 20)))
    assert report.samples_checked == 20
    assert report.worst_error_samples is not None and report.worst_error_samples < 1e-4
    batch = inputs(wide, 5, seed=9)
    wanted = Session(wide, profile).run(batch)
    assert np.allclose(answers(report.path, batch), wanted, rtol=1e-4, atol=1e-4)
    assert np.abs(wanted - Session(wide).run(batch)).max() > 0.1


def test_without_a_profile_it_is_the_network_itself(wide: Artifact, tmp_path: Path) -> None:
    report = compact(wide, None, tmp_path / "plain.onnx")
    batch = inputs(wide, 2)
    assert np.array_equal(answers(report.path, batch), Session(wide).run(batch))
    assert report.parameters_after == report.parameters_before
    assert report.padded_units == 0 and report.vanished_groups == () and not report.masks


def test_masks_take_the_place_of_those_of_the_profile(wide: Artifact, tmp_path: Path) -> None:
    name = wide.info.prunable[0].name
    profile = Profile(wide.info.model_id, masks=random_masks(wide, 0.5))
    report = compact(wide, profile, tmp_path / "s.onnx", masks={name: np.ones(24, np.bool_)})
    assert report.groups[0].kept == 24
    assert left(report)[1] == profile.masks[wide.info.prunable[1].name].sum() < 20


def test_masks_that_someone_wrote_into_the_files_do_not_count(
    wide: Artifact, tmp_path: Path
) -> None:
    """As for a session: the profile says what is masked."""
    for suffix in (".onnx", ".weights", ".masks"):
        shutil.copy(wide.path.with_suffix(suffix), tmp_path)
    masks = tmp_path / "wide.masks"
    masks.write_bytes(bytes(masks.stat().st_size))
    artifact = Artifact.open(tmp_path / "wide.onnx")
    report = compact(artifact, None, tmp_path / "plain.onnx")
    assert left(report) == [24, 20, 6]


def test_a_group_that_vanishes(exported: Export, tmp_path: Path) -> None:
    artifact = exported("residual")
    inner = artifact.info.prunable[1]
    masks = {inner.name: np.zeros(inner.units, np.bool_)}
    report = compact(artifact, None, tmp_path / "small.onnx", masks=masks)
    assert report.vanished_groups == (inner.name,)
    assert report.to_dict()["vanished_groups"] == [inner.name]


# Rounding.


def test_rounding_up_keeps_removed_units(wide: Artifact, tmp_path: Path) -> None:
    masks = first_kept(wide, 9, 16, 3)
    plain = compact(wide, None, tmp_path / "a.onnx", masks=masks)
    report = compact(wide, None, tmp_path / "b.onnx", masks=masks, channel_multiple=8)
    assert left(plain) == [9, 16, 3] and plain.padded_units == 0
    assert left(report) == [16, 16, 6] and report.padded_units == 10
    assert {name: m.sum() for name, m in report.masks.items()} == {
        name: m.sum() for name, m in masks.items()
    }
    batch = inputs(wide, 4)
    assert np.allclose(answers(plain.path, batch), answers(report.path, batch), atol=1e-5)


def test_a_group_that_rounding_leaves_whole_is_not_cut(wide: Artifact, tmp_path: Path) -> None:
    report = compact(
        wide, None, tmp_path / "s.onnx", masks=first_kept(wide, 17, 19, 1), channel_multiple=32
    )
    assert left(report) == [24, 20, 6]
    assert report.parameters_after == report.parameters_before


def test_rounding_down_drops_what_is_worth_least(wide: Artifact, tmp_path: Path) -> None:
    masks = first_kept(wide, 21, 20, 3)
    report = compact(
        wide, None, tmp_path / "s.onnx", masks=masks, channel_multiple=8, rounding="down"
    )
    first, second, third = wide.info.prunable
    assert left(report) == [16, 20, 6]  # whole ones stay whole, small ones keep what they have
    new = report.masks[first.name]
    assert new.sum() == 16 and not new[~masks[first.name]].any()
    assert second.name not in report.masks
    assert np.array_equal(report.masks[third.name], masks[third.name])
    tensors = wide.tensors
    writer, reader = wide.info.operators[:2]
    worth = np.square(tensors[writer.weight]).sum((1, 2, 3)) * np.square(
        tensors[reader.weight]
    ).sum((0, 2, 3))
    dropped = masks[first.name] & ~new
    assert worth[dropped].max() < worth[new].min()


def test_the_masks_of_a_report_make_a_profile(wide: Artifact, tmp_path: Path) -> None:
    masks = first_kept(wide, 21, 19, 6)
    operators = wide.info.operators
    weights = {
        op.name: 0.9 * kept_weight(wide, op, masks, wide.tensors[op.weight]) for op in operators
    }
    profile = Profile(wide.info.model_id, masks=masks, weights=weights, strength="deep")
    report = compact(wide, profile, tmp_path / "s.onnx", channel_multiple=8, rounding="down")
    rounded = rounded_profile(wide, profile, report.masks)
    rounded.check(wide)
    batch = inputs(wide, 3)
    assert np.allclose(answers(report.path, batch), Session(wide, rounded).run(batch), atol=1e-5)


def test_units_that_are_wide_enough_are_not_rounded(exported: Export, tmp_path: Path) -> None:
    """Heads are three channels wide: three of them, or six, would be needed to fill a six."""
    artifact = exported("attention[separate]")
    heads = next(group for group in artifact.info.prunable if group.units == 4)
    masks = {heads.name: np.array([True, False, False, False])}
    for multiple, count in ((3, 1), (6, 2), (4, 4)):
        report = compact(
            artifact, None, tmp_path / "s.onnx", masks=masks, channel_multiple=multiple
        )
        assert {g.name: g.left for g in report.groups}[heads.name] == count


def test_two_networks_that_differ_in_rounding_only(exported: Export, tmp_path: Path) -> None:
    """Rounding up costs no accuracy in any structure."""
    for name in ("dense_block", "split[sizes]", "recurrent[('LSTM', True)]", "gate"):
        artifact = exported(name)
        masks, batch = random_masks(artifact, 0.5), inputs(artifact, 2)
        files = [tmp_path / f"{multiple}.onnx" for multiple in (1, 2, 3, 8)]
        for file in files:
            compact(artifact, None, file, masks=masks, channel_multiple=int(file.stem))
        first, *others = (answers(file, batch) for file in files)
        assert all(np.allclose(first, other, rtol=1e-4, atol=1e-5) for other in others)


# The file.


def test_the_file_tells_where_it_comes_from(wide: Artifact, tmp_path: Path) -> None:
    profile = Profile(wide.info.model_id, masks=first_kept(wide, 9, 16, 3))
    report = compact(wide, profile, tmp_path / "small.onnx", channel_multiple=8)
    model = onnx.load(report.path)
    props = {item.key: item.value for item in model.metadata_props}
    about = json.loads(props.pop("edgeprune.compacted"))
    assert about["model_id"] == wide.info.model_id
    assert about["created"] == profile.created.isoformat() and about["strength"] == "light"
    assert sorted(about["units"].values()) == [3, 9, 16]
    source = {item.key: item.value for item in wide.model.metadata_props}
    assert all(source[key] == text for key, text in props.items())
    assert {"edgeprune.preprocess", "edgeprune.labels", "edgeprune.input"} <= set(props)
    assert "edgeprune.format" not in props
    with pytest.raises(ArtifactError, match="compacted"):
        Artifact.open(report.path)


def test_every_tensor_has_its_shape(wide: Artifact, tmp_path: Path) -> None:
    report = compact(wide, None, tmp_path / "s.onnx", masks=random_masks(wide, 0.5))
    graph = onnx.load(report.path).graph
    known = {value.name for value in (*graph.value_info, *graph.output)}
    assert known == {name for node in graph.node for name in node.output}
    assert not any(node.name.startswith("edgeprune/") for node in graph.node)
    assert not any(item.external_data for item in graph.initializer)


def test_an_output_whose_size_no_one_knows_has_its_type(tmp_path: Path) -> None:
    """The sizes in the branches bear names of their own: they could depend on values."""
    model = NETS["branch_on_output"]()
    for inner in model.graph.node[-1].attribute:
        inner.g.output[0].type.tensor_type.shape.dim[0].dim_param = "rows"
    export_onnx(model, tmp_path / "m.onnx")
    artifact = Artifact.open(tmp_path / "m.onnx")
    report = compact(artifact, None, tmp_path / "s.onnx", masks=random_masks(artifact, 0.5))
    (output,) = onnx.load(report.path).graph.output
    assert output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_the_same_bytes_twice_and_a_small_file(wide: Artifact, tmp_path: Path) -> None:
    masks = random_masks(wide, 0.7)
    reports = [compact(wide, None, tmp_path / f"{k}.onnx", masks=masks) for k in "ab"]
    first, second = (report.path.read_bytes() for report in reports)
    assert first == second
    assert reports[0].bytes_after == len(first) < reports[0].bytes_before
    assert json.loads(json.dumps(reports[0].to_dict()))["path"] == str(reports[0].path)


def test_others_may_read_it_as_the_umask_says(wide: Artifact, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        compact(wide, None, tmp_path / "s.onnx")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "s.onnx").stat().st_mode) == 0o644


def test_progress(wide: Artifact, tmp_path: Path) -> None:
    lines: list[str] = []
    compact(wide, None, tmp_path / "s.onnx", progress=lines.append)
    assert len(lines) >= 3


# Refusals.


def test_a_difference_is_refused_and_the_old_file_stays(
    wide: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*arguments: Any) -> Any:
        graph = right(*arguments)
        name = graph.nodes[0].input[1]
        graph.constants[name] = graph.constants[name] * np.float32(1.01)
        return graph

    right = module.cut_to
    monkeypatch.setattr(module, "cut_to", wrong)
    path = tmp_path / "small.onnx"
    path.write_text("old")
    with pytest.raises(CompactError, match="differs from the masked one"):
        compact(wide, None, path)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_an_invalid_graph_is_refused(
    wide: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*arguments: Any) -> Any:
        graph = right(*arguments)
        graph.shapes[graph.nodes[0].output[0]] = (None, 7, 8, 8)
        return graph

    right = module.cut_to
    monkeypatch.setattr(module, "cut_to", wrong)
    with pytest.raises(CompactError, match="no valid ONNX model"):
        compact(wide, None, tmp_path / "small.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"path": "small.txt"}, "does not end in .onnx"),
        ({"path": "none/small.onnx"}, "no folder"),
        ({"masks": {"nothing": np.ones(3, np.bool_)}}, "belongs to no group"),
        ({"channel_multiple": 0}, "makes no sense"),
        ({"rounding": "sideways"}, "neither up nor down"),
        ({"samples": [np.zeros((3, 8, 9), np.float32)]}, "a sample has shape"),
    ],
)
def test_arguments_that_make_no_sense(
    wide: Artifact, tmp_path: Path, what: dict[str, Any], message: str
) -> None:
    path = tmp_path / what.pop("path", "small.onnx")
    with pytest.raises(CompactError, match=message):
        compact(wide, None, path, **what)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mask", [np.ones(23, np.bool_), np.ones(24), np.ones((24, 1), np.bool_)])
def test_masks_of_the_wrong_kind(wide: Artifact, tmp_path: Path, mask: Array) -> None:
    with pytest.raises(CompactError, match="bool vector of 24"):
        compact(wide, None, tmp_path / "s.onnx", masks={wide.info.prunable[0].name: mask})


def test_never_over_the_model_itself(wide: Artifact) -> None:
    before = wide.path.read_bytes()
    with pytest.raises(CompactError, match="is the model itself"):
        compact(wide, None, wide.path)
    assert wide.path.read_bytes() == before


def test_a_profile_of_another_model(wide: Artifact, exported: Export, tmp_path: Path) -> None:
    profile = Profile(exported("residual").info.model_id)
    with pytest.raises(ProfileMismatch):
        compact(wide, profile, tmp_path / "s.onnx")


def test_what_is_too_large_for_one_file(
    wide: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LARGEST_BYTES", 1000)
    with pytest.raises(CompactError, match="too large"):
        compact(wide, None, tmp_path / "s.onnx")


def test_masks_that_the_graph_does_not_have(wide: Artifact, tmp_path: Path) -> None:
    """Metadata that name another group than the expressions in the graph do."""
    for suffix in (".onnx", ".weights", ".masks"):
        shutil.copy(wide.path.with_suffix(suffix), tmp_path)
    path = tmp_path / "wide.onnx"
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:  # every mask is lost: its factor is taken from the gain
        if node.name.startswith("edgeprune/") and node.name.endswith("/weight"):
            node.input[1] = next(
                other.output[0] for other in model.graph.node
                if other.name == node.name.replace("/weight", "/gain")
            )  # fmt: skip
    path.write_bytes(model.SerializeToString())
    artifact = Artifact.open(path)
    with pytest.raises(CompactError, match="contradict each other"):
        compact(artifact, None, tmp_path / "s.onnx", masks=first_kept(wide, 9, 16, 3))


def test_outputs_that_are_not_finite(wide: Artifact, tmp_path: Path) -> None:
    shifts = {wide.info.operators[0].name: np.full(24, 3e38)}
    profile = Profile(wide.info.model_id, shifts=shifts)
    with pytest.raises(CompactError, match="not finite"):
        compact(wide, profile, tmp_path / "s.onnx")


def test_a_folder_that_cannot_be_written(
    wide: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgeprune.runtime._atomic._write_durably", full)
    with pytest.raises(CompactError, match="disk is full"):
        compact(wide, None, tmp_path / "s.onnx")
    assert not list(tmp_path.iterdir())


# Real networks.


def test_the_bundled_keyword_network_on_real_sounds(
    digits: Artifact, demo: Any, tmp_path: Path
) -> None:
    masks = random_masks(digits, 0.4)
    profile = Profile(digits.info.model_id, masks=masks, shifts={"head": np.arange(10)})
    report = compact(
        digits, profile, tmp_path / "small.onnx", channel_multiple=8, samples=list(demo.adapt)
    )
    assert report.samples_checked == len(demo.adapt)
    assert report.worst_error_samples is not None and report.worst_error_samples < 1e-5
    wanted = Session(digits, profile).run(demo.test)
    assert np.array_equal(answers(report.path, demo.test).argmax(1), wanted.argmax(1))
    assert report.bytes_after < report.bytes_before and report.macs_after < report.macs_before
