"""The demo's sounds are what its README says, and its generator shapes sound as it says."""

import hashlib
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

soundfile = pytest.importorskip("soundfile", reason="the recipes need edgeprune[audio]")

from edgeprune.exporters.recipes import make_demo_sounds as maker  # noqa: E402

DEMO = Path(__file__).resolve().parents[2] / "edgeprune" / "assets" / "demo"
ADAPT = sorted((DEMO / "adapt").iterdir())
TEST = sorted((DEMO / "test").glob("*/*"))


def test_counts_are_those_of_the_readme() -> None:
    assert len(ADAPT) == 120
    assert Counter(path.parent.name for path in TEST) == {str(digit): 10 for digit in range(10)}


def test_no_label_stands_in_a_name_that_adapts() -> None:
    assert [path.name for path in ADAPT] == [f"take_{n:04d}.wav" for n in range(1, 121)]


def test_takes_that_adapt_are_not_those_that_score() -> None:
    digests = [hashlib.sha256(path.read_bytes()).digest() for path in ADAPT + TEST]
    assert len(set(digests)) == len(digests)


def test_sounds_are_8_khz_mono_16_bit_and_carry_no_other_chunk() -> None:
    for path in ADAPT + TEST:
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (8000, 1, "PCM_16"), path
        assert 0.15 <= info.duration <= 0.71, path
        # 44 bytes of header and the samples: no room for a comment that tells the word.
        assert path.stat().st_size == 44 + 2 * info.frames, path


def test_order_of_the_takes_tells_nothing() -> None:
    """Were they sorted by digit, neighbours would be alike in length; a shuffle is not."""
    seconds = np.array([soundfile.info(path).duration for path in ADAPT])
    neighbours = np.corrcoef(seconds[:-1], seconds[1:])[0, 1]
    assert abs(neighbours) < 0.3


def test_no_take_clips() -> None:
    peaks = [np.abs(soundfile.read(path)[0]).max() for path in ADAPT + TEST]
    assert min(peaks) > 0.1
    assert max(peaks) < 0.7


def test_the_folder_stays_small() -> None:
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) <= 2_000_000


def test_readme_says_that_the_voice_is_synthetic_and_names_tool_and_command() -> None:
    text = (DEMO / "README.md").read_text(encoding="utf-8")
    assert "synthetic" in text
    assert "Flite" in text
    assert re.search(r"make_demo_sounds --voice flite:\w+ --room far", text)


def test_trim_keeps_the_word_and_drops_the_silence() -> None:
    wave = np.zeros(8000, dtype=np.float32)
    wave[3000:5000] = 0.5
    assert len(maker.trim(wave)) == pytest.approx(2000, abs=160)


def test_noise_has_the_level_asked_for() -> None:
    rng = np.random.default_rng(3)
    wave = np.sin(np.arange(8000, dtype=np.float32))
    room = maker.Room(snr_db=(20, 20), reverb_s=(0.2, 0.2), echo_db=(-10, -10))
    noise = maker.add_noise(wave, room, rng) - wave
    assert 20 * np.log10(wave.std() / noise.std()) == pytest.approx(20, abs=0.2)


def test_echo_leaves_the_direct_sound_first() -> None:
    rng = np.random.default_rng(4)
    click = np.zeros(4000, dtype=np.float32)
    click[0] = 1.0
    room = maker.Room(snr_db=(90, 90), reverb_s=(0.3, 0.3), echo_db=(-10, -10))
    answer = maker.add_echo(click, room, rng)
    assert answer[0] == pytest.approx(1.0)
    assert not answer[1:40].any()
    assert 10 * np.log10(np.square(answer[1:]).sum()) == pytest.approx(-10, abs=0.1)


@pytest.mark.parametrize("voice", maker.CANDIDATES)
def test_commands_name_voice_word_and_file(voice: str) -> None:
    engine, name = voice.split(":")
    build = maker.flite_command if engine == "flite" else maker.espeak_command
    command = build(name, "seven", maker.Delivery(rate=1.0, pitch=1.0), Path("out.wav"))
    assert {name, "seven", "out.wav"} <= set(command)
