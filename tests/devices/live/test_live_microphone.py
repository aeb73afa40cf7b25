"""Microphones through PortAudio against a real sound server, fed with real recordings."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import wave
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune.devices import (
    AudioChunk,
    DeviceNotFound,
    DeviceUnavailable,
    LiveTiming,
    Microphone,
    MissingExtra,
    MissingLibrary,
    list_microphones,
    open_microphone,
    read_audio,
)
from edgeprune.devices import _portaudio as portaudio

from .conftest import Heard, Stopwatch, eventually
from .sound_server import Pulse

RATE = 16_000
FAST = LiveTiming(retry_first_s=0.1, retry_most_s=0.5)


def write_wav(path: Path, samples: NDArray[np.floating], rate_hz: int) -> Path:
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(rate_hz)
        stream.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def record(source: Microphone, seconds: float) -> tuple[NDArray[np.float32], list[AudioChunk]]:
    chunks: list[AudioChunk] = []
    while sum(chunk.duration_s for chunk in chunks) < seconds:
        chunk = source.read(5.0)
        assert chunk is not None
        chunks.append(chunk)
    return np.concatenate([chunk.samples for chunk in chunks]), chunks


def best_match(played: NDArray[np.float32], heard: NDArray[np.float32]) -> tuple[float, int]:
    """The correlation coefficient where the two agree best, and the shift there."""
    size = 1 << (len(played) + len(heard)).bit_length()
    product = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(played, size)), size)
    shift = int(np.argmax(product[: len(heard) - len(played)]))
    part = heard[shift : shift + len(played)]
    return float(np.corrcoef(played, part)[0, 1]), shift


def test_what_is_played_is_heard_at_the_rate_that_was_asked_for(pulse, data, tmp_path):
    files = sorted((data / "arabic-speech-commands").glob("*/*_01.flac"))[::97][:2]
    spoken = np.concatenate([read_audio(file).samples for file in files])
    path = write_wav(tmp_path / "words.wav", spoken, RATE)
    with open_microphone("pulse", sample_rate_hz=RATE) as source:
        record(source, 0.3)
        pulse.play(path)
        heard, chunks = record(source, len(spoken) / RATE + 1.0)
    likeness, _ = best_match(spoken, heard)
    assert likeness > 0.98
    assert {(c.sample_rate_hz, c.channels, len(c.samples)) for c in chunks} == {(RATE, 1, 512)}
    assert source.native_rate_hz == 44_100  # what PortAudio says of `pulse`: it was resampled
    assert [c.sequence for c in chunks] == list(range(chunks[0].sequence, chunks[-1].sequence + 1))
    assert chunks[-1].dropped_samples == 0
    times = np.diff([c.timestamp_s for c in chunks])
    assert (times >= 0).all()
    assert times.mean() == pytest.approx(512 / RATE, rel=0.05)


def test_a_tone_keeps_its_pitch_through_the_streaming_resampler(pulse, tmp_path):
    seconds = np.arange(3 * 8000) / 8000
    pulse.play(write_wav(tmp_path / "tone.wav", 0.5 * np.sin(2 * np.pi * 1000 * seconds), 8000))
    with open_microphone("pulse", sample_rate_hz=8000) as source:
        record(source, 1.0)
        heard, _ = record(source, 1.024)
    spectrum = np.abs(np.fft.rfft(heard[:8192] * np.hanning(8192)))
    peak_hz = np.argmax(spectrum) * 8000 / 8192
    assert peak_hz == pytest.approx(1000, abs=1.0)
    # Without seams: all that is not the tone is far below it.
    around = np.abs(np.arange(len(spectrum)) - np.argmax(spectrum)) <= 4
    assert spectrum[~around].max() < 1e-3 * spectrum.max()


def test_latency_from_loudspeaker_to_program(pulse, tmp_path, record_property):
    """Stated, not limited: what a null sink's 50 ms and PortAudio's blocks come to."""
    click = np.zeros(RATE // 2)
    click[:64] = 0.9
    with open_microphone("pulse", sample_rate_hz=RATE) as source:
        record(source, 0.5)
        pulse.play(write_wav(tmp_path / "click.wav", click, RATE))
        begun = time.monotonic()
        while True:
            chunk = source.read(5.0)
            assert chunk is not None
            if np.abs(chunk.samples).max() > 0.2:
                break
        arrived = time.monotonic()
        assert source.latency_s is not None
    record_property("click to chunk, player's start included (ms)", 1000 * (arrived - begun))
    print(
        f"\nclick to chunk {1000 * (arrived - begun):.0f} ms with paplay's start, driver states "
        f"{1000 * source.latency_s:.0f} ms, chunk to reader "
        f"{1000 * (arrived - chunk.timestamp_s - chunk.duration_s):.0f} ms"
    )


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_any_number_of_channels_is_mixed_down(pulse, channels):
    with open_microphone("pulse", channels=channels) as source:
        _, chunks = record(source, 0.2)
        assert source.channels == channels
        assert chunks[0].channels == 1
        assert chunks[0].sample_rate_hz == source.sample_rate_hz == source.native_rate_hz


def test_names_are_listed_and_misspelt_ones_are_corrected(pulse):
    names = [info.name for info in list_microphones()]
    assert "pulse" in names
    assert any(info.is_default for info in list_microphones())
    with pytest.raises(DeviceNotFound, match="Did you mean 'pulse'") as caught:
        open_microphone("pulsse")
    assert caught.value.exit_code == 4
    with open_microphone("PULS") as source:
        assert source.device_name == "pulse"


@pytest.mark.usefixtures("nothing_left")
def test_a_reader_that_sleeps_loses_the_oldest_and_is_told(pulse, heard: Heard):
    with open_microphone("pulse", sample_rate_hz=RATE, queue_s=0.5, on_event=heard) as source:
        first = source.read(5.0)
        heard.wait_for("overflow", True)
        time.sleep(1.0)
        after = source.read(5.0)
        assert first is not None
        assert after is not None
        gap = after.sequence - first.sequence - 1
        assert after.dropped_samples == gap * 512 > RATE // 2
        while heard.said.count(("overflow", False)) == 0:
            source.read(1.0)
    assert heard.said.count(("overflow", True)) == 1


@pytest.mark.usefixtures("nothing_left")
def test_closing_from_another_thread_ends_the_iteration(pulse):
    source = open_microphone("pulse", sample_rate_hz=RATE)
    threading.Timer(0.5, source.close).start()
    chunks = list(source)
    assert len(chunks) > 3
    assert source.ended
    assert source.read() is None
    source.close()


@pytest.mark.usefixtures("nothing_left")
def test_silence_and_clipping_are_noticed_and_get_better(pulse, tmp_path, heard, stopwatch):
    seconds = np.arange(5 * RATE) / RATE
    loud = np.clip(3.0 * np.sin(2 * np.pi * 300 * seconds), -1, 1)
    path = write_wav(tmp_path / "loud.wav", loud, RATE)
    begun = time.monotonic()
    with open_microphone("pulse", sample_rate_hz=RATE, on_event=heard) as source:
        muted = heard.wait_for("muted", True)
        assert stopwatch.within(muted - begun, 4.0)  # 2 s from the first sample, and the opening
        pulse.play(path)
        better = heard.wait_for("muted", False)
        overdriven = heard.wait_for("overdriven", True)
        assert stopwatch.within(overdriven - better, 2.0)
        pulse.quiet()
        heard.wait_for("overdriven", False)
        heard.wait_for("muted", True, nth=2)
        # Nobody reads here, so the queue overflows as well; that is another test's matter.
        assert source.troubles - {"overflow"} == {"muted"}
    assert [said for said in heard.said if said[0] != "overflow"] == [
        ("muted", True),
        ("muted", False),
        ("overdriven", True),
        ("overdriven", False),
        ("muted", True),
    ]


def unplug_and_replug(pulse: Pulse, times: int, heard: Heard) -> list[tuple[float, float]]:
    """Do it; return how long it took to notice each and to have sound again."""
    took = []
    with open_microphone("pulse", sample_rate_hz=RATE, timing=FAST, on_event=heard) as source:
        last = source.read(5.0)
        for nth in range(1, times + 1):
            before = time.monotonic()
            pulse.unplug()
            noticed = heard.wait_for("unplugged", True, nth=nth) - before
            time.sleep(0.3)
            returned = time.monotonic()
            pulse.plug_in()
            back = heard.wait_for("unplugged", False, nth=nth) - returned
            took.append((noticed, back))
            while (chunk := source.read(5.0)) is not None and chunk.connection == nth:
                last = chunk
            assert chunk is not None
            assert last is not None
            assert (chunk.connection, chunk.sequence) == (nth + 1, last.sequence + 1)
            last = chunk
        assert source.connections == times + 1
    return took


def assert_replugging(pulse: Pulse, times: int, heard: Heard, stopwatch: Stopwatch) -> None:
    took = np.array(unplug_and_replug(pulse, times, heard))
    print(
        f"\nunplugged {times} times: noticed after {1000 * took[:, 0].mean():.0f} ms (worst "
        f"{1000 * took[:, 0].max():.0f}), sound again {1000 * took[:, 1].mean():.0f} ms after "
        f"the return (worst {1000 * took[:, 1].max():.0f})"
    )
    assert stopwatch.within(took[:, 0].max(), 2.0)
    assert heard.said.count(("unplugged", True)) == heard.said.count(("unplugged", False)) == times


@pytest.mark.usefixtures("nothing_left")
def test_unplugged_and_replugged_three_times(pulse, heard, stopwatch):
    assert_replugging(pulse, 3, heard, stopwatch)


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_left")
def test_unplugged_and_replugged_twenty_times(pulse, heard, stopwatch):
    assert_replugging(pulse, 20, heard, stopwatch)


@pytest.mark.usefixtures("nothing_left")
def test_a_stalled_device_is_noticed_within_two_seconds(pulse, heard, stopwatch):
    with open_microphone("pulse", sample_rate_hz=RATE, timing=FAST, on_event=heard) as source:
        record(source, 0.3)
        frozen = time.monotonic()
        pulse.freeze(True)
        took = heard.wait_for("stalled", True) - frozen
        print(f"\nstalled microphone noticed after {took:.2f} s")
        assert stopwatch.within(took, 2.0)
        pulse.freeze(False)
        heard.wait_for("stalled", False)
        assert source.read(5.0) is not None


@pytest.mark.usefixtures("nothing_left")
def test_a_server_that_is_killed_and_comes_back(pulse, heard):
    with open_microphone("pulse", sample_rate_hz=RATE, timing=FAST, on_event=heard) as source:
        record(source, 0.2)
        pulse.stop()
        heard.wait_for("unplugged", True)
        pulse.start()
        pulse.plug_in()
        heard.wait_for("unplugged", False)
        while (chunk := source.read(5.0)) is not None and chunk.connection == 1:
            pass
        assert chunk is not None


@pytest.mark.usefixtures("nothing_left")
def test_a_microphone_that_comes_later_is_waited_for(pulse, heard):
    pulse.unplug()
    with pytest.raises(DeviceUnavailable, match="edgeprune devices list"):
        open_microphone("pulse", timing=FAST)
    with open_microphone("pulse", timing=FAST, on_event=heard, wait=True) as source:
        heard.wait_for("unplugged", True)
        assert source.read(0.2) is None
        assert not source.ended
        pulse.plug_in()
        assert source.read(10.0) is not None


@pytest.mark.usefixtures("nothing_left")
def test_closing_does_not_wait_for_the_next_attempt(pulse, stopwatch):
    slow = LiveTiming(retry_first_s=60.0, retry_most_s=60.0)
    pulse.unplug()
    source = open_microphone("pulse", timing=slow, on_event=Heard(), wait=True)
    eventually(lambda: bool(source.troubles))
    begun = time.monotonic()
    source.close()
    assert stopwatch.within(time.monotonic() - begun, 2.0)


@pytest.mark.usefixtures("nothing_left")
def test_a_process_that_portaudio_aborts_is_not_ours(pulse, tmp_path, monkeypatch):
    broken = tmp_path / "asound.conf"
    broken.write_text("pcm.pulse { type pulse }\n")  # without ALSA's own settings PortAudio aborts
    monkeypatch.setenv("ALSA_CONFIG_PATH", str(broken))
    with pytest.raises(DeviceUnavailable, match=r"signal 6|SIGABRT"):
        list_microphones()


def worker_that(tmp_path: Path, code: str) -> Path:
    path = tmp_path / "worker.py"
    path.write_text(code)
    return path


@pytest.mark.parametrize(
    ("hidden", "error", "line"),
    [
        ("ImportError('no')", MissingExtra, 'pip install "edgeprune\\[audio\\]"'),
        ("OSError('no')", MissingLibrary, "apt install libportaudio2"),
    ],
)
@pytest.mark.usefixtures("nothing_left")
def test_what_is_missing_is_named_with_the_line_that_installs_it(
    tmp_path, monkeypatch, hidden, error, line
):
    real = Path(portaudio._WORKER)
    code = f"""
