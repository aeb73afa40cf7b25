"""Log-mel features against librosa and torch.stft, on real recordings."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeprune.devices import AudioClip, LogMelPreprocess, WaveformPreprocess, read_audio

Array = NDArray[np.float64]

DIGIT = LogMelPreprocess(
    sample_rate_hz=8000,
    duration_s=1.0,
    window_samples=256,
    fft_samples=256,
    hop_samples=128,
    bands=40,
    low_hz=20,
    high_hz=4000,
)


def changed(spec: LogMelPreprocess, **changes: Any) -> LogMelPreprocess:
    return LogMelPreprocess.from_dict(spec.to_dict() | changes)


def waveform(spec: LogMelPreprocess, clip: AudioClip) -> NDArray[np.float32]:
    """The fixed-length sound that ``spec`` computes its features of."""
    shared = ("sample_rate_hz", "duration_s", "fit", "loudness", "loudness_dbfs")
    return WaveformPreprocess(**{key: getattr(spec, key) for key in shared})(clip)[0]


def librosa_mel(spec: LogMelPreprocess, samples: NDArray[np.floating], dtype: type) -> Array:
    import librosa

    with warnings.catch_warnings():
        # Narrow filters without an FFT bin are wanted among the random settings.
        warnings.filterwarnings("ignore", message="Empty filters detected")
        mel: Array = librosa.feature.melspectrogram(
            y=samples.astype(dtype),
            sr=spec.sample_rate_hz,
            n_fft=spec.fft_samples,
            win_length=spec.window_samples,
            hop_length=spec.hop_samples,
            window="hann",
            center=spec.center,
            pad_mode=spec.pad_mode,
            power=float(spec.power),
            n_mels=spec.bands,
            fmin=spec.low_hz,
            fmax=spec.high_hz,
            htk=spec.mel_scale == "htk",
            norm="slaney" if spec.mel_norm == "slaney" else None,
            dtype=dtype,
        )
    return mel


def to_log(spec: LogMelPreprocess, mel: Array) -> Array:
    safe = np.maximum(mel, spec.log_floor) + spec.log_offset
    if spec.log == "ln":
        return np.log(safe)
    return np.log10(safe) * {"log10": 1.0, "db": 10.0 if spec.power == 2 else 20.0}[spec.log]


settings_of_features = st.fixed_dictionaries(
    {
        "window_samples": st.integers(100, 256),
        "fft_samples": st.sampled_from([256, 300, 511, 512]),
        "hop_samples": st.integers(40, 300),
        "bands": st.integers(4, 80),
        "low_hz": st.sampled_from([0.0, 20.0, 125.0]),
        "high_hz": st.sampled_from([3800.0, 4000.0]),
        "center": st.booleans(),
        "pad_mode": st.sampled_from(["reflect", "constant"]),
        "power": st.sampled_from([1, 2]),
        "mel_scale": st.sampled_from(["htk", "slaney"]),
        "mel_norm": st.sampled_from(["none", "slaney"]),
        "log": st.sampled_from(["ln", "log10", "db"]),
        "fit": st.sampled_from(["start", "center", "energy"]),
        "loudness": st.sampled_from(["none", "peak", "rms"]),
    }
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(changes=settings_of_features, which=st.integers(0, 9))
def test_equals_librosa_for_any_settings(changes: dict[str, Any], which: int, digits: list[Path]):
    spec = changed(DIGIT, **changes)
    clip = read_audio(digits[which % len(digits)])
    reference = to_log(spec, librosa_mel(spec, waveform(spec, clip), np.float64))
    ours = spec(clip)
    assert ours.dtype == np.float32
    assert ours.shape == spec.output_shape == (1, *reference.shape)
    np.testing.assert_allclose(ours[0], reference, atol=1e-4, rtol=1e-5)


def test_equals_librosa_in_its_own_float32(words: list[Path]):
    spec = LogMelPreprocess(
        sample_rate_hz=16000,
        duration_s=1.0,
        window_samples=400,
        fft_samples=512,
        hop_samples=160,
        bands=40,
        log_offset=1e-3,
    )
    for path in words:
        clip = read_audio(path)
        mel = librosa_mel(spec, waveform(spec, clip), np.float32)
        np.testing.assert_allclose(spec(clip)[0], to_log(spec, mel), atol=1e-4)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("power", [1, 2])
def test_equals_torch_stft(center: bool, power: int, words: list[Path]):
    import librosa
    import torch

    spec = LogMelPreprocess(
        sample_rate_hz=16000,
        duration_s=1.0,
        window_samples=400,
        fft_samples=512,
        hop_samples=160,
        bands=64,
        center=center,
        power=power,
    )
    filters = librosa.filters.mel(
        sr=16000, n_fft=512, n_mels=64, fmin=20, fmax=8000, htk=True, norm=None, dtype=np.float64
    )
    for path in words:
        clip = read_audio(path)
        bins = torch.stft(
            torch.from_numpy(waveform(spec, clip)).double(),
            n_fft=512,
            hop_length=160,
            win_length=400,
            window=torch.hann_window(400, dtype=torch.float64),
            center=center,
            return_complex=True,
        )
        reference = np.log(filters @ (bins.abs() ** power).numpy() + 1e-6)
        np.testing.assert_allclose(spec(clip)[0], reference, atol=1e-4, rtol=1e-5)


def test_spoken_digits_with_the_default_settings(digits: list[Path]):
    features = np.stack([DIGIT(read_audio(path)) for path in digits])
    assert features.shape == (len(digits), 1, 40, 63)
    assert np.isfinite(features).all()
    # Not a constant: speech moves every band over time, and digits differ.
    assert features.std(axis=3).min(axis=0).max() > 0.1
    assert np.abs(features[0] - features[1]).mean() > 0.5


def test_a_tone_lands_in_its_band():
    tone = np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000).astype(np.float32)
    bands = DIGIT(tone)[0].mean(axis=1)
    mel = 2595 * np.log10(1 + np.array([20.0, 1000.0, 4000.0]) / 700)
    expected = (mel[1] - mel[0]) / (mel[2] - mel[0]) * 41 - 1
    assert abs(int(bands.argmax()) - expected) <= 1


@pytest.mark.parametrize("over", ["time", "all"])
@pytest.mark.parametrize("divide", [True, False])
def test_per_sample_normalization(over: str, divide: bool, digits: list[Path]):
    spec = changed(DIGIT, normalize="per_sample", normalize_over=over, normalize_std=divide)
    clip = read_audio(digits[0])
    plain, out = DIGIT(clip)[0].astype(np.float64), spec(clip)[0]
    axis = 1 if over == "time" else None
    wanted = plain - plain.mean(axis=axis, keepdims=True)
    if divide:
        wanted /= plain.std(axis=axis, keepdims=True)
    np.testing.assert_allclose(out, wanted, atol=1e-4)


def test_fixed_normalization_by_one_value_and_by_band(digits: list[Path]):
    clip = read_audio(digits[0])
    plain = DIGIT(clip)
    one = changed(DIGIT, normalize="fixed", mean=[-8.0], std=[4.0])(clip)
    np.testing.assert_allclose(one, (plain + 8) / 4, atol=1e-5)
    mean, std = np.linspace(-9, -5, 40), np.linspace(1, 3, 40)
    banded = changed(DIGIT, normalize="fixed", mean=list(mean), std=list(std))(clip)
    wanted = (plain - mean[None, :, None]) / std[None, :, None]
    np.testing.assert_allclose(banded, wanted, atol=1e-5)


def test_layout_without_the_leading_axis(digits: list[Path]):
    clip = read_audio(digits[0])
    flat = changed(DIGIT, layout="FT")
    assert flat(clip).shape == flat.output_shape == (40, 63)
    np.testing.assert_array_equal(flat(clip), DIGIT(clip)[0])


def test_silence_gives_the_floor_and_no_nan():
    spec = changed(DIGIT, normalize="per_sample", loudness="rms")
    out = spec(np.zeros(8000, np.float32))
    assert np.abs(out).max() < 1e-6
    np.testing.assert_allclose(DIGIT(np.zeros(100, np.float32)), np.log(1e-6), rtol=1e-6)


def test_features_are_deterministic_and_own_their_memory(digits: list[Path]):
    clip = read_audio(digits[0])
    first = DIGIT(clip)
    first_copy = first.copy()
    second = DIGIT(clip)
    second += 1.0
    np.testing.assert_array_equal(first, first_copy)
    np.testing.assert_array_equal(DIGIT(clip), first_copy)
    assert first.flags.c_contiguous
