"""The optional voice gate: Silero's network without torch, on real voices and on noise."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from edgeprune._voice import SileroVoice
from edgeprune.devices import MissingLibrary, Segmenter, read_audio

from .test_live_segment import chunks

RATE = 16_000


@pytest.fixture(scope="module")
def voice() -> SileroVoice:
    try:
        return SileroVoice()
    except MissingLibrary as error:
        pytest.skip(str(error))


def noises() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    white = generator.standard_normal(RATE)
    times = np.arange(RATE) / RATE
    hum = np.sin(2 * np.pi * 50 * times) + 0.3 * np.sin(2 * np.pi * 150 * times)
    knock = white * np.exp(-times * 30)
    beep = np.sin(2 * np.pi * 2000 * times) * (times % 0.2 < 0.1)
    return [(0.2 * sound).astype(np.float32) for sound in (white, hum, knock, beep)]


def test_voices_are_heard_and_noises_are_not(voice, data):
    files = sorted((data / "arabic-speech-commands").glob("*/*_02.flac"))[::40]
    voiced = np.array([voice(read_audio(file).samples) for file in files])
    other = np.array([voice(noise) for noise in noises()])
    print(
        f"\nvoice: {len(files)} words {voiced.min():.2f} to {voiced.max():.2f}, "
        f"{(voiced > 0.5).mean():.0%} above 0.5; noises {np.round(other, 2)}"
    )
    assert (voiced > 0.5).mean() > 0.9
    assert other.max() < 0.5
    assert voice.frames(np.zeros(1000, np.float32)).shape == (2,)
    assert voice(np.zeros(0, np.float32)) == 0.0


def test_with_the_segmenter_a_knock_is_dropped_and_a_word_is_kept(voice, data):
    word = read_audio(sorted((data / "arabic-speech-commands").glob("*/*_02.flac"))[7]).samples
    rest = (1e-4 * np.random.default_rng(1).standard_normal(2 * RATE)).astype(np.float32)
    stream = np.concatenate([rest, noises()[2], rest, word, rest])
    segmenter = Segmenter(sample_rate_hz=RATE, window_s=1.0, voice=voice)
    found = list(segmenter.segments(chunks(stream, RATE, size=512)))
    assert len(found) == 1
    assert 104.5 < found[0].timestamp_s < 106.0
    assert found[0].voice is not None
    assert found[0].voice > 0.5
    assert segmenter.counts.dropped["no voice"] == 1


def test_no_torch_is_imported(voice):
    code = (
        "import sys; import numpy as np; sys.modules['torch'] = None\n"
        "from edgeprune._voice import SileroVoice\n"
        "SileroVoice()(np.zeros(16000, np.float32)); print('silero_vad' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "False"


def test_without_the_package_the_pip_line_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingLibrary, match="pip install --no-deps silero-vad"):
        SileroVoice()
