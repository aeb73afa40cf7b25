"""``edgeprune devices``: what a person or a script sees."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from edgeprune import _cli_devices as cli_devices
from edgeprune._cli import cli
from edgeprune.devices import CameraInfo, MicrophoneInfo, MissingExtra
from edgeprune.devices import _find as find

from .mjpeg import MjpegServer, numbered_frames

MICROPHONES = (
    MicrophoneInfo("Built-in", "ALSA", 2, 48_000, True),
    MicrophoneInfo("USB Mic", "ALSA", 1, 44_100, False),
)
CAMERAS = (CameraInfo("Web Cam", "v4l2", "/dev/video0"),)


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (cli_devices, find):
        monkeypatch.setattr(module, "list_microphones", lambda: MICROPHONES)
    monkeypatch.setattr(cli_devices, "list_cameras", lambda: CAMERAS)


@pytest.fixture
def server(data) -> Iterator[MjpegServer]:
    server = MjpegServer(numbered_frames(data / "tiny-imagenet" / "test", 50), rate_hz=25.0)
    server.start()
    yield server
    server.kill()


def test_the_list(known):
    page = run("devices", "list")
    assert page.exit_code == 0
    assert "* Built-in" in page.stdout
    assert "  USB Mic     ALSA           1      44100" in page.stdout
    assert "* Web Cam" in page.stdout
    data = json.loads(run("devices", "list", "--json").stdout)
    assert data["microphones"][1]["sample_rate_hz"] == 44_100
    assert data["cameras"] == [{"name": "Web Cam", "kind": "v4l2", "address": "/dev/video0"}]


def test_what_cannot_be_looked_for_is_a_note(known, monkeypatch):
    def missing() -> tuple[MicrophoneInfo, ...]:
        raise MissingExtra("Using a microphone", "sounddevice")

    monkeypatch.setattr(cli_devices, "list_microphones", missing)
    page = run("devices", "list")
    assert page.exit_code == 0
    assert "no microphones" in page.stdout
    assert 'pip install "edgeprune[audio]"' in page.stderr
    assert "Web Cam" in page.stdout


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["lst"], 2, "Did you mean 'list'"),
        (["test"], 2, "NAME"),
        (["test", "USB Mik"], 4, "Did you mean 'USB Mic'"),
        (["test", "x", "--seconds", "0"], 2, "seconds"),
        (["test", "USB Mic", "--save", "a.png"], 2, "never saved"),
        (["test", "http://127.0.0.1:9/", "--save", "a.gif"], 2, "ends in .png or .jpg"),
        (["test", "http://127.0.0.1:9/", "--save", "gone/a.png"], 2, "there is no folder gone"),
        (["test", "http://127.0.0.1:9/"], 4, "refused"),
        (["test", "http://user:secret@127.0.0.1:9/"], 4, "camera http://127.0.0.1:9/"),
    ],
)
def test_mistakes_and_absent_devices(known, words, code, text):
    page = run("devices", *words)
    assert page.exit_code == code
    assert text in page.stderr
    assert "secret" not in page.stderr
    assert not page.stdout


def test_a_camera(server, tmp_path):
    page = run("devices", "test", server.url, "--seconds", "1")
    assert page.exit_code == 0, page.stderr
    assert "128 x 128" in page.stdout
    assert "pictures a second" in page.stdout
    assert "saved          nothing" in page.stdout
    assert "128 x 128" in page.stderr  # what happens while it happens
    saved = tmp_path / "frame.png"
    words = ("devices", "test", server.url, "--seconds", "1", "--save", saved, "--json", "-q")
    data = json.loads(run(*words).stdout)
    assert data["rate_hz"] == pytest.approx(25.0, rel=0.3)
    assert data["latency_s"] < 0.5
    with Image.open(saved) as picture:
        assert picture.size == (128, 128)
    assert data["saved"] == str(saved)


def test_nothing_is_saved_without_being_asked(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("devices", "test", server.url, "--seconds", "0.5").exit_code == 0
    assert list(tmp_path.iterdir()) == []


def test_a_microphone(pulse):
    page = run("devices", "test", "pulse", "--seconds", "2")
    assert page.exit_code == 0, page.stderr
    assert "microphone  pulse" in page.stdout
    assert "44100 Hz, 2 channels" in page.stdout
    assert "muted" in page.stdout  # nothing plays
    lines = [line for line in page.stderr.splitlines() if "dBFS" in line]
    assert 1 <= len(lines) <= 3  # a line a second, off a terminal
    assert all(line.startswith("edgeprune: [---") for line in lines)
    data = json.loads(run("devices", "test", "pulse", "--seconds", "0.5", "--json").stdout)
    assert data["level_dbfs"] == -120.0
    assert data["dropped_samples"] == 0


def test_the_meter_moves_on_a_terminal(pulse):
    control, terminal = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edgeprune", "devices", "test", "pulse", "--seconds", "1"],
            stdout=subprocess.PIPE,
            stderr=terminal,
            timeout=60,
            check=True,
        )
        os.close(terminal)
        shown = os.read(control, 65_536).decode()
    finally:
        os.close(control)
    assert b"microphone  pulse" in done.stdout
    assert shown.count("\r[") > 3
    assert "\x1b" not in shown  # no colours, so NO_COLOR has nothing to switch off
