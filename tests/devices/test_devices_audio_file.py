"""Reading recordings: formats, damage, silence, and what works without the audio extra."""

from __future__ import annotations

import random
import struct
import sys
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edgeprune.devices import BadSample, MissingExtra, read_audio

WriteWav = Callable[..., Path]
SPEECH = (0.4 * np.sin(np.arange(4000) / 5) * np.hanning(4000)).astype(np.float32)
STEREO = np.stack([SPEECH, SPEECH[::-1] / 3], axis=1)


@pytest.fixture(params=["all extras", "base only"])
def installation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run once with soundfile and once as if the audio extra were not installed."""
    if request.param == "base only":
        monkeypatch.setitem(sys.modules, "soundfile", None)
        monkeypatch.setitem(sys.modules, "soxr", None)
    return str(request.param)


def reason_of(path: Path) -> str:
    with pytest.raises(BadSample) as caught:
        read_audio(path)
    assert caught.value.path == path
    assert str(path) in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize("samples", [SPEECH, STEREO], ids=["mono", "stereo"])
def test_pcm_wav_of_every_width(
    installation: str, bits: int, samples: np.ndarray, write_wav: WriteWav
):
    clip = read_audio(write_wav(samples, 8000, bits))
    assert (clip.samples.dtype, clip.samples.shape) == (np.float32, samples.shape)
    assert clip.sample_rate_hz == 8000
    np.testing.assert_allclose(clip.samples, samples, atol=1.01 * 2.0 ** -min(bits, 23))


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_pcm_wav_is_bit_equal_to_libsndfile(bits: int, write_wav: WriteWav):
    path = write_wav(STEREO, 44_100, bits)
    np.testing.assert_array_equal(
        read_audio(path).samples, soundfile.read(path, dtype="float32")[0]
    )


def test_real_recordings(digits: list[Path], words: list[Path]):
    for path in [*digits, *words]:
        clip = read_audio(str(path))
        reference, rate_hz = soundfile.read(path, dtype="float32")
        assert clip.sample_rate_hz == rate_hz == (8000 if path.suffix == ".wav" else 16_000)
        np.testing.assert_array_equal(clip.samples, reference)


def test_real_digits_with_base_dependencies_only(
    digits: list[Path], monkeypatch: pytest.MonkeyPatch
):
    with_extra = [read_audio(path).samples for path in digits]
    monkeypatch.setitem(sys.modules, "soundfile", None)
    for path, samples in zip(digits, with_extra, strict=True):
        np.testing.assert_array_equal(read_audio(path).samples, samples)


@pytest.mark.parametrize(("suffix", "tolerance"), [(".flac", 1e-4), (".ogg", 0.05)])
def test_compressed_formats(suffix: str, tolerance: float, tmp_path: Path):
    path = tmp_path / f"a{suffix}"
    soundfile.write(path, STEREO, 16_000)
    clip = read_audio(path)
    assert (clip.channels, clip.sample_rate_hz) == (2, 16_000)
    np.testing.assert_allclose(clip.samples, STEREO, atol=tolerance)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.flac", {}),
        ("a.ogg", {}),
        ("a.wav", {"subtype": "FLOAT"}),
        ("b.wav", {"subtype": "ULAW"}),
        ("c.wav", {"format": "WAVEX", "subtype": "PCM_24"}),
    ],
)
def test_other_formats_need_the_extra_and_say_so(
    name: str, options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / name
    soundfile.write(path, SPEECH, 16_000, **options)
    np.testing.assert_allclose(read_audio(path).samples, SPEECH, atol=0.05)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(MissingExtra, match=r'pip install "edgeprune\[audio\]"') as caught:
        read_audio(path)
    assert str(path) in str(caught.value)


def test_the_content_decides_not_the_name(tmp_path: Path):
    path = tmp_path / "a.wav"
    soundfile.write(path, SPEECH, 16_000, format="FLAC")
    np.testing.assert_allclose(read_audio(path).samples, SPEECH, atol=1e-4)


def test_nothing_there(installation: str, tmp_path: Path, write_wav: WriteWav):
    assert "No such file" in reason_of(tmp_path / "none.wav")
    assert "cannot be opened" in reason_of(tmp_path)
    (tmp_path / "empty.wav").touch()
    assert "zero length" in reason_of(tmp_path / "empty.wav")
    assert "zero length" in reason_of(write_wav(np.zeros(0)))


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_noise_is_not_sound(name: str, tmp_path: Path):
    (tmp_path / name).write_bytes(random.Random(1).randbytes(5000))
    assert "not a sound file" in reason_of(tmp_path / name)


def test_noise_named_wav_is_a_bad_sample_without_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    (tmp_path / "a.wav").write_bytes(random.Random(1).randbytes(5000))
    assert "damaged" in reason_of(tmp_path / "a.wav")


@pytest.mark.parametrize("keep", [10, 30, 43, 44, 45, 1000, 8043])
def test_truncated_wav(installation: str, keep: int, write_wav: WriteWav):
    path = write_wav(SPEECH)
    path.write_bytes(path.read_bytes()[:keep])
    reason = reason_of(path)
    assert "truncated" in reason or "damaged" in reason


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_truncated_flac(share: float, tmp_path: Path, words: list[Path]):
    whole = words[0].read_bytes()
    path = tmp_path / "a.flac"
    path.write_bytes(whole[: int(share * len(whole))])
    reason = reason_of(path)
    assert "truncated" in reason or "damaged" in reason


def test_wav_from_a_pipe_goes_on_to_the_end_of_the_file(installation: str, write_wav: WriteWav):
    path = write_wav(SPEECH)
    whole = read_audio(path).samples
    raw = bytearray(path.read_bytes())
    raw[4:8] = raw[40:44] = struct.pack("<I", 0xFFFF_FFFF)
    path.write_bytes(raw + b"\x01")  # and half a frame that the pipe did not finish
    np.testing.assert_array_equal(read_audio(path).samples, whole)


def test_a_lying_header_sizes_no_allocation(installation: str, write_wav: WriteWav):
    path = write_wav(SPEECH)
    raw = bytearray(path.read_bytes())
    raw[40:44] = struct.pack("<I", 8_000_000)
    path.write_bytes(raw)
    assert "truncated: its header promises 4000000 frames" in reason_of(path)
    raw[24:28] = struct.pack("<I", 0)
    path.write_bytes(raw)
    assert "0 Hz" in reason_of(path)


def test_more_than_ten_minutes_is_refused_unread(
    installation: str, tmp_path: Path, write_wav: WriteWav
):
    path = tmp_path / "long.wav"
    with wave.open(str(path), "wb") as stream:
        stream.setparams((1, 1, 1000, 0, "NONE", ""))
        stream.writeframes(bytes(600_001))
    assert "too long" in reason_of(path)


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(1000),
        np.full(1000, 0.25),  # a dead microphone with a constant offset
        np.tile([0.5 / 32768, -0.5 / 32768], 500),
        np.stack([SPEECH, -SPEECH], axis=1),  # channels that cancel each other
    ],
    ids=["zeros", "offset", "last bit", "opposed"],
)
def test_silence_is_refused(installation: str, samples: np.ndarray, write_wav: WriteWav):
    assert "silent" in reason_of(write_wav(samples, bits=24))


def test_faint_speech_is_not_silence(write_wav: WriteWav):
    faint = SPEECH * 10 ** (-70 / 20)
    np.testing.assert_allclose(read_audio(write_wav(faint, bits=24)).samples, faint, atol=2e-7)


def test_numbers_that_are_none_are_refused(tmp_path: Path):
    samples = SPEECH.copy()
    samples[100] = np.nan
    path = tmp_path / "a.wav"
    soundfile.write(path, samples, 8000, subtype="FLOAT")
    assert "not finite" in reason_of(path)


@pytest.mark.parametrize("seed", range(8))
def test_damaged_bytes_never_escape_the_promised_errors(
    installation: str, seed: int, tmp_path: Path, write_wav: WriteWav
):
    chance = random.Random(seed)
    whole = write_wav(SPEECH[1500:2500]).read_bytes()
    outcomes = []
    for _ in range(40):
        raw = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            raw[chance.randrange(48)] = chance.randrange(256)
        path = tmp_path / "damaged.wav"
        path.write_bytes(raw)
        try:
            outcomes.append(read_audio(path).samples.dtype == np.float32)
        except (BadSample, MissingExtra):
            outcomes.append(True)
    assert outcomes == [True] * 40
