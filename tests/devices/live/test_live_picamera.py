"""Ribbon cameras, with a stand-in for picamera2: its real one needs a Raspberry Pi."""

from __future__ import annotations

import sys
import threading
import time
import types

import numpy as np
import pytest

from edgeprune.devices import (
    DeviceUnavailable,
    LiveTiming,
    MissingLibrary,
    list_cameras,
    open_camera,
)
from edgeprune.devices import _picamera as picamera

from .conftest import Heard

RED = (200, 30, 20)


class Job:
    def __init__(self, result):
        self._result = result

    def get_result(self):
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


class StandIn:
    """What of picamera2.Picamera2 is used, with its ways: jobs that call back when done."""

    state = "good"
    opened: list[StandIn] = []  # noqa: RUF012

    @staticmethod
    def global_camera_info():
        return [{"Model": "imx708", "Num": 0, "Location": 2, "Rotation": 180, "Id": "/base/i2c"}]

    def __init__(self, number=0):
        if self.state == "absent":
            raise IndexError("list index out of range")
        StandIn.opened.append(self)
        self.number = number
        self.running = self.is_open = True
        self.wanted = None

    def create_video_configuration(self, main, controls):
        return {"main": main, "controls": controls}

    def configure(self, configuration):
        assert configuration["main"]["format"] == "BGR888"  # that is R, G, B in memory
        self.wanted = configuration

    def start(self):
        if self.state == "busy":
            raise RuntimeError("Camera __init__ sequence did not complete.")

    def capture_array(self, name, signal_function):
        assert name == "main"
        width, height = self.wanted["main"]["size"]
        picture = np.full((height, width, 3), RED, np.uint8)
        result = RuntimeError("frontend timed out") if self.state == "broken" else picture
        job = Job(result)

        def deliver():
            time.sleep(0.01)
            while self.state == "hangs" and self.is_open:
                time.sleep(0.01)
            signal_function(job)

        threading.Thread(target=deliver, daemon=True).start()
        return job

    def stop(self):
        self.running = False

    def close(self):
        self.is_open = False


@pytest.fixture
def stand_in(monkeypatch):
    module = types.ModuleType("picamera2")
    module.Picamera2 = StandIn
    module.__spec__ = types.SimpleNamespace(name="picamera2")
    monkeypatch.setitem(sys.modules, "picamera2", module)
    monkeypatch.setattr(StandIn, "state", "good")
    monkeypatch.setattr(StandIn, "opened", [])
    return StandIn


@pytest.mark.usefixtures("nothing_left")
def test_it_is_listed_opened_and_let_go(stand_in):
    info = list_cameras()[0]
    assert (info.name, info.kind, info.address) == ("imx708", "picamera2", "picamera2:0")
    with open_camera("imx708", size=(320, 240), rate_hz=10.0) as source:
        frame = source.read(5.0)
        assert frame is not None
        assert frame.rgb.shape == (240, 320, 3)
        assert tuple(frame.rgb[0, 0]) == RED
        assert source.read(5.0) is not None
    camera = stand_in.opened[0]
    assert camera.wanted["controls"] == {"FrameRate": 10.0}
    assert not camera.running
    assert not camera.is_open


@pytest.mark.parametrize("state", ["absent", "busy"])
def test_one_that_cannot_be_opened(stand_in, monkeypatch, state):
    monkeypatch.setattr(StandIn, "state", state)
    with pytest.raises(DeviceUnavailable, match="camera picamera2: it cannot be"):
        open_camera("picamera2")
    assert all(not camera.is_open for camera in stand_in.opened)


@pytest.mark.parametrize(("state", "trouble"), [("hangs", "stalled"), ("broken", "unplugged")])
@pytest.mark.usefixtures("nothing_left")
def test_one_that_fails_while_it_runs_is_opened_again(stand_in, monkeypatch, state, trouble):
    heard = Heard()
    timing = LiveTiming(stall_after_s=0.3, retry_first_s=0.05)
    with open_camera("picamera2", timing=timing, on_event=heard) as source:
        assert source.read(5.0) is not None
        monkeypatch.setattr(StandIn, "state", state)
        heard.wait_for(trouble, True)
        monkeypatch.setattr(StandIn, "state", "good")
        heard.wait_for(trouble, False)
    assert len(stand_in.opened) >= 2


def test_without_it_the_apt_line_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "picamera2", None)
    assert not picamera.has_picamera()
    assert picamera.list_picameras() == []
    with pytest.raises(MissingLibrary, match="apt install python3-picamera2"):
        open_camera("picamera2")
