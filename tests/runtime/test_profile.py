"""Profiles: what they hold, what they do to a session, and their exact bytes."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeprune.runtime._ort import make_session
from edgeprune.runtime.artifact import Artifact
from edgeprune.runtime.errors import ProfileError, ProfileMismatch, ProfileNotFound
from edgeprune.runtime.profile import Profile, kept_inputs, kept_weight, neutral, sparsity

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SHARED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)

HEADER = (
    '{"__metadata__":{"created":"2026-01-02T03:04:05Z","edgeprune.profile":"1",'
    '"model_id":"' + "ab" * 32 + '","parent":"7","report":"{\\"seen\\":3}","strength":"light"},'
    '"gain/dw":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},'
    '"prior":{"dtype":"F32","shape":[2],"data_offsets":[12,20]},'
    '"mask/conv1":{"dtype":"U8","shape":[2],"data_offsets":[20,22]}}'
)
TENSORS = bytes.fromhex("0000803f00000040000000bf0000803e0000403ffd01")


def golden_profile() -> Profile:
    return Profile(
        "ab" * 32,
        masks={
            "conv1": np.array([True, False, *[True] * 7]),
            "conv2": np.ones(10, np.bool_),
        },
        gains={"dw": np.array([1, 2, -0.5], np.float32)},
        shifts={"dw": np.zeros(3, np.float32)},
        prior=np.array([0.25, 0.75], np.float32),
        created=NOW,
        parent=7,
        report={"seen": 3},
    )


def masks_of(first: int, second: int) -> dict[str, Any]:
    """Keep the first so many units of each group."""
    return {"conv1": np.arange(9) < first, "conv2": np.arange(10) < second}


def deep_profile(artifact: Artifact, masks: dict[str, Any]) -> Profile:
    operators = artifact.info.operators
    weights = {
        operator.name: kept_weight(artifact, operator, masks, artifact.tensors[operator.weight])
        for operator in operators
    }
    return Profile(artifact.info.model_id, masks=masks, weights=weights, strength="deep")


@st.composite
def profiles(draw: st.DrawFn, artifact: Artifact) -> Profile:
    info = artifact.info
    masks = {
        group.name: draw(hnp.arrays(np.bool_, group.units).filter(np.any))
        for group in info.prunable
        if draw(st.booleans())
    }
    deep = draw(st.booleans())
    vectors: dict[str, dict[str, Any]] = {"gains": {}, "shifts": {}, "weights": {}}
    for operator in info.operators:
        for kind in ("gains", "shifts"):
            if draw(st.booleans()):
                values = hnp.arrays(np.float32, operator.out_channels, elements=FINITE)
                vectors[kind][operator.name] = draw(values)
        if deep and draw(st.booleans()):
            full = artifact.tensors[operator.weight] * np.float32(draw(st.floats(-2, 2, width=32)))
            vectors["weights"][operator.name] = kept_weight(artifact, operator, masks, full)
    values = (
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    )
    keys = st.text(max_size=8)
    nested = values | st.text() | st.lists(values) | st.dictionaries(keys, values)
    return Profile(
        info.model_id,
        masks=masks,
        **vectors,
        prior=draw(st.none() | st.just(np.full(5, 0.2, np.float32))),
        strength="deep" if deep else "light",
        created=draw(st.datetimes(timezones=st.just(UTC))),
        parent=draw(st.none() | st.integers(1, 10**17)),
        report=draw(st.dictionaries(keys, nested)),
    )


def test_exact_bytes() -> None:
    text = HEADER.encode()
    text += b" " * (-len(text) % 8)
    expected = len(text).to_bytes(8, "little") + text + TENSORS
    assert golden_profile().to_bytes() == expected


def test_reads_the_exact_bytes_back(tiny: Artifact) -> None:
    info = dataclasses.replace(tiny.info, model_id="ab" * 32, classes=2)
    operators = tuple(
        dataclasses.replace(operator, out_channels=3) if operator.name == "dw" else operator
        for operator in info.operators
    )
    artifact = Artifact(tiny.path, tiny.graph, dataclasses.replace(info, operators=operators))
    profile = Profile.from_bytes(golden_profile().to_bytes(), artifact)
    assert profile.to_bytes() == golden_profile().to_bytes()
    assert profile.created == NOW
    assert profile.parent == 7
    assert profile.report == {"seen": 3}
    assert profile.masks["conv1"].tolist() == [True, False, *[True] * 7]


def test_order_does_not_matter() -> None:
    profile = golden_profile()
    twisted = dataclasses.replace(
        profile,
        masks=dict(reversed(profile.masks.items())),
        report=dict(reversed(profile.report.items())),
        created=NOW.astimezone(timezone(timedelta(hours=5))),
    )
    assert {twisted.to_bytes() for _ in range(20)} == {profile.to_bytes()}


def test_strided_and_wider_arrays_are_stored_right(tiny: Artifact) -> None:
    wide = np.arange(18, dtype=np.float64)[::2]
    mask = np.array([True, False] * 9)[::-2]
    mask[3] = True
    profile = Profile(tiny.info.model_id, gains={"dw": wide})
    again = Profile.from_bytes(profile.to_bytes(), tiny)
    np.testing.assert_array_equal(again.gains["dw"], wide.astype(np.float32))
    masked = Profile(tiny.info.model_id, masks={"conv1": mask})
    np.testing.assert_array_equal(Profile.from_bytes(masked.to_bytes(), tiny).masks["conv1"], mask)


@SHARED
@given(data=st.data())
def test_round_trip(tiny: Artifact, data: st.DataObject) -> None:
    profile = data.draw(profiles(tiny))
    stored = profile.to_bytes()
    again = Profile.from_bytes(stored, tiny)
    assert again.to_bytes() == stored
    assert (again.created, again.parent, again.report) == (
        profile.created,
        profile.parent,
        profile.report,
    )
    before, after = profile.tensors(tiny), again.tensors(tiny)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert value.tobytes() == after[name].tobytes()


def test_neutral_tensors_are_not_stored(tiny: Artifact) -> None:
    info = tiny.info
    full = Profile(
        info.model_id,
        masks={group.name: np.ones(group.units, np.bool_) for group in info.prunable},
        gains={op.name: np.ones(op.out_channels, np.float32) for op in info.operators},
        shifts={op.name: np.zeros(op.out_channels, np.float32) for op in info.operators},
        created=neutral(info).created,
    )
    assert full.to_bytes() == neutral(info).to_bytes()
    assert len(neutral(info).to_bytes()) < 300


def test_arrays_are_private_and_read_only() -> None:
    gain = np.full(3, 2, np.float32)
    report = {"seen": [1]}
    profile = Profile("m", gains={"dw": gain}, report=report)
    gain[0] = 9
    report["seen"].append(2)
    assert profile.gains["dw"].tolist() == [2, 2, 2]
    assert profile.report == {"seen": [1]}
    with pytest.raises(ValueError, match="read-only"):
        profile.gains["dw"][0] = 1
    with pytest.raises(TypeError):
        profile.gains["x"] = gain  # type: ignore[index]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gains": {"dw": [1, np.nan]}}, "finite"),
        ({"shifts": {"dw": [1, np.inf]}}, "finite"),
        ({"shifts": {"dw": np.array([1e300])}}, "finite"),
        ({"gains": {"dw": [[1.0]]}}, "dimensions"),
        ({"masks": {"a": np.zeros(3, np.bool_)}}, "keeps no unit"),
        ({"masks": {"a": np.zeros(0, np.bool_)}}, "keeps no unit"),
        ({"masks": {"a": np.ones(3, np.float32)}}, "bool"),
        ({"prior": [0.5, 0.6]}, "sum to 1"),
        ({"prior": [-0.5, 1.5]}, "sum to 1"),
        ({"strength": "medium"}, "strength"),
        ({"weights": {"a": np.ones((2, 2))}}, "light"),
        ({"created": datetime(2026, 1, 1)}, "time zone"),
        ({"parent": 0}, "generation"),
        ({"model_id": "a\nb"}, "model_id"),
        ({"report": {"x": np.float32(1)}}, "JSON"),
        ({"report": {"x": float("nan")}}, "JSON"),
        ({"report": {1: 2, "a": 3}}, "JSON"),
    ],
)
def test_refuses_to_be_built_wrong(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        Profile(**({"model_id": "m"} | fields))


def test_refuses_a_report_beyond_the_header_limit() -> None:
    with pytest.raises(ProfileError, match="shorten the report"):
        Profile("m", report={"x": "y" * (5 << 20)}).to_bytes()


@pytest.mark.parametrize(
    "fields",
    [
        {"masks": {"frozen": np.array([True] * 4 + [False])}},
        {"masks": {"nowhere": np.array([True, False])}},
        {"masks": {"conv1": np.array([True, False])}},
        {"gains": {"nowhere": np.full(9, 2)}},
        {"shifts": {"dw": np.full(8, 2)}},
        {"weights": {"conv2": np.ones((10, 8, 1, 1))}},
        {"weights": {"": np.ones(1)}},
        {"prior": np.full(4, 0.25)},
    ],
)
def test_refuses_what_the_model_does_not_have(tiny: Artifact, fields: dict[str, Any]) -> None:
    profile = Profile(tiny.info.model_id, strength="deep", **fields)
    with pytest.raises(ProfileError):
        profile.tensors(tiny)
    with pytest.raises(ProfileError, match=r"cannot use the profile: .*Nothing was changed"):
        Profile.from_bytes(profile.to_bytes(), tiny)


def test_refuses_another_model(tiny: Artifact, other: Artifact) -> None:
    profile = neutral(other.info)
    with pytest.raises(ProfileMismatch, match="another model"):
        Profile.from_bytes(profile.to_bytes(), tiny)
    with pytest.raises(ProfileMismatch):
        profile.tensors(tiny)


def test_kept_inputs_follow_index_and_ones(tiny: Artifact) -> None:
    head = tiny.info.operator_by_name["head"]
    kept = kept_inputs(tiny, head, {"conv2": np.arange(10) != 3})
    assert np.flatnonzero(~kept).tolist() == [12, 13, 14, 15]
    assert kept.shape == (43,)
    for name in ("conv1", "dw"):
        assert kept_inputs(tiny, tiny.info.operator_by_name[name], masks_of(1, 1)).all()


def test_tensors_are_complete_and_injectable(tiny: Artifact) -> None:
    full = deep_profile(tiny, masks_of(5, 7)).tensors(tiny)
    assert full.keys() == tiny.tensors.keys() - {op.bias for op in tiny.info.operators}
    for name, value in full.items():
        assert value.dtype == np.dtype("<f4")
        assert value.flags.c_contiguous
        assert value.shape == tiny.tensors[name].shape
    assert not full["conv2.weight"][:, 5:].any()
    np.testing.assert_array_equal(full["conv2.weight"][:, :5], tiny.tensors["conv2.weight"][:, :5])


def test_tensors_do_not_share_memory_with_the_artifact(tiny: Artifact) -> None:
    neutral(tiny.info).tensors(tiny)["conv1.mask"][:] = 0
    assert tiny.neutral_masks["conv1.mask"].all()


def test_session_computes_the_masked_network(tiny: Artifact) -> None:
    x = np.random.default_rng(0).normal(size=(3, 3, 4, 4)).astype(np.float32)

    def outputs(profile: Profile) -> Any:
        session = make_session(tiny.graph, profile.tensors(tiny), folder=tiny.path.parent)
        return session.run(None, {"x": x})[0]

    masks = masks_of(5, 7)
    light = outputs(Profile(tiny.info.model_id, masks=masks))
    deep = outputs(deep_profile(tiny, masks))
    dense = make_session(tiny.path).run(None, {"x": x})[0]
    np.testing.assert_array_equal(light, deep)
    np.testing.assert_array_equal(outputs(neutral(tiny.info)), dense)
    assert not np.allclose(light, dense)


def test_sparsity_equals_the_compacted_count(tiny: Artifact) -> None:
    result = sparsity(tiny, masks_of(5, 7))
    weights = (5 * 27 + 5) + (5 * 9 + 5) + (7 * 5 + 7) + (5 * (7 * 4 + 3) + 5)
    macs = 16 * 5 * 27 + 16 * 5 * 9 + 4 * 7 * 5 + 5 * 31
    assert (result.units_masked, result.units_total) == (7, 19)
    assert result.weights_removed == tiny.info.parameters - weights
    assert result.macs_removed == tiny.info.macs - macs
    assert result.units == 7 / 19
    assert result.hidden_units == 4 / 9
    assert result.weights == result.weights_removed / tiny.info.parameters
    assert result.macs == result.macs_removed / tiny.info.macs
    json.dumps(dataclasses.asdict(result))


def test_neutral_removes_nothing(tiny: Artifact) -> None:
    assert set(dataclasses.astuple(neutral(tiny.info).sparsity(tiny))) == {0, 19}


def test_saves_and_loads_a_file(tiny: Artifact, tmp_path: Path) -> None:
    path = tmp_path / "me.safetensors"
    profile = deep_profile(tiny, masks_of(2, 3))
    profile.save(path)
    assert path.read_bytes() == profile.to_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert Profile.load(path, tiny).to_bytes() == profile.to_bytes()


def test_load_says_what_is_wrong_with_the_path(tiny: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ProfileNotFound):
        Profile.load(tmp_path / "none", tiny)
    with pytest.raises(ProfileError, match="cannot read"):
        Profile.load(tmp_path, tiny)
    with pytest.raises(ProfileError, match="too large"):
        Profile.load("/dev/zero", tiny)
