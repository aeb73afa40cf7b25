"""Specifications: exact round trips through JSON, and every wrong key is named."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeprune.devices import (
    ImagePreprocess,
    LogMelPreprocess,
    Preprocess,
    PreprocessError,
    WaveformPreprocess,
    preprocess_from_dict,
)

# Two cores shared with others: slow is not wrong.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

FINITE = st.floats(-1e6, 1e6)
POSITIVE = st.floats(1e-3, 1e6)


@st.composite
def images(draw: st.DrawFn) -> ImagePreprocess:
    color = draw(st.sampled_from(["RGB", "BGR", "L"]))
    resize = draw(st.sampled_from(["stretch", "short_side", "crop_fraction"]))
    height = draw(st.integers(1, 8192))
    width = height if resize == "crop_fraction" else draw(st.integers(1, 8192))
    count = draw(st.sampled_from([1, 1 if color == "L" else 3]))
    short_side = draw(st.integers(max(height, width), 8192)) if resize == "short_side" else None
    return ImagePreprocess(
        height=height,
        width=width,
        resize=resize,
        short_side=short_side,
        crop_padding=draw(st.integers(0, 100)),
        interpolation=draw(st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"])),
        mean=tuple(draw(st.lists(FINITE, min_size=count, max_size=count))),
        std=tuple(draw(st.lists(POSITIVE, min_size=count, max_size=count))),
        color=color,
        layout=draw(st.sampled_from(["NCHW", "NHWC"])),
    )


@st.composite
def log_mels(draw: st.DrawFn) -> LogMelPreprocess:
    rate_hz = draw(st.sampled_from([8000, 16000, 22050, 48000]))
    fft_samples = draw(st.integers(16, 1024))
    bands = draw(st.integers(1, 128))
    count = draw(st.sampled_from([1, bands]))
    low_hz = draw(st.floats(0, 1000))
    return LogMelPreprocess(
        sample_rate_hz=rate_hz,
        duration_s=draw(st.floats(0.2, 5)),
        window_samples=draw(st.integers(2, fft_samples)),
        fft_samples=fft_samples,
        hop_samples=draw(st.integers(64, 2000)),
        bands=bands,
        low_hz=low_hz,
        high_hz=draw(st.floats(low_hz + 1.001, rate_hz / 2)),  # their difference is rounded
        fit=draw(st.sampled_from(["start", "center", "energy"])),
        loudness=draw(st.sampled_from(["none", "peak", "rms"])),
        loudness_dbfs=draw(st.floats(-60, 0)),
        center=draw(st.booleans()),
        pad_mode=draw(st.sampled_from(["reflect", "constant"])),
        power=draw(st.sampled_from([1, 2])),
        mel_scale=draw(st.sampled_from(["htk", "slaney"])),
        mel_norm=draw(st.sampled_from(["none", "slaney"])),
        log=draw(st.sampled_from(["ln", "log10", "db"])),
        log_floor=draw(st.floats(0, 1)),
        log_offset=draw(st.floats(1e-10, 1)),
        normalize=draw(st.sampled_from(["none", "fixed", "per_sample"])),
        normalize_over=draw(st.sampled_from(["time", "all"])),
        normalize_std=draw(st.booleans()),
        mean=tuple(draw(st.lists(FINITE, min_size=count, max_size=count))),
        std=tuple(draw(st.lists(POSITIVE, min_size=count, max_size=count))),
        layout=draw(st.sampled_from(["1FT", "FT"])),
    )


waveforms = st.builds(
    WaveformPreprocess,
    sample_rate_hz=st.integers(1000, 384_000),
    duration_s=st.floats(0.001, 600),
    fit=st.sampled_from(["start", "center", "energy"]),
    loudness=st.sampled_from(["none", "peak", "rms"]),
    loudness_dbfs=st.floats(-90, 0),
)


@PATIENT
@given(st.one_of(images(), log_mels(), waveforms))
def test_round_trip_through_json_is_exact(spec: Preprocess):
    stored = json.dumps(spec.to_dict(), allow_nan=False)
    again = preprocess_from_dict(json.loads(stored))
    assert again == spec
    assert type(again) is type(spec)
    assert json.dumps(again.to_dict()) == stored


LOG_MEL = LogMelPreprocess(
    sample_rate_hz=8000,
    duration_s=1.0,
    window_samples=256,
    fft_samples=256,
    hop_samples=128,
    bands=40,
).to_dict()
IMAGE = ImagePreprocess(height=224, width=224).to_dict()
WAVEFORM = WaveformPreprocess(sample_rate_hz=16000, duration_s=1).to_dict()


@pytest.mark.parametrize(
    ("base", "key", "value"),
    [
        (IMAGE, "kind", "picture"),
        (IMAGE, "kind", ["image"]),
        (IMAGE, "height", 0),
        (IMAGE, "height", 8193),
        (IMAGE, "height", 224.0),
        (IMAGE, "height", True),
        (IMAGE, "width", "224"),
        (IMAGE, "width", 10**400),
        (IMAGE, "mean", 127.0),
        (IMAGE, "mean", [127.0, 127.0]),
        (IMAGE, "mean", [math.nan]),
        (IMAGE, "mean", [[127.0]]),
        (IMAGE, "mean", [10**400]),
        (IMAGE, "std", [0.0]),
        (IMAGE, "std", [-1.0]),
        (IMAGE, "std", [math.inf]),
        (IMAGE, "std", ["1"]),
        (IMAGE, "std", [True]),
        (IMAGE, "color", "rgb"),
        (IMAGE, "layout", "CHW"),
        (IMAGE, "layout", None),
        (IMAGE, "interpolation", "area"),
        (IMAGE, "resize", "fill"),
        (IMAGE, "short_side", 256),
        (IMAGE, "crop_padding", -1),
        (IMAGE | {"resize": "short_side"}, "short_side", None),
        (IMAGE | {"resize": "short_side"}, "short_side", 200),
        (IMAGE | {"resize": "crop_fraction"}, "width", 200),
        (WAVEFORM, "sample_rate_hz", 0),
        (WAVEFORM, "duration_s", math.nan),
        (WAVEFORM, "duration_s", 1e9),
        (WAVEFORM, "duration_s", None),
        (WAVEFORM, "fit", "end"),
        (WAVEFORM, "loudness", "lufs"),
        (WAVEFORM, "loudness_dbfs", 3.0),
        (LOG_MEL, "window_samples", 257),
        (LOG_MEL, "fft_samples", 2**17),
        (LOG_MEL, "fft_samples", 2**15),  # one second is too short to reflect
        (LOG_MEL | {"center": False}, "fft_samples", 8192),
        (LOG_MEL | {"duration_s": 600}, "hop_samples", 1),
        (LOG_MEL, "hop_samples", 0),
        (LOG_MEL, "bands", 0),
        (LOG_MEL, "bands", 10**9),
        (LOG_MEL, "low_hz", 4000),
        (LOG_MEL, "low_hz", -1),
        (LOG_MEL, "high_hz", 4001),
        (LOG_MEL, "power", 3),
        (LOG_MEL, "power", 2.0),
        (LOG_MEL, "center", 1),
        (LOG_MEL, "pad_mode", "edge"),
        (LOG_MEL, "mel_scale", "bark"),
        (LOG_MEL, "mel_norm", None),
        (LOG_MEL, "log", "log2"),
        (LOG_MEL, "log_offset", 0),
        (LOG_MEL, "log_floor", -1.0),
        (LOG_MEL, "normalize", "batch"),
        (LOG_MEL, "normalize_over", "bands"),
        (LOG_MEL, "normalize_std", "yes"),
        (LOG_MEL, "mean", [0.0] * 39),
        (LOG_MEL, "std", [1.0] * 39 + [0.0]),
        (LOG_MEL, "layout", "TF"),
    ],
)
def test_a_wrong_value_is_refused_by_name(base: dict[str, Any], key: str, value: object):
    with pytest.raises(PreprocessError) as caught:
        preprocess_from_dict(base | {key: value})
    assert caught.value.key == key
    assert repr(key) in str(caught.value)


@pytest.mark.parametrize("base", [IMAGE, LOG_MEL])
def test_unknown_and_missing_keys_are_named(base: dict[str, Any]):
    with pytest.raises(PreprocessError, match="did you mean 'layout'") as caught:
        preprocess_from_dict(base | {"layuot": "NCHW"})
    assert caught.value.key == "layuot"
    required = "height" if base is IMAGE else "bands"
    with pytest.raises(PreprocessError, match="is missing") as caught:
        preprocess_from_dict({k: v for k, v in base.items() if k != required})
    assert caught.value.key == required


@pytest.mark.parametrize("junk", [None, [], "image", 3])
def test_what_is_not_a_mapping_is_refused(junk: Any):
    with pytest.raises(PreprocessError, match="mapping"):
        preprocess_from_dict(junk)
    with pytest.raises(PreprocessError, match="mapping"):
        ImagePreprocess.from_dict(junk)


def test_kind_is_required_and_must_fit_the_class():
    with pytest.raises(PreprocessError, match="'kind': is missing"):
        preprocess_from_dict({k: v for k, v in IMAGE.items() if k != "kind"})
    with pytest.raises(PreprocessError, match="must be 'waveform'"):
        WaveformPreprocess.from_dict(IMAGE)


@PATIENT
@given(
    st.dictionaries(
        st.sampled_from([*LOG_MEL, "x"]),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats()
            | st.sampled_from(["", "ln", "é"]),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=4,
        ),
        max_size=4,
    )
)
def test_hostile_specs_raise_only_the_promised_error(changes: dict[str, Any]):
    try:
        spec = preprocess_from_dict(LOG_MEL | changes)
    except PreprocessError as error:
        assert error.key in {*LOG_MEL, "x"}
    else:
        assert preprocess_from_dict(spec.to_dict()) == spec


def test_numbers_from_numpy_are_welcome():
    values = np.array([1.5, 2.5, 3.5])
    spec = ImagePreprocess(height=8, width=8, mean=tuple(values), std=tuple(values))
    assert json.loads(json.dumps(spec.to_dict()))["mean"] == [1.5, 2.5, 3.5]
