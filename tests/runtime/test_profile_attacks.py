"""Damaged and hostile profiles: each is refused with a `ProfileError`, and nothing else happens."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeprune.runtime._profile_format import HEADER_LIMIT_BYTES, pack, read_header
from edgeprune.runtime.artifact import Artifact
from edgeprune.runtime.errors import ProfileError
from edgeprune.runtime.profile import Profile, kept_weight

FUZZ = settings(
    max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def valid_bytes(artifact: Artifact) -> bytes:
    masks = {"conv1": np.arange(9) % 3 > 0, "conv2": np.arange(10) > 4}
    head = artifact.info.operator_by_name["head"]
    return Profile(
        artifact.info.model_id,
        masks=masks,
        gains={"dw": np.linspace(0.5, 2, 9)},
        shifts={"head": np.linspace(-1, 1, 5)},
        weights={"head": kept_weight(artifact, head, masks, artifact.tensors[head.weight])},
        prior=np.full(5, 0.2),
        strength="deep",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        report={"seen": 10, "guard": {"agreement": 0.98}},
    ).to_bytes()


def container(header: Any, tensors: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + tensors


def metadata(artifact: Artifact, **changes: Any) -> dict[str, Any]:
    plain = {
        "edgeprune.profile": "1",
        "model_id": artifact.info.model_id,
        "strength": "light",
        "created": "2026-01-01T00:00:00Z",
        "parent": "",
        "report": "{}",
    } | {key.replace("version", "edgeprune.profile"): text for key, text in changes.items()}
    return {key: text for key, text in plain.items() if text is not None}


def entry(start: int, end: int, dtype: str = "F32", shape: Any = None) -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": [(end - start) // 4] if shape is None else shape,
        "data_offsets": [start, end],
    }


def dw(artifact: Artifact, **tensors: Any) -> dict[str, Any]:
    return {"__metadata__": metadata(artifact), **{f"gain/{k}": v for k, v in tensors.items()}}


GAIN = np.full(9, 2, "<f4").tobytes()
TENSOR_ATTACKS: dict[str, Callable[[Artifact], bytes]] = {
    "empty file": lambda a: b"",
    "length cut short": lambda a: b"\x10\0\0",
    "header of 2^63 bytes": lambda a: (1 << 63).to_bytes(8, "little") + b"{}",
    "header above our limit": lambda a: container(b"{" + b" " * HEADER_LIMIT_BYTES + b"}"),
    "header longer than the file": lambda a: (100).to_bytes(8, "little") + b"{}",
    "header is a list": lambda a: container(b"[]"),
    "header is no UTF-8": lambda a: container(b'{"\xff":1}'),
    "header is UTF-16": lambda a: container(json.dumps(dw(a)).encode("utf-16")),
    "header nested deeply": lambda a: container(b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}"),
    "header in braces": lambda a: container(b'{"a":' * 10**5 + b"1" + b"}" * 10**5),
    "overlapping tensors": lambda a: container(dw(a, dw=entry(0, 36), conv1=entry(0, 36)), GAIN),
    "partly overlapping": lambda a: container(
        dw(a, dw=entry(0, 36), conv1=entry(32, 68)), GAIN * 2
    ),
    "hole between tensors": lambda a: container(
        dw(a, dw=entry(0, 36), conv1=entry(40, 76)), GAIN + b"\0\0\0\0" + GAIN
    ),
    "offsets beyond the file": lambda a: container(dw(a, dw=entry(0, 36)), GAIN[:-1]),
    "offsets backwards": lambda a: container(dw(a, dw=entry(36, 0, shape=[9])), GAIN),
    "offsets negative": lambda a: container(dw(a, dw=entry(-36, 0, shape=[9])), GAIN),
    "offsets of 2^64": lambda a: container(dw(a, dw=entry(0, 1 << 64, shape=[9])), GAIN),
    "trailing bytes": lambda a: container(dw(a, dw=entry(0, 36)), GAIN + b"\0"),
    "tensor named twice": lambda a: container(
        json.dumps(dw(a, dw=entry(0, 36))).encode()[:-1]
        + b',"gain/dw":'
        + json.dumps(entry(0, 36)).encode()
        + b"}",
        GAIN,
    ),
    "dtype lies, same size": lambda a: container(dw(a, dw=entry(0, 36, "I32", [9])), GAIN),
    "dtype wider": lambda a: container(dw(a, dw=entry(0, 72, "F64", [9])), GAIN * 2),
    "dtype narrower": lambda a: container(dw(a, dw=entry(0, 18, "F16", [9])), GAIN[:18]),
    "dtype that numpy lacks": lambda a: container(dw(a, dw=entry(0, 18, "BF16", [9])), GAIN[:18]),
    "dtype of 4 bits": lambda a: container(dw(a, dw=entry(0, 36, "F4", [72])), GAIN),
    "dtype unknown": lambda a: container(dw(a, dw=entry(0, 36, "F99", [9])), GAIN),
    "shape does not fill": lambda a: container(dw(a, dw=entry(0, 36, shape=[8])), GAIN),
    "shape overflows": lambda a: container(dw(a, dw=entry(0, 0, shape=[2**40, 2**40]))),
    "shape huge but empty": lambda a: container(dw(a, dw=entry(0, 0, shape=[2**62, 0, 4]))),
    "shape of 100 axes": lambda a: container(dw(a, dw=entry(0, 4, shape=[1] * 100)), GAIN[:4]),
    "shape of two axes": lambda a: container(dw(a, dw=entry(0, 36, shape=[3, 3])), GAIN),
    "scalar": lambda a: container(dw(a, dw=entry(0, 4, shape=[])), GAIN[:4]),
    "unknown operator": lambda a: container(dw(a, nowhere=entry(0, 36)), GAIN),
    "unknown tensor": lambda a: container(
        {"__metadata__": metadata(a), "bias/dw": entry(0, 36)}, GAIN
    ),
    "kind without a name": lambda a: container(
        {"__metadata__": metadata(a), "gain": entry(0, 36)}, GAIN
    ),
    "prior with a name": lambda a: container(
        {"__metadata__": metadata(a), "prior/x": entry(0, 20)}, GAIN[:20]
    ),
    "NaN": lambda a: container(dw(a, dw=entry(0, 36)), GAIN[:32] + b"\0\0\xc0\x7f"),
    "infinity": lambda a: container(dw(a, dw=entry(0, 36)), GAIN[:32] + b"\0\0\x80\xff"),
    "weights in a light profile": lambda a: container(
        {"__metadata__": metadata(a), "weight/dw": entry(0, 324, shape=[9, 1, 3, 3])}, GAIN * 9
    ),
    "no metadata": lambda a: container({"gain/dw": entry(0, 36)}, GAIN),
    "metadata null": lambda a: container({"__metadata__": None, "gain/dw": entry(0, 36)}, GAIN),
    "metadata a list": lambda a: container({"__metadata__": []}),
    "metadata not strings": lambda a: container({"__metadata__": metadata(a, parent=3)}),
    "metadata key twice": lambda a: container(
        json.dumps({"__metadata__": metadata(a)})
        .replace('"parent"', '"parent":"1","parent"')
        .encode()
    ),
}
METADATA_ATTACKS: dict[str, dict[str, Any]] = {
    "another model": {"model_id": "0" * 64},
    "no model": {"model_id": None},
    "newer version": {"version": "3"},
    "no version": {"version": None},
    "version of a million digits": {"version": "9" * 10**6},
    "version zero": {"version": "0"},
    "version in other digits": {"version": "²"},
    "negative version": {"version": "-1"},
    "strength": {"strength": "total"},
    "time in another zone": {"created": "2026-01-01T00:00:00+05:00"},
    "time without zone": {"created": "2026-01-01T00:00:00"},
    "no time": {"created": "yesterday"},
    "negative parent": {"parent": "-1"},
    "endless parent": {"parent": "1" * 10**5},
    "report is a list": {"report": "[]"},
    "report is no JSON": {"report": "{"},
    "report nested deeply": {"report": '{"a":' + "[" * 10**5 + "]" * 10**5 + "}"},
    "report with NaN": {"report": '{"a":NaN}'},
    "report with 1e999": {"report": '{"a":1e999}'},
    "report with a key twice": {"report": '{"a":1,"a":2}'},
    "report with an endless number": {"report": '{"a":' + "9" * 10**5 + "}"},
}
MASK_ATTACKS: dict[str, tuple[str, bytes, str, list[int]]] = {
    "no unit kept": ("conv1", b"\0\0", "U8", [2]),
    "padding not zero": ("conv1", b"\x01\x02", "U8", [2]),
    "too short": ("conv1", b"\x01", "U8", [1]),
    "too long": ("conv1", b"\x01\0\0", "U8", [3]),
    "signed": ("conv1", b"\x01\0", "I8", [2]),
    "bool": ("conv1", b"\x01\0", "BOOL", [2]),
    "two axes": ("conv1", b"\x01\0", "U8", [1, 2]),
    "frozen group": ("frozen", b"\x01", "U8", [1]),
    "unknown group": ("nowhere", b"\x01", "U8", [1]),
}


@pytest.mark.parametrize("attack", TENSOR_ATTACKS.values(), ids=TENSOR_ATTACKS)
def test_refuses_hostile_containers(tiny: Artifact, attack: Callable[[Artifact], bytes]) -> None:
    with pytest.raises(ProfileError, match="Nothing was changed"):
        Profile.from_bytes(attack(tiny), tiny)


@pytest.mark.parametrize("changes", METADATA_ATTACKS.values(), ids=METADATA_ATTACKS)
def test_refuses_hostile_metadata(tiny: Artifact, tmp_path: Path, changes: dict[str, Any]) -> None:
    data = container({"__metadata__": metadata(tiny, **changes)})
    with pytest.raises(ProfileError, match="Nothing was changed"):
        Profile.from_bytes(data, tiny)
    path = tmp_path / "p"
    path.write_bytes(data)
    if changes != {"model_id": "0" * 64}:
        with pytest.raises(ValueError, match=r"\w"):
            read_header(path)


@pytest.mark.parametrize("attack", MASK_ATTACKS.values(), ids=MASK_ATTACKS)
def test_refuses_hostile_masks(tiny: Artifact, attack: tuple[str, bytes, str, list[int]]) -> None:
    name, bits, dtype, shape = attack
    header = {"__metadata__": metadata(tiny), f"mask/{name}": entry(0, len(bits), dtype, shape)}
    with pytest.raises(ProfileError, match=f"mask/{name}"):
        Profile.from_bytes(container(header, bits), tiny)


@pytest.mark.parametrize("prior", [[0.2] * 4, [0.3] * 5, [1.5, -0.5, 0, 0, 0], [np.nan] * 5])
def test_refuses_priors_that_are_none(tiny: Artifact, prior: list[float]) -> None:
    data = pack({"prior": np.array(prior, np.float32)}, metadata(tiny))
    with pytest.raises(ProfileError, match="prior"):
        Profile.from_bytes(data, tiny)


def test_the_attacks_start_from_what_is_accepted(tiny: Artifact) -> None:
    profile = Profile.from_bytes(container(dw(tiny, dw=entry(0, 36)), GAIN), tiny)
    assert profile.gains["dw"].tolist() == [2] * 9
    masked = {"__metadata__": metadata(tiny), "mask/conv1": entry(0, 2, "U8", [2])}
    assert Profile.from_bytes(container(masked, b"\x01\x01"), tiny).masks["conv1"].sum() == 2


def test_newer_version_says_upgrade(tiny: Artifact) -> None:
    with pytest.raises(ProfileError, match="upgrade edgeprune"):
        Profile.from_bytes(container({"__metadata__": metadata(tiny, version="3")}), tiny)


def test_every_truncation_is_refused(tiny: Artifact, tmp_path: Path) -> None:
    data = valid_bytes(tiny)
    path = tmp_path / "p"
    for length in range(len(data)):
        with pytest.raises(ProfileError):
            Profile.from_bytes(data[:length], tiny)
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="it "):
            read_header(path)


@FUZZ
@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.none() | st.floats(0, 1),
    in_header=st.booleans(),
)
def test_damage_is_refused_or_harmless(
    tiny: Artifact, changes: list[tuple[float, int]], cut: float | None, in_header: bool
) -> None:
    data = bytearray(valid_bytes(tiny))
    region = 8 + int.from_bytes(data[:8], "little") if in_header else len(data)
    for place, byte in changes:
        data[int(place * (region - 1))] = byte
    damaged = bytes(data if cut is None else data[: int(cut * len(data))])
    try:
        profile = Profile.from_bytes(damaged, tiny)
    except ProfileError:
        return
    _assert_sound(profile, tiny)


def _assert_sound(profile: Profile, artifact: Artifact) -> None:
    """What gets through is a profile that one could have written."""
    full = profile.tensors(artifact)
    assert all(np.isfinite(value).all() for value in full.values())
    for group in artifact.info.prunable:
        assert full[group.mask].any()
        assert set(np.unique(full[group.mask])) <= {0, 1}
    stored = profile.to_bytes()
    assert Profile.from_bytes(stored, artifact).to_bytes() == stored


@settings(max_examples=500, deadline=None)
@given(data=st.binary(max_size=200), framed=st.booleans())
def test_noise_is_refused(tiny: Artifact, data: bytes, framed: bool) -> None:
    with pytest.raises(ProfileError):
        Profile.from_bytes(container(data) if framed else data, tiny)
