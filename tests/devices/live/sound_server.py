"""A real sound server of the tests' own: its null sink's monitor is the microphone."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

APT_LINE = "apt install pulseaudio pulseaudio-utils libasound2-plugins libportaudio2"
ALSA_CONFIG = """\
</usr/share/alsa/alsa.conf>
pcm.pulse { type pulse }
ctl.pulse { type pulse }
"""


class Pulse:
    """A PulseAudio server of its own, with a null sink whose monitor is the microphone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            "PULSE_SERVER": f"unix:{folder}/native",
            "PULSE_RUNTIME_PATH": str(folder),
            "XDG_RUNTIME_DIR": str(folder),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "ALSA_CONFIG_PATH": str(folder / "asound.conf"),
        }
        (folder / "asound.conf").write_text(ALSA_CONFIG)
        self._server: subprocess.Popen[bytes] | None = None
        self._players: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        words = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--disable-shm=true"]
        words += ["--use-pid-file=false", "--realtime=no", "--high-priority=no"]
        words += ["--log-level=error"]
        words += [f"-Lmodule-native-protocol-unix auth-anonymous=1 socket={self.folder}/native"]
        self._server = subprocess.Popen(
            words,
            env={**os.environ, **self.environment, "HOME": str(self.folder)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + 10.0
        while self._ask("info", check=False).returncode:
            assert time.monotonic() < until, "the sound server does not start"
            time.sleep(0.05)

    def stop(self) -> None:
        self.quiet()
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None
            (self.folder / "native").unlink(missing_ok=True)

    def plug_in(self, rate_hz: int = 48_000) -> None:
        # norewinds: the sink renders 50 ms ahead and not two seconds, like a real sound card.
        arguments = ["sink_name=speaker", "norewinds=1", f"rate={rate_hz}", "channels=2"]
        self._ask("load-module", "module-null-sink", *arguments)

    def unplug(self) -> None:
        self._ask("unload-module", "module-null-sink", check=False)

    def freeze(self, frozen: bool) -> None:
        self._ask("suspend-sink", "speaker", "1" if frozen else "0")

    def play(self, path: Path) -> subprocess.Popen[bytes]:
        """Play a file; does not wait for its end."""
        environment = {**os.environ, **self.environment}
        player = subprocess.Popen(["paplay", "--device=speaker", str(path)], env=environment)
        self._players.append(player)
        return player

    def quiet(self) -> None:
        for player in self._players:
            player.kill()
            player.wait()
        self._players.clear()

    def _ask(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        environment = {**os.environ, **self.environment}
        return subprocess.run(
            ["pactl", *words], env=environment, check=check, capture_output=True, timeout=20
        )


@pytest.fixture(scope="session")
def pulse_server() -> Iterator[Pulse]:
    plugins = list(Path("/usr/lib").glob("*/alsa-lib/libasound_module_pcm_pulse.so"))
    programs = all(shutil.which(name) for name in ("pulseaudio", "pactl", "paplay"))
    if not (programs and plugins and ctypes.util.find_library("portaudio")):
        pytest.skip(f"no sound server to test with: {APT_LINE}")
    pytest.importorskip("sounddevice", reason='pip install "edgeprune[audio]"')
    # Not tmp_path: the name of a Unix socket has room for 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="edgeprune-"))
    server = Pulse(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def pulse(pulse_server: Pulse, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pulse]:
    """The sound server, its microphone plugged in, and this process as one of its users."""
    for name, value in pulse_server.environment.items():
        monkeypatch.setenv(name, value)
    pulse_server.plug_in()
    yield pulse_server
    pulse_server.quiet()
    pulse_server.unplug()
