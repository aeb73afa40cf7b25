"""`edgeprune run` on PortAudio over PulseAudio and on MJPEG over HTTP; and `edgeprune ctl`."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeprune._cli_ctl import _rows

from ..devices.live.mjpeg import MjpegServer, numbered_frames
from .running import DEMO, MODEL, Running
from .test_run_files import stream_of_words

SOUNDS = DEMO / "adapt"


@pytest.fixture
def server(data) -> Iterator[MjpegServer]:
    pytest.importorskip("av", reason='pip install "edgeprune[camera]"')
    server = MjpegServer(numbered_frames(data / "tiny-imagenet" / "test", 50), rate_hz=25.0)
    server.start()
    yield server
    server.kill()


def test_a_camera_that_goes_away_and_comes_back(run, pictures, server):
    running = run(pictures.model, "--source", server.url, "--events")
    running.wait_for_results(20)
    server.kill()
    running.wait_for(lambda: any(line["type"] == "event" for line in running.lines))
    before = len(running.results)
    status = running.ctl("status", "--json")
    assert status["input"]["troubles"] == ["unplugged"]
    server.start()
    running.wait_for_results(before + 20)
    status = running.ctl("status", "--json")
    assert status["input"]["connections"] == 2
    assert status["input"]["kind"] == "camera"
    assert running.stop() == 0
    began, ended = [line for line in running.lines if line["type"] == "event"]
    assert (began["origin"], began["kind"], began["began"]) == ("device", "unplugged", True)
    assert (ended["kind"], ended["began"]) == ("unplugged", False)
    assert ended["lasted_s"] > 0.0
    notes = running.said.splitlines()
    assert notes[:2] == [f"edgeprune: {began['message']}", f"edgeprune: {ended['message']}"]
    assert len(notes) == 3
    numbers = [line["sequence"] for line in running.results]
    assert all(late > early for early, late in itertools.pairwise(numbers))
    assert {line["teaches"] for line in running.results} == {True}  # every picture is another


def test_a_film(run, pictures, tmp_path, data):
    pytest.importorskip("av", reason='pip install "edgeprune[camera]"')
    from ..devices.live.test_live_files import write_video

    files = sorted((data / "tiny-imagenet" / "test").glob("*/*.JPEG"))[::1000]
    shown = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    film = write_video(tmp_path / "film.mp4", [one for one in shown for _ in range(3)])
    running = run(pictures.model, "--source", film, "--pace", "fast")
    assert running.end() == 0
    assert [line["sequence"] for line in running.results] == list(range(3 * len(files)))
    assert sum(line["teaches"] for line in running.results) == len(files)


def test_an_absent_device_is_exit_4_or_waited_for(run, pictures, server):
    server.kill()
    running = run(pictures.model, "--source", server.url)
    assert running.end() == 4
    assert "refused" in running.said
    waiting = run(pictures.model, "--source", server.url, "--wait", "--events")
    waiting.wait_for(lambda: "opened again as soon as it returns" in waiting.said)
    assert waiting.ctl("status", "--json")["input"]["silent_s"] is None
    server.start()
    waiting.wait_for_results(3)
    assert waiting.lines[0]["kind"] == "unplugged"  # before there was anything to answer
    assert waiting.stop() == 0
    patient = run(pictures.model, "--source", "http://127.0.0.1:9/", "--wait")
    patient.wait_for(lambda: "opened again" in patient.said)
    assert patient.stop() == 0


def test_a_microphone_that_is_pulled_out(run, pulse, data, tmp_path):
    words = sorted((data / "fsdd").glob("*_theo_7.wav"))[:6]
    stream_of_words(tmp_path / "words.wav", words)
    running = run(MODEL, "--source", "mic:pulse", "--events", environment=pulse.environment)
    for times in (1, 2):
        running.poll(lambda status: status["input"]["connections"], times)
        pulse.play(tmp_path / "words.wav").wait(30)
        running.wait_for_results(5 * times)
        pulse.unplug()
        running.poll(lambda status: status["input"]["troubles"], ["unplugged"])
        pulse.plug_in()
    assert running.stop() == 0
    assert all(line["source"] == "pulse" for line in running.results)
    assert all(0.0 < line["age_ms"] < 3000.0 for line in running.results)


def test_a_terminal_that_closes_is_no_trouble_of_the_microphone(run, pulse):
    """It signals all of its programs at once."""
    running = run(MODEL, "--source", "mic:pulse", "--events", environment=pulse.environment)
    running.poll(lambda status: status["input"]["connections"], 1)
    service = running.process.pid
    tasks = (Path("/proc") / str(service) / "task").iterdir()
    children = [int(child) for one in tasks for child in (one / "children").read_text().split()]
    for child in children:
        if os.getpgid(child) == os.getpgid(service):
            os.kill(child, signal.SIGHUP)
    time.sleep(1.0)
    assert running.stop(signal.SIGHUP) == 0
    assert children
    assert running.lines == []
    assert "PortAudio" not in running.said


def test_every_command_of_ctl(run):
    running = run(MODEL, "--source", SOUNDS, "--profile", "anna", "--learn-after", "1000")
    running.wait_for_results(1)
    page = running.ctl("status")
    assert page.startswith(f"service    digits (process {running.process.pid}), running for 0:00:")
    for text in (
        "folder ",
        "ignored    nothing",
        "anna, generation 0",
        "dense",
        "gathered",
        "median",
    ):
        assert text in page
    assert "paused" in running.ctl("pause")
    status = running.ctl("status", "--json")
    assert status["service"]["learning"]["state"] == "paused"
    status["input"]["teaching"] = status["answered"] + 1  # one is in hand
    shown = f"{status['answered']}, {status['answered']} of which teach"
    assert ("answered", shown) in _rows(status)
    answered = len(running.results)
    running.wait_for_results(answered + 1)  # answers go on
    assert running.ctl("resume").startswith("learning")
    assert "samples wait to be learnt from" in running.ctl("personalize", code=1)
    assert "nothing to go back to" in running.ctl("rollback", code=1)
    assert "cannot name a profile" in running.ctl("use", "../x", code=1)
    assert running.ctl("use", "ben") == "profile ben, generation 0 is in force\n"
    running.wait_for(lambda: running.results[-1]["profile"] == "ben")
    assert "--json" not in running.ctl("--name", "digits", "status")
    assert "Did you mean 'status'?" in running.ctl("staus", code=2)
    assert "Missing argument 'NAME'" in running.ctl("use", code=2)
    assert "exclude each other" in running.ctl("--name", "a", "--socket", "b", "status", code=2)
    assert running.ctl("stop") == "stopping\n"
    assert running.end() == 0
    assert "no service is running" in running.ctl("status", code=1)


def test_it_learns_and_goes_back(run):
    words = ("--source", SOUNDS, "--pace", "fast", "--learn-after", "100", "--events")
    first = run(MODEL, *words)
    assert first.end() == 0
    kinds = [line["kind"] for line in first.lines if line["type"] == "event"]
    assert kinds == ["learning", "given-up"]
    assert "given up" in first.said
    # In real time, because learning takes longer than answering 120 files.
    running = run(MODEL, "--source", SOUNDS, "--learn-after", "10", "--events")
    running.wait_for(
        lambda: running.results and running.results[-1]["state"] == "personalized", 120.0
    )
    assert running.results[-1]["generation"] == 1
    assert "generation 0 is in force" in running.ctl("rollback")
    running.wait_for(lambda: running.results[-1]["generation"] == 0)
    _profiles(running, "rollback", MODEL, "default", "--to", "1")  # the service is not asked
    running.wait_for(lambda: running.results[-1]["generation"] == 1)
    assert running.stop() == 0
    kinds = [line["kind"] for line in running.lines if line["type"] == "event"]
    assert kinds[:2] == ["learning", "personalized"]
    assert "rolled-back" in kinds
    assert "replaced" in kinds


def _profiles(running: Running, *words: object) -> Any:
    """What another program says or does of the profiles: `edgeprune profiles`."""
    command = [sys.executable, "-m", "edgeprune", "profiles", *map(str, words), "--json"]
    done = subprocess.run(
        command, env=running.environment, check=True, timeout=60, capture_output=True, text=True
    )
    return json.loads(done.stdout)


def test_who_was_met_and_of_whom_nothing_was_learnt_is_listed_and_can_be_erased(run):
    met = run(MODEL, "--source", SOUNDS, "--pace", "fast", "--profile", "ben", "--no-learn")
    assert met.end() == 0
    (listed,) = _profiles(met, "list", MODEL)
    assert (listed["name"], listed["generations"]) == ("ben", [])
    with pytest.raises(subprocess.CalledProcessError) as refused:
        _profiles(met, "show", MODEL, "ben")
    assert "nothing was learnt for 'ben' yet" in refused.value.stderr
    _profiles(met, "forget", MODEL, "ben", "--yes")
    assert _profiles(met, "list", MODEL) == []
