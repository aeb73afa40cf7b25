"""The unit of docs/service.md under a real systemd: started, watched, restarted, stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..devices.live.sound_server import Pulse
from .running import DEMO, MODEL, Patience
from .systemd_manager import SystemdManager, systemd_manager
from .test_run_files import stream_of_words
from .test_service_page import PAGE

# It makes control groups and namespaces: not for every machine that the other tests run on.
pytestmark = pytest.mark.slow

UNIT = "edgeprune.service"
WATCHDOG_S = 4
# What systemd says of each end: it forgets a unit that is stopped.
ENDED = """ExecStopPost=/bin/sh -c 'echo $$SERVICE_RESULT $$EXIT_CODE $$EXIT_STATUS >> %t/ended'
"""


@pytest.fixture
def manager() -> Iterator[SystemdManager]:
    hidden = [path for path in (Path(sys.prefix), MODEL) if path.is_relative_to("/tmp")]
    if hidden:
        pytest.skip(f"the unit has a /tmp of its own and would not see {hidden[0]}")
    try:
        opened = systemd_manager()
        manager = opened.__enter__()
    except RuntimeError as error:
        pytest.skip(str(error))
    yield manager
    opened.__exit__(None, None, None)


@pytest.fixture
def speaker(manager: SystemdManager, pulse_server: Pulse) -> Iterator[Pulse]:
    """A sound server in the manager's own home: the unit has its own /tmp."""
    server = Pulse(manager.home)
    server.start()
    server.plug_in()
    yield server
    server.stop()


@pytest.fixture
def unit(manager: SystemdManager, speaker: Pulse) -> SystemdManager:
    """The unit of the page as its reader installs it, with this test's microphone."""
    home = manager.home
    (home / "venv" / "bin").mkdir(parents=True)
    program = home / "venv" / "bin" / "edgeprune"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m edgeprune "$@"\n')
    program.chmod(0o755)
    (home / "models").mkdir()
    for suffix in (".onnx", ".weights", ".masks"):
        (home / "models" / f"digits{suffix}").symlink_to(MODEL.with_suffix(suffix))
    (home / ".local" / "share" / "edgeprune").mkdir(parents=True)
    (home / "kitchen.jsonl").touch()
    folder = home / ".config" / "systemd" / "user"
    (folder / f"{UNIT}.d").mkdir(parents=True)
    found = re.search(r"```ini\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None and "mic:USB" in found[1]
    (folder / UNIT).write_text(found[1].replace("mic:USB", "mic:pulse"))
    sound = "".join(f'Environment="{name}={value}"\n' for name, value in _of_sound(speaker))
    (folder / f"{UNIT}.d" / "test.conf").write_text(
        f"[Service]\nWatchdogSec={WATCHDOG_S}\nTimeoutStopSec=2\nRestartSec=1\n{sound}{ENDED}"
    )
    manager.ctl("daemon-reload")
    return manager


def _of_sound(speaker: Pulse) -> list[tuple[str, str]]:
    """What a program needs to find this sound server; the manager says where the rest is."""
    names = ("PULSE_SERVER", "PULSE_RUNTIME_PATH", "ALSA_CONFIG_PATH")
    return [(name, speaker.environment[name]) for name in names]


def wait(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    patience = Patience(timeout_s)
    while not condition():
        assert patience.lasts()
        time.sleep(0.1)


def status(manager: SystemdManager) -> dict[str, Any]:
    """What `edgeprune ctl` hears from another session of the same user."""
    done = subprocess.run(
        [sys.executable, "-m", "edgeprune", "ctl", "status", "--json"],
        env={**os.environ, **manager.environment},
        capture_output=True,
        check=True,
        timeout=60,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def lines(manager: SystemdManager) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (manager.home / "kitchen.jsonl").read_text().splitlines()]


def test_systemd_starts_watches_restarts_and_stops_it(unit, speaker, tmp_path):
    stream_of_words(tmp_path / "words.wav", sorted((DEMO / "adapt").glob("*.wav"))[:8])
    unit.ctl("start", UNIT)  # returns when READY=1 has come
    begun = unit.show(UNIT, "ActiveState", "SubState", "MainPID", "StatusText", "NRestarts")
    assert (begun["ActiveState"], begun["SubState"]) == ("active", "running")
    assert begun["StatusText"].startswith("pulse")
    assert status(unit)["pid"] == int(begun["MainPID"])

    speaker.play(tmp_path / "words.wav").wait(60)
    wait(lambda: len(lines(unit)) >= 6)
    assert {line["profile"] for line in lines(unit)} == {"kitchen"}
    counted = status(unit)["service"]["counts"]["samples"]
    assert unit.show(UNIT, "NRestarts")["NRestarts"] == "0"  # longer than WatchdogSec: it is fed

    # A service that hangs is killed by the watchdog and started anew; what was counted goes on.
    os.kill(int(begun["MainPID"]), signal.SIGSTOP)
    wait(lambda: unit.show(UNIT, "NRestarts")["NRestarts"] == "1")
    wait(lambda: unit.show(UNIT, "SubState")["SubState"] == "running")
    again = status(unit)
    assert again["pid"] != int(begun["MainPID"])
    assert again["service"]["counts"]["starts"] == 2
    assert 0 <= again["service"]["counts"]["samples"] <= counted

    unit.ctl("stop", UNIT)
    assert unit.show(UNIT, "ActiveState")["ActiveState"] == "inactive"
    hung, stopped = (unit.runtime / "ended").read_text().splitlines()
    assert hung.startswith("watchdog ")
    assert stopped == "success exited 0"
    assert not Path(unit.runtime / "edgeprune" / "digits.sock").exists()
