"""`edgeprune run` on files and folders, as a process: lines, limits, ends, locks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest

from edgeprune.devices import Segmenter, open_folder, open_sound_file, preprocess_from_dict
from edgeprune.runtime.artifact import Artifact

from .running import DEMO, MODEL

SOUNDS = DEMO / "adapt"
KEYS = {
    "type", "version", "time", "timestamp_s", "sequence", "source", "label", "index", "probability",
    "top", "profile", "generation", "state", "teaches", "latency_ms", "age_ms",
}  # fmt: skip


def stream_of_words(path: Path, files: list[Path], gap_s: float = 0.7) -> list[float]:
    """Write the recordings one after the other, with a faint hiss between; return their ends."""
    generator = np.random.default_rng(0)
    parts: list[np.ndarray] = []
    ends = []
    for file in files:
        hiss = generator.normal(0.0, 3.0, int(gap_s * 8000)).astype("<i2")
        with wave.open(str(file)) as stream:
            word = np.frombuffer(stream.readframes(stream.getnframes()), "<i2")
        parts += [hiss, word]
        ends.append(sum(map(len, parts)) / 8000)
    parts.append(generator.normal(0.0, 3.0, 16_000).astype("<i2"))
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(8000)
        stream.writeframes(np.concatenate(parts).tobytes())
    return ends


def test_a_folder_is_answered_as_predict_answers_it(run, tmp_path):
    words = ("--source", SOUNDS, "--pace", "fast", "--profile", "anna", "--no-learn")
    running = run(MODEL, *words)
    assert running.end() == 0
    lines = running.results
    assert running.lines == lines
    assert [line["sequence"] for line in lines] == list(range(120))
    assert all(set(line) == KEYS for line in lines)
    assert all(line["profile"] == "anna" and line["state"] == "dense" for line in lines)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT.*\.\d{3}Z", line["time"]) for line in lines)
    done = subprocess.run(
        [sys.executable, "-m", "edgeprune", "predict", str(MODEL), str(SOUNDS), "--json"],
        capture_output=True,
        check=True,
        env={**os.environ, "EDGEPRUNE_HOME": str(tmp_path)},
    )
    predicted = json.loads(done.stdout)["predictions"]
    assert [line["source"] for line in lines] == [one["file"] for one in predicted]
    assert [line["label"] for line in lines] == [one["label"] for one in predicted]
    shares = [one["probability"] for one in predicted]
    assert [line["probability"] for line in lines] == pytest.approx(shares, abs=1e-5)
    assert running.said == "edgeprune: 120 samples answered\n"


def test_a_recording_is_cut_into_words(run, data, tmp_path):
    files = sorted((data / "fsdd").glob("*_theo_7.wav"))
    ends = stream_of_words(tmp_path / "words.wav", files)
    running = run(MODEL, "--source", tmp_path / "words.wav", "--pace", "fast")
    assert running.end() == 0
    assert len(running.results) == len(files) == 10
    heard = [line["timestamp_s"] for line in running.results]
    # The end of the sound, not of the clip; a recording's last tenths may be inaudible.
    late = np.diff(heard) - np.diff(ends)
    assert np.abs(late).max() < 0.2
    right = [
        line["label"] == file.name[0] for line, file in zip(running.results, files, strict=True)
    ]
    assert sum(right) >= 8  # a speaker of the training set


def test_without_the_gate_window_follows_window(run, data, tmp_path):
    ends = stream_of_words(tmp_path / "words.wav", sorted((data / "fsdd").glob("*_theo_7.wav")))
    words = ("--source", tmp_path / "words.wav", "--pace", "fast", "--no-gate")
    running = run(MODEL, *words)
    assert running.end() == 0
    assert len(running.results) == int(ends[-1] + 2.0)
    times = [line["timestamp_s"] for line in running.results]
    assert np.diff(times) == pytest.approx(1.0)


def test_a_stream_gives_the_very_numbers_of_a_folder(data, tmp_path):
    from edgeprune.service._open_input import InputOptions, open_input

    preprocess = preprocess_from_dict(dict(Artifact.open(MODEL).info.preprocess or {}))
    stream_of_words(tmp_path / "words.wav", sorted((data / "fsdd").glob("*_theo_7.wav")))
    segmenter = Segmenter(sample_rate_hz=8000, window_s=1.0)
    (tmp_path / "cut").mkdir()
    with open_sound_file(tmp_path / "words.wav") as source:
        for number, segment in enumerate(segmenter.segments(source)):
            with wave.open(str(tmp_path / "cut" / f"{number:02}.wav"), "wb") as stream:
                stream.setnchannels(1)
                stream.setsampwidth(2)
                stream.setframerate(8000)
                stream.writeframes((segment.samples * 2**15).astype("<i2").tobytes())
    folder = open_folder(tmp_path / "cut", preprocess)
    options = InputOptions(pace="fast")
    with open_input(str(tmp_path / "words.wav"), preprocess, options) as samples:
        live = list(samples)
    assert len(live) == len(folder) == 10
    for number, sample in enumerate(live):
        assert sample.array.tobytes() == folder[number].array.tobytes()
        assert sample.teaches


def test_what_cannot_be_used_is_a_gap_and_not_an_end(run, tmp_path):
    for name in ("a.wav", "b.wav", "c.wav"):
        (tmp_path / name).symlink_to(SOUNDS / "take_0001.wav")
    (tmp_path / "b.wav").unlink()
    (tmp_path / "b.wav").write_bytes(b"RIFF of nothing")
    running = run(MODEL, "--source", tmp_path, "--pace", "fast")
    assert running.end() == 0
    assert [line["sequence"] for line in running.results] == [0, 2]


def test_limits(run):
    running = run(MODEL, "--source", SOUNDS, "--pace", "fast", "--max-samples", "7", "-q")
    assert running.end() == 0
    assert len(running.results) == 7
    assert running.said == ""
    began = time.monotonic()
    running = run(MODEL, "--source", SOUNDS, "--seconds", "2.5")
    assert running.end() == 0
    assert time.monotonic() - began < 20.0
    assert len(running.results) == 2  # a second each, in real time


@pytest.mark.parametrize(
    ("number", "code", "text"),
    [
        (signal.SIGTERM, 0, "samples answered"),
        (signal.SIGHUP, 0, "samples answered"),
        (signal.SIGINT, 130, "interrupted; what was learnt is saved"),
    ],
)
def test_signals_end_it_after_the_sample_in_hand(run, number, code, text):
    running = run(MODEL, "--source", SOUNDS)
    running.wait_for_results(2)
    began = time.monotonic()
    assert running.stop(number) == code
    assert time.monotonic() - began < 5.0
    assert text in running.said
    # Where there was a socket and locks, nothing is left; the counts are.
    left = [path for path in running.home.rglob("*") if path.is_file() and path.name != ".lock"]
    assert [path.name for path in left] == ["live.json"]
    assert json.loads(left[0].read_text())["counts"]["samples"] == len(running.results)


def test_a_reader_that_goes_away_ends_it(run):
    words = [sys.executable, "-m", "edgeprune", "run", str(MODEL), "--source", str(SOUNDS)]
    running = run(MODEL, "--source", SOUNDS, "--pace", "fast", "--max-samples", "1")
    assert running.end() == 0
    assert "1 sample answered" in running.said
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=running.environment
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert b'"result"' in process.stdout.readline()
    process.stdout.close()
    assert process.wait(20) == 141
    assert process.stderr.read() == b""
    process.stderr.close()
    assert not list(running.home.rglob("*.sock"))


def test_a_reader_that_hangs_does_not_keep_it_from_ending(run):
    running = run(MODEL, "--source", SOUNDS, "--pace", "fast", "--max-samples", "1")
    assert running.end() == 0
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writing, True)
    words = [sys.executable, "-m", "edgeprune", "run", str(MODEL), "--source", str(SOUNDS)]
    process = subprocess.Popen(words, stdout=writing, stderr=subprocess.PIPE,
                               env=running.environment)  # fmt: skip
    os.close(writing)
    assert process.stderr is not None
    time.sleep(4.0)
    assert process.poll() is None  # it waits for its reader
    began = time.monotonic()
    process.terminate()
    assert process.wait(20) == 0
    assert time.monotonic() - began < 5.0
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    os.close(reading)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--source", "camera"], 1, "this model wants sound, and camera delivers pictures"),
        (["--source", "nowhere.wav"], 1, "names no source"),
        (["--source", ""], 1, "names no source"),  # an unset variable, not the folder at hand
        (["--source", "mic", "--profile", "../x"], 1, "cannot name a profile"),
        (["--source", SOUNDS, "--name", "a/b"], 1, "cannot name a service"),
        (["--source", SOUNDS, "--socket", "x" * 200], 1, "too long for the name of a socket"),
        (["--source", SOUNDS, "--learn-after", "1"], 2, "it must be at least 10"),
        (["--source", SOUNDS, "--seconds", "nan"], 2, "is not a number"),
        ([], 2, "--source"),
    ],
)
def test_mistakes_are_told_in_words(run, words, code, text):
    running = run(MODEL, *words)
    assert running.end() == code
    assert text in running.said
    assert not running.lines


def test_a_second_one_on_the_same_profile_is_refused(run, home):
    first = run(MODEL, "--source", SOUNDS, "--profile", "anna")
    first.wait_for_results(1)
    second = run(MODEL, "--source", SOUNDS, "--profile", "anna", "--name", "second")
    assert second.end() == 1
    assert "another service is running for the profile 'anna'" in second.said
    third = run(MODEL, "--source", SOUNDS, "--profile", "ben")
    assert third.end() == 1
    assert "give this one another name with --name" in third.said
    fourth = run(MODEL, "--source", SOUNDS, "--profile", "ben", "--name", "ben")
    fourth.wait_for_results(1)
    assert "Say --name" in first.ctl("status", code=1)
    assert first.ctl("--name", "ben", "status", "--json")["service"]["profile"] == "ben"
    # Nor may one move to another's.
    error = first.ctl("--name", "ben", "use", "anna", code=1)
    assert "another service is running for the profile 'anna'" in error
    assert fourth.stop() == 0
    first.process.kill()  # what a killed one leaves is in nobody's way
    first.end()
    assert list((home / "runtime" / "edgeprune").glob("*.sock"))
    fifth = run(MODEL, "--source", SOUNDS, "--profile", "anna")
    fifth.wait_for_results(1)
    assert fifth.ctl("status", "--json")["pid"] == fifth.process.pid
    assert fifth.stop() == 0


def test_restarts_go_on_counting(run):
    total = 0
    for _ in range(3):
        running = run(MODEL, "--source", SOUNDS, "--pace", "fast", "--max-samples", "5")
        assert running.end() == 0
        total += 5
    running = run(MODEL, "--source", SOUNDS)
    running.wait_for_results(1)
    counts = running.ctl("status", "--json")["service"]["counts"]
    assert counts["samples"] >= total + 1
    assert counts["starts"] == 4
    assert running.stop() == 0


def test_nothing_that_was_heard_is_written(run, home):
    running = run(MODEL, "--source", SOUNDS, "--pace", "fast")
    assert running.end() == 0
    files = [path for path in home.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10_000
    assert {path.suffix for path in files} <= {".json", ".lock", ""}
