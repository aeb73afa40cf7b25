"""Mixing, resampling and cutting; and what is said of sound that is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.devices import MissingExtra
from edgeprune.devices._sound_health import SoundHealth
from edgeprune.devices._sound_stream import SoundStream


def pieces(samples: np.ndarray, sizes: list[int]):
    start = 0
    while start < len(samples):
        size = sizes[start % len(sizes)]
        yield samples[start : start + size]
        start += size


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.integers(1, 900), min_size=1, max_size=7),
    st.sampled_from([(44_100, 16_000), (48_000, 16_000), (16_000, 48_000), (48_000, 44_100)]),
    st.integers(1, 3),
)
def test_however_the_driver_cuts_it_the_outcome_is_the_same(sizes, rates, channels):
    generator = np.random.default_rng(0)
    sound = generator.standard_normal((20_000, channels)).astype(np.float32) * 0.1
    whole = SoundStream(*rates, 100)
    cut = SoundStream(*rates, 100)
    want = np.concatenate([chunk for chunk, _ in whole.push(sound, 5.0)])
    got = [chunk for block in pieces(sound, sizes) for chunk, _ in cut.push(block, 5.0)]
    assert all(chunk.shape == (100,) and chunk.dtype == np.float32 for chunk in got)
    shared = min(len(want), 100 * len(got))
    assert shared > 0.9 * len(sound) * rates[1] / rates[0]
    np.testing.assert_allclose(np.concatenate(got)[:shared], want[:shared], atol=1e-5)


def test_it_agrees_with_resampling_the_whole():
    soxr = pytest.importorskip("soxr")
    times = np.arange(44_100) / 44_100
    sound = np.sin(2 * np.pi * 700 * times).astype(np.float32)
    stream = SoundStream(44_100, 16_000, 160)
    got = np.concatenate(
        [c for block in pieces(sound[:, None], [441]) for c, _ in stream.push(block, 1.0)]
    )
    want = soxr.resample(sound, 44_100, 16_000)[: len(got)]
    assert np.abs(got - want)[200:-200].max() < 1e-3  # the streaming kernel differs a little


def test_the_time_of_a_chunk_is_when_its_first_sample_came():
    stream = SoundStream(8000, 8000, 100)
    assert stream.push(np.zeros((80, 1), np.float32), 10.0) == []
    ((_, first),) = stream.push(np.zeros((80, 1), np.float32), 10.01)
    assert first == pytest.approx(10.01 - 160 / 8000)
    # A late block and one on time after it: never back.
    chunks = stream.push(np.zeros((800, 1), np.float32), 10.9)
    later = stream.push(np.zeros((80, 1), np.float32), 10.12)
    times = [first, *(time for _, time in chunks + later)]
    assert times == sorted(times)


def test_without_soxr_the_native_rate_still_works(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "soxr", None)
    assert SoundStream(8000, 8000, 10).push(np.zeros((10, 2), np.float32), 0.0)
    with pytest.raises(MissingExtra, match="from 44100 to 16000 Hz"):
        SoundStream(44_100, 16_000, 10)


RATE = 48_000


def run(
    health: SoundHealth,
    make,
    seconds: float,
    *,
    start: float = 0.0,
    speed: float = 1.0,
    block: int = 480,
    burst: int = 1,
    jitter: float = 0.0,
) -> dict[str, float]:
    """Push blocks in the time of a device; return when each trouble was first said."""
    generator = np.random.default_rng(1)
    said: dict[str, float] = {}
    count = int(seconds * RATE * speed / block)
    for number in range(count):
        due = start + (number // burst + 1) * burst * block / (RATE * speed)
        health.push(make(block), due + generator.uniform(0, jitter))
        for trouble in health.troubles:
            said.setdefault(trouble, due - start)
    return said


def noise(level: float):
    generator = np.random.default_rng(2)
    return lambda frames: (level * generator.standard_normal((frames, 2))).astype(np.float32)


def test_good_sound_is_left_alone():
    assert run(SoundHealth("Mic", RATE), noise(0.05), 10.0, jitter=0.004) == {}
    assert run(SoundHealth("Mic", RATE), noise(0.0002), 10.0) == {}


@pytest.mark.parametrize("value", [0.0, 0.25])  # zeros, and a dead converter's offset
def test_digital_silence_is_muted_within_two_seconds(value):
    health = SoundHealth("Mic", RATE)
    said = run(health, lambda n: np.full((n, 2), value, np.float32), 3.0)
    assert 1.0 < said["muted"] < 2.0
    health.push(noise(0.05)(480), 3.1)
    assert health.troubles == {}


def test_one_living_channel_is_not_muted():
    def half(frames: int):
        block = noise(0.05)(frames)
        block[:, 1] = 0.0
        return block

    assert run(SoundHealth("Mic", RATE), half, 4.0) == {}


def test_clipping_is_over_driven_within_two_seconds_and_over_when_clean():
    health = SoundHealth("Mic", RATE)
    said = run(health, lambda n: np.clip(noise(0.8)(n), -1, 1), 3.0)
    assert said["overdriven"] < 2.0
    assert "% of the samples" in health.troubles["overdriven"]
    run(health, noise(0.1), 1.5, start=3.0)
    assert health.troubles == {}


def test_one_over_driven_channel_is_enough():
    def one_side(frames: int):
        block = noise(0.1)(frames)
        block[:, 1] = np.clip(noise(0.8)(frames)[:, 1], -1, 1)
        return block

    assert "overdriven" in run(SoundHealth("Mic", RATE), one_side, 2.0)


def test_a_rare_peak_is_not_over_driven():
    assert run(SoundHealth("Mic", RATE), lambda n: np.clip(noise(0.35)(n), -1, 1), 5.0) == {}


@pytest.mark.parametrize("speed", [0.5, 0.92, 1.09, 2.0])
@pytest.mark.parametrize(("block", "burst"), [(480, 1), (1200, 2), (1024, 4)])
def test_a_wrong_rate_is_noticed_within_two_seconds(speed, block, burst):
    health = SoundHealth("Mic", RATE)
    said = run(health, noise(0.05), 4.0, speed=speed, block=block, burst=burst, jitter=0.005)
    assert said["wrong-rate"] < 2.0
    assert "samples a second" in health.troubles["wrong-rate"]


@pytest.mark.parametrize("speed", [0.5, 1.1])
def test_a_rate_that_becomes_wrong_is_noticed_within_two_seconds_and_its_end_too(speed):
    health = SoundHealth("Mic", RATE)
    assert run(health, noise(0.05), 5.0) == {}
    assert run(health, noise(0.05), 4.0, start=5.0, speed=speed)["wrong-rate"] < 2.0
    run(health, noise(0.05), 2.0, start=9.0)
    assert health.troubles == {}


@settings(deadline=None, max_examples=10)
@given(
    st.floats(0.97, 1.03),
    st.sampled_from([(480, 1), (1102, 2), (2048, 2), (1024, 6)]),
    st.floats(0.0, 0.02),
)
def test_a_right_rate_is_never_called_wrong(speed, blocks, jitter):
    health = SoundHealth("Mic", RATE)
    assert (
        run(health, noise(0.05), 6.0, speed=speed, block=blocks[0], burst=blocks[1], jitter=jitter)
        == {}
    )


def test_what_was_buffered_when_a_device_is_opened_again_is_no_wrong_rate():
    health = SoundHealth("Mic", RATE)
    run(health, noise(0.05), 2.0)
    health.reconnected()
    for _ in range(40):
        health.push(noise(0.05)(480), 2.0)
    assert run(health, noise(0.05), 3.0, start=2.0) == {}


def test_a_busy_computer_is_no_wrong_rate():
    """Nothing for half a second, then all of it at once."""
    health = SoundHealth("Mic", RATE)
    run(health, noise(0.05), 2.0)
    for _ in range(50):
        health.push(noise(0.05)(480), 2.5)
    assert run(health, noise(0.05), 3.0, start=2.5) == {}
