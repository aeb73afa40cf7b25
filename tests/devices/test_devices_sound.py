"""Fitting to a length, loudness, mixing and resampling."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeprune.devices import AudioClip, BadSample, MissingExtra, WaveformPreprocess, read_audio

RAMP = np.linspace(0.1, 1.0, 1000).astype(np.float32)


def fitted(samples: NDArray[np.float32], duration_s: float, fit: str) -> NDArray[np.float32]:
    return WaveformPreprocess(sample_rate_hz=1000, duration_s=duration_s, fit=fit)(samples)[0]


def tone(hz: float, rate_hz: int, seconds: float = 1.0) -> NDArray[np.float32]:
    at = np.arange(round(rate_hz * seconds)) / rate_hz
    return (0.5 * np.sin(2 * np.pi * hz * at)).astype(np.float32)


def test_short_sound_is_padded_at_the_end_or_on_both_sides():
    np.testing.assert_array_equal(fitted(RAMP, 1.5, "start"), np.pad(RAMP, (0, 500)))
    for fit in ("center", "energy"):
        np.testing.assert_array_equal(fitted(RAMP, 1.501, fit), np.pad(RAMP, (250, 251)))


def test_long_sound_is_cropped_as_named():
    np.testing.assert_array_equal(fitted(RAMP, 0.3, "start"), RAMP[:300])
    np.testing.assert_array_equal(fitted(RAMP, 0.3, "center"), RAMP[350:650])


@pytest.mark.parametrize("where", [0, 120, 500, 860, 900])
def test_energy_fit_finds_the_word(where: int):
    sound = np.full(1000, 0.3, np.float32)  # a constant offset must not draw the window
    sound[where : where + 100] += np.tile([0.5, -0.5], 50).astype(np.float32)
    kept = fitted(sound, 0.2, "energy")
    assert int((np.abs(kept - 0.3) > 0.4).sum()) == 100
    start = min(max(where - 50, 0), 800)
    np.testing.assert_array_equal(kept, sound[start : start + 200])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from(["start", "center", "energy"]))
def test_any_length_becomes_the_fixed_length(given_frames: int, wanted: int, fit: str):
    sound = np.random.default_rng(given_frames).normal(size=given_frames).astype(np.float32)
    out = fitted(sound, wanted / 1000, fit)
    assert out.shape == (wanted,)
    kept = min(given_frames, wanted)
    # What is kept is one unbroken piece of the original.
    nonzero = np.flatnonzero(out)
    piece = out[nonzero[0] : nonzero[-1] + 1]
    assert len(piece) == kept
    starts = np.flatnonzero(sound[: given_frames - kept + 1] == piece[0])
    assert any(np.array_equal(sound[s : s + kept], piece) for s in starts)


def test_loudness_is_that_of_what_is_kept():
    rms = WaveformPreprocess(
        sample_rate_hz=1000, duration_s=2, loudness="rms", loudness_dbfs=-20, fit="start"
    )
    out = rms(RAMP)[0]
    assert 20 * np.log10(np.sqrt(np.mean(out[:1000].astype(float) ** 2))) == pytest.approx(-20)
    peak = WaveformPreprocess(sample_rate_hz=1000, duration_s=1, loudness="peak", loudness_dbfs=-6)
    assert np.abs(peak(RAMP)).max() == pytest.approx(10 ** (-6 / 20))


def test_silence_is_never_blown_up():
    faint = np.full(1000, 1e-5, np.float32)
    for loudness in ("peak", "rms"):
        spec = WaveformPreprocess(sample_rate_hz=1000, duration_s=1, loudness=loudness)
        np.testing.assert_array_equal(spec(faint)[0], faint)


def test_output_does_not_share_memory_with_the_callers_buffer():
    buffer = RAMP.copy()
    out = WaveformPreprocess(sample_rate_hz=1000, duration_s=1)(buffer)
    buffer[:] = 0
    np.testing.assert_array_equal(out[0], RAMP)
    assert out.dtype == np.float32


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros(0, np.float32), "zero length"),
        (np.array([0.1, np.nan], np.float32), "not finite"),
        (np.zeros((10, 2), np.float32), "must be"),
        (np.zeros(10, np.int16), "floating-point"),
        ([0.1, 0.2], "floating-point"),
    ],
)
def test_unusable_arrays_are_refused(samples: NDArray[np.float32], reason: str):
    with pytest.raises(BadSample, match=reason):
        WaveformPreprocess(sample_rate_hz=1000, duration_s=1)(samples)


@pytest.mark.parametrize(
    ("samples", "rate_hz", "reason"),
    [
        (np.zeros((10, 0), np.float32), 8000, "zero length"),
        (np.zeros((1, 2, 3), np.float32), 8000, "must be"),
        (np.zeros(10, np.float64), 8000, "float32"),
        (np.array([np.inf], np.float32), 8000, "not finite"),
        (np.zeros(10, np.float32), 0, "0 Hz"),
    ],
)
def test_a_clip_checks_itself(samples: NDArray[np.float32], rate_hz: int, reason: str):
    with pytest.raises(BadSample, match=reason):
        AudioClip(samples, rate_hz)


def test_stereo_is_mixed_by_the_mean():
    stereo = np.stack([RAMP, -RAMP / 2], axis=1)
    clip = AudioClip(stereo, 1000)
    assert (clip.channels, clip.duration_s) == (2, 1.0)
    np.testing.assert_allclose(clip.mono().samples, RAMP / 4, rtol=1e-6)
    out = WaveformPreprocess(sample_rate_hz=1000, duration_s=1)(clip)
    np.testing.assert_allclose(out[0], RAMP / 4, rtol=1e-6)


def strongest_hz(samples: NDArray[np.float32], rate_hz: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax()) * rate_hz / len(samples)


def test_resampling_keeps_a_tone_and_its_level():
    out = AudioClip(tone(1000, 44_100), 44_100).resampled(16_000)
    assert out.sample_rate_hz == 16_000
    assert abs(len(out.samples) - 16_000) <= 1
    assert strongest_hz(out.samples, 16_000) == pytest.approx(1000, abs=1.5)
    inner = slice(2000, 14_000)
    np.testing.assert_allclose(out.samples[inner], tone(1000, 16_000)[inner], atol=1e-3)


def test_resampling_removes_what_would_alias():
    out = AudioClip(tone(11_000, 44_100), 44_100).resampled(16_000)
    # Taking every n-th sample would leave it at full level, at 5 kHz.
    inner = out.samples[1000:-1000]
    assert 20 * np.log10(np.abs(inner).max() / 0.5 + 1e-12) < -80


def test_resampling_stereo_equals_resampling_each_channel():
    left, right = tone(440, 44_100), tone(3000, 44_100)
    both = AudioClip(np.stack([left, right], axis=1), 44_100).resampled(16_000).samples
    np.testing.assert_allclose(both[:, 0], AudioClip(left, 44_100).resampled(16_000).samples)
    np.testing.assert_allclose(both[:, 1], AudioClip(right, 44_100).resampled(16_000).samples)


def test_real_speech_survives_a_detour(digits: list[Path]):
    clip = read_audio(digits[0])
    back = clip.resampled(48_000).resampled(8000).samples
    length = min(len(back), len(clip.samples))
    error = back[:length] - clip.samples[:length]
    assert np.sqrt(np.mean(error**2)) < 0.02 * np.sqrt(np.mean(clip.samples**2))


def test_without_soxr_equal_rates_work_and_others_name_the_pip_line(
    write_wav: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "soxr", None)
    clip = read_audio(write_wav(tone(1000, 8000), 8000))
    assert WaveformPreprocess(sample_rate_hz=8000, duration_s=1)(clip).shape == (1, 8000)
    with pytest.raises(MissingExtra, match=r'8000 to 16000 Hz.*pip install "edgeprune\[audio\]"'):
        WaveformPreprocess(sample_rate_hz=16_000, duration_s=1)(clip)


def test_a_clip_too_short_to_resample_is_a_bad_sample():
    with pytest.raises(BadSample, match="none left"):
        AudioClip(np.full(1, 0.5, np.float32), 384_000).resampled(1000)
