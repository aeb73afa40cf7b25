"""From a stream to clips: real words in real and made-up rooms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.devices import (
    AudioChunk,
    BadSample,
    EnergyGate,
    FrameThinner,
    Segmenter,
    VideoFrame,
    read_audio,
)
from edgeprune.devices._energy import level_dbfs

RATE = 8000


def chunks(sound, rate_hz=RATE, *, size=256, troubles=frozenset(), start=0, connection=1):
    for number in range(0, len(sound), size):
        yield AudioChunk(
            np.asarray(sound[number : number + size], np.float32),
            rate_hz,
            100.0 + (start + number) / rate_hz,
            (start + number) // size,
            connection=connection,
            troubles=troubles,
        )


def room(seconds: float, noise_dbfs: float, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    level = 10 ** (noise_dbfs / 20)
    return (level * generator.standard_normal(round(seconds * RATE))).astype(np.float32)


def spoken_in_a_room(data, noise_dbfs: float, gap_s: float = 1.0, count: int = 20):
    """Twenty digits of all speakers, a second apart; returns the sound and where each begins."""
    files = sorted((data / "fsdd").glob("*_7.wav"))[:: 60 // count][:count]
    words = [read_audio(file).samples for file in files]
    total = sum(map(len, words)) / RATE + gap_s * (count + 1) + 1.0
    sound = room(total, noise_dbfs)
    starts, at = [], RATE
    for word in words:
        sound[at : at + len(word)] += word
        starts.append((at, at + len(word)))
        at += len(word) + round(gap_s * RATE)
    return sound, starts


@pytest.mark.parametrize("noise_dbfs", [-75.0, -55.0, -45.0])
def test_real_words_in_a_room_are_found_whole_and_nothing_else(data, noise_dbfs):
    sound, words = spoken_in_a_room(data, noise_dbfs)
    segmenter = Segmenter(sample_rate_hz=RATE, window_s=1.0)
    found = list(segmenter.segments(chunks(sound)))
    assert {len(segment.samples) for segment in found} == {RATE}
    middles = [(s.timestamp_s - 100.0) + (s.heard_from_s + s.heard_to_s) / 2 for s in found]
    hit = [any(b / RATE - 0.1 < m < e / RATE + 0.1 for m in middles) for b, e in words]
    astray = [m for m in middles if not any(b / RATE - 0.1 < m < e / RATE + 0.1 for b, e in words)]
    assert np.mean(hit) >= 0.95
    assert len(astray) <= 1
    assert len(found) <= 1.25 * len(words)  # a word with a pause in it may come twice
    counts = segmenter.counts
    assert counts.kept == len(found)
    assert counts.heard_s + counts.ignored_s["silence"] <= len(sound) / RATE + 1e-6
    assert counts.ignored_s["silence"] > 0.6 * (len(sound) - sum(e - b for b, e in words)) / RATE


def test_the_clip_is_what_was_really_heard_around_the_word(data):
    sound, _ = spoken_in_a_room(data, -60.0, count=10)
    for segment in Segmenter(sample_rate_hz=RATE, window_s=1.0).segments(chunks(sound, size=333)):
        start = round((segment.timestamp_s - 100.0) * RATE)
        np.testing.assert_array_equal(segment.samples, sound[start : start + RATE])
        assert segment.above_noise_db > 9.0
        assert segment.clip.sample_rate_hz == RATE
        # Centred on its energy, as preprocessing with fit "energy" has it.
        heard = segment.samples.astype(np.float64) ** 2
        assert abs(float(heard @ np.arange(RATE)) / heard.sum() - RATE / 2) < 0.12 * RATE


def test_all_of_what_was_heard_is_in_the_clip_even_where_its_energy_lies_to_one_side():
    sound = room(4, -70)
    tone = np.sin(np.arange(7200) * 0.7) * np.where(np.arange(7200) < 400, 0.5, 0.01)
    sound[RATE : RATE + 7200] += tone.astype(np.float32)  # 0.9 s, nearly all of it at the start
    (segment,) = Segmenter(sample_rate_hz=RATE, window_s=1.0).segments(chunks(sound))
    start = round((segment.timestamp_s - 100.0) * RATE)
    assert start <= RATE
    assert start + RATE >= RATE + 7200
    assert segment.heard_from_s >= 0.0
    assert segment.heard_to_s == pytest.approx((RATE + 7200 - start) / RATE, abs=0.02)


def test_nothing_comes_of_silence_and_of_steady_noise():
    for sound in (np.zeros(10 * RATE), room(20, -70), room(20, -30), room(20, -15)):
        segmenter = Segmenter(sample_rate_hz=RATE, window_s=1.0)
        assert list(segmenter.segments(chunks(sound))) == []
        assert segmenter.counts.kept == 0


def test_a_fan_that_is_switched_on_becomes_the_background():
    sound = np.concatenate([room(5, -70), room(25, -35)])
    segmenter = Segmenter(sample_rate_hz=RATE, window_s=1.0)
    found = list(segmenter.segments(chunks(sound)))
    assert all(segment.timestamp_s < 100 + 5 + 4.0 for segment in found)
    assert segmenter.counts.ignored_s["silence"] > 20


def test_a_click_is_dropped_and_counted():
    sound = room(4, -70)
    sound[2 * RATE : 2 * RATE + 80 : 2] += 0.5
    segmenter = Segmenter(sample_rate_hz=RATE, window_s=1.0)
    assert list(segmenter.segments(chunks(sound))) == []
    assert segmenter.counts.dropped == {"short": 1}


def test_unbroken_speech_is_cut_at_its_quietest_moments():
    sound = room(8, -70)
    loud = np.sin(2 * np.pi * 300 * np.arange(5 * RATE) / RATE) * 0.3
    quiet = [0.7, 1.5, 2.2, 3.1, 3.8, 4.4]
    for at in quiet:
        loud[round(at * RATE) : round((at + 0.05) * RATE)] *= 0.3
    sound[2 * RATE : 7 * RATE] += loud.astype(np.float32)
    found = list(Segmenter(sample_rate_hz=RATE, window_s=1.0).segments(chunks(sound)))
    ends = [s.timestamp_s - 102.0 + s.heard_to_s for s in found]
    assert 5 <= len(found) <= 8
    assert all(min(abs(end - at - 0.02) for at in [*quiet, 5.0]) < 0.06 for end in ends)
    assert all(s.heard_to_s - s.heard_from_s <= 1.0 for s in found)


def test_without_the_gate_window_follows_window():
    sound = np.arange(3 * RATE + 100, dtype=np.float32) / 1e5
    segmenter = Segmenter(sample_rate_hz=RATE, window_s=0.5, gate=False)
    found = list(segmenter.segments(chunks(sound)))
    assert len(found) == 6
    joined = np.concatenate([segment.samples for segment in found])
    np.testing.assert_array_equal(joined, sound[: len(joined)])
    assert segmenter.counts.heard_s == 3.0
    assert not segmenter.counts.ignored_s


@pytest.mark.parametrize("trouble", ["muted", "overdriven", "wrong-rate"])
def test_spoilt_input_is_no_sample_of_the_user(data, trouble):
    sound, _ = spoken_in_a_room(data, -60.0, count=4)
    segmenter = Segmenter(sample_rate_hz=RATE, window_s=1.0)
    assert list(segmenter.segments(chunks(sound, troubles=frozenset({trouble})))) == []
    assert segmenter.counts.ignored_s[trouble] == pytest.approx(len(sound) / RATE)


def test_no_clip_spans_a_reconnection():
    first, second = room(2, -70), room(3, -70, seed=1)
    first[-RATE // 2 :] += 0.2 * np.sin(np.arange(RATE // 2)).astype(np.float32)
    second[: RATE // 4] += 0.2 * np.sin(np.arange(RATE // 4)).astype(np.float32)
    stream = [*chunks(first), *chunks(second, start=10 * RATE, connection=2)]
    found = list(Segmenter(sample_rate_hz=RATE, window_s=1.0).segments(stream))
    assert len(found) == 2
    # What the device did not deliver is silence, not the other connection's sound.
    assert not found[0].samples[-1000:].any()
    assert not found[1].samples[:1000].any()
    assert found[1].timestamp_s > 109.0


def test_no_clip_spans_lost_samples():
    sound = room(3, -70)
    sound[RATE : RATE + 3000] += 0.2 * np.sin(np.arange(3000)).astype(np.float32)
    stream = [
        AudioChunk(c.samples, RATE, c.timestamp_s, c.sequence, 500 * (c.sequence >= 40))
        for c in chunks(sound)
    ]
    found = list(Segmenter(sample_rate_hz=RATE, window_s=1.0).segments(stream))
    at = 40 * 256  # in the middle of what is heard
    assert len(found) == 2
    first, second = ((round((s.timestamp_s - 100) * RATE), s.samples) for s in found)
    assert not first[1][at - first[0] :].any()
    assert not second[1][: at - second[0]].any()


class Ear:
    """A voice detector that hears a voice in what is loud at the start."""

    sample_rate_hz = 16_000

    def __init__(self, answer: float) -> None:
        self.answer = answer
        self.asked: list[int] = []

    def __call__(self, samples) -> float:
        self.asked.append(len(samples))
        return self.answer


@pytest.mark.parametrize(("answer", "kept"), [(0.9, True), (0.2, False)])
def test_the_voice_gate_is_asked_only_about_what_is_loud(data, answer, kept):
    sound, _ = spoken_in_a_room(data, -60.0, count=4)
    ear = Ear(answer)
    segmenter = Segmenter(sample_rate_hz=RATE, window_s=1.0, voice=ear)
    found = list(segmenter.segments(chunks(sound)))
    assert set(ear.asked) == {16_000}
    assert [segment.voice for segment in found] == ([answer] * len(ear.asked) if kept else [])
    assert segmenter.counts.dropped.get("no voice", 0) == (0 if kept else len(ear.asked))


@settings(deadline=None, max_examples=12)
@given(st.lists(st.integers(1, 20_000), min_size=1, max_size=6), st.booleans())
def test_however_the_stream_is_cut_into_chunks_the_segments_are_the_same(sizes, gated):
    sound = room(6, -65)
    for at in (1.0, 2.2, 3.9):
        sound[round(at * RATE) :][:3000] += 0.2 * np.sin(np.arange(3000) * 0.3).astype(np.float32)

    def run(stream):
        return list(Segmenter(sample_rate_hz=RATE, window_s=0.8, gate=gated).segments(stream))

    def cut():
        start = number = 0
        while start < len(sound):
            size = sizes[number % len(sizes)]
            yield AudioChunk(sound[start : start + size], RATE, 100 + start / RATE, number)
            start, number = start + size, number + 1

    want, got = run(chunks(sound)), run(cut())
    assert len(want) == len(got) == (3 if gated else 7)
    for one, other in zip(want, got, strict=True):
        np.testing.assert_array_equal(one.samples, other.samples)
        assert one.timestamp_s == pytest.approx(other.timestamp_s)


def test_memory_is_bounded_whatever_the_length():
    segmenter = Segmenter(sample_rate_hz=RATE, window_s=1.0)
    for chunk in chunks(np.tile(room(10, -40), 6)):
        segmenter.push(chunk)
        assert len(segmenter._buffer._samples) <= 5 * RATE
        assert len(segmenter._waiting) <= 3


@pytest.mark.parametrize("bad", [{"window_s": 0.0}, {"window_s": 1.0, "hang_over_s": 2.0}])
def test_senseless_lengths_are_refused(bad):
    with pytest.raises(ValueError, match="window_s"):
        Segmenter(sample_rate_hz=RATE, **bad)


def test_a_stream_of_another_rate_is_refused():
    with pytest.raises(ValueError, match="16000 Hz"):
        Segmenter(sample_rate_hz=RATE, window_s=1.0).push(next(chunks(np.zeros(10), 16_000)))


def test_the_floor_of_the_gate():
    gate = EnergyGate()
    for frame in room(4, -50).reshape(-1, 80):
        assert not gate.push(frame)
    assert gate.floor_dbfs == pytest.approx(-50, abs=2.5)
    assert gate.push(np.sin(np.arange(80, dtype=np.float32)) * np.float32(0.1))
    assert level_dbfs(np.full(80, 0.3, np.float32)) == -120.0


def test_chunks_and_frames_say_what_they_are():
    stereo = AudioChunk(np.zeros((80, 2), np.float32), RATE, 0.0, 0)
    assert (stereo.channels, stereo.duration_s, stereo.clip.channels) == (2, 0.01, 2)
    with pytest.raises(BadSample):
        AudioChunk(np.zeros(80), RATE, 0.0, 0)
    with pytest.raises(BadSample):
        VideoFrame(np.zeros((2, 2), np.uint8), 0.0, 0)


def frame(rgb, at: float = 0.0, troubles=frozenset()) -> VideoFrame:
    return VideoFrame(np.asarray(rgb, np.uint8), at, 0, troubles=troubles)


def scene(seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 255, (6, 8, 3)).repeat(40, 0).repeat(40, 1)


def noisy(picture, seed):
    grain = np.random.default_rng(seed).normal(0, 6, picture.shape)
    return np.clip(picture + grain, 0, 255)


def test_a_still_scene_is_kept_once_and_then_every_ten_seconds():
    thinner = FrameThinner()
    grainy = [noisy(scene(), seed) for seed in range(7)]
    kept = [thinner.keep(frame(grainy[n % 7], n * 0.1)) for n in range(250)]
    assert [n for n, keep in enumerate(kept) if keep] == [0, 100, 200]
    assert thinner.counts.kept == 3
    assert thinner.counts.dropped == {"near-duplicate": 247}


def test_another_scene_and_something_small_that_moves_are_kept():
    thinner = FrameThinner()
    assert thinner.keep(frame(scene()))
    assert not thinner.keep(frame(noisy(scene(), 1)))
    moved = scene()
    moved[60:90, 60:90] = 255 - moved[60:90, 60:90]
    assert thinner.keep(frame(moved))
    assert thinner.keep(frame(scene(1)))
    assert thinner.keep(frame(np.clip(scene(1) * 0.7, 0, 255)))  # another light


def test_real_pictures_are_all_kept(data):
    from PIL import Image

    thinner = FrameThinner()
    files = sorted((data / "tiny-imagenet" / "test").glob("*/*.JPEG"))[::200]
    frames = [frame(np.asarray(Image.open(file).convert("RGB"))) for file in files]
    assert len(list(thinner.frames(frames))) == len(files)


def test_pictures_that_show_nothing_are_dropped_even_without_thinning():
    thinner = FrameThinner(enabled=False)
    assert all(thinner.keep(frame(scene())) for _ in range(3))
    assert not thinner.keep(frame(scene(), troubles=frozenset({"muted"})))
    assert thinner.counts.dropped == {"muted": 1}
    with pytest.raises(ValueError, match="negative"):
        FrameThinner(mean_difference=-1)


@given(st.integers(1, 70), st.integers(1, 300))
def test_pictures_of_any_size_can_be_compared(height, width):
    thinner = FrameThinner()
    assert thinner.keep(frame(np.zeros((height, width, 3))))
    assert not thinner.keep(frame(np.zeros((height, width, 3))))
    assert thinner.keep(frame(np.full((height, width, 3), 99)))