import sys, runpy
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name == "sounddevice":
            raise {hidden}
sys.meta_path.insert(0, Hide())
runpy.run_path({str(real)!r}, run_name="__main__")
"""
    monkeypatch.setattr(portaudio, "_WORKER", worker_that(tmp_path, code))
    with pytest.raises(error, match=line):
        open_microphone()


@pytest.mark.usefixtures("nothing_left")
def test_a_worker_that_says_nothing_is_killed(tmp_path, monkeypatch):
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    monkeypatch.setattr(portaudio, "_WORKER", worker_that(tmp_path, code))
    with pytest.raises(DeviceUnavailable, match="did not answer"):
        open_microphone(timing=LiveTiming(open_timeout_s=0.5))


@pytest.mark.parametrize("silent", [False, True])
def test_the_worker_ends_with_its_parent(pulse, silent):
    """Also where no sound comes that it could fail to hand over."""
    code = (
        "import os; from edgeprune.devices import open_microphone\n"
        "source = open_microphone('pulse'); source.read(5.0)\n"
        "print(source._link._worker._process.pid, flush=True); input(); os._exit(0)"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as parent:
        worker = Path(f"/proc/{int(parent.stdout.readline())}")
        assert worker.exists()
        if silent:
            pulse.freeze(True)
            time.sleep(0.2)
        parent.communicate("\n", timeout=60)
    eventually(lambda: not worker.exists())
