"""A running `edgeprune run`, as a user, a script or systemd sees it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

MODEL = Path(__file__).parents[2] / "edgeprune" / "assets" / "digits.onnx"
DEMO = MODEL.parent / "demo"


class Patience:
    """Counts seconds down in small steps: a computer that was held up meanwhile is forgiven."""

    def __init__(self, seconds: float) -> None:
        self._left_s = seconds
        self._last_s = time.monotonic()

    def lasts(self) -> bool:
        now = time.monotonic()
        self._left_s -= min(0.25, now - self._last_s)
        self._last_s = now
        return self._left_s > 0.0


@dataclass(frozen=True)
class Usage:
    """What a process holds, resident memory in MB, and the processor seconds that it took."""

    memory_mb: float
    files: int
    threads: int
    cpu_s: float

    @classmethod
    def of(cls, pid: int) -> Usage:
        folder = Path("/proc") / str(pid)
        pages = int((folder / "statm").read_text().split()[1])
        files, tasks = (len(list((folder / name).iterdir())) for name in ("fd", "task"))
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])  # utime and stime
        memory_mb = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        return cls(memory_mb, files, tasks, ticks / os.sysconf("SC_CLK_TCK"))


@contextlib.contextmanager
def _signals_as_usual() -> Iterator[None]:
    """A child does not inherit what `nohup` or a shell's background job have ignored here."""
    asking = (signal.SIGHUP, signal.SIGINT)
    before = {one: signal.getsignal(one) for one in asking}
    for one, handler in before.items():
        if handler is signal.SIG_IGN:
            signal.signal(one, signal.SIG_DFL)
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


class Running:
    """The process; its lines are read as they come, each with the moment of its arrival."""

    def __init__(self, *words: object, home: Path, environment: dict[str, str] | None = None):
        self.home = home
        self.environment = {
            **os.environ,
            "EDGEPRUNE_HOME": str(home),
            "PYTHONWARNINGS": "error::ResourceWarning",
            **(environment or {}),
            "XDG_RUNTIME_DIR": str(home / "runtime"),
        }
        (home / "runtime").mkdir(parents=True, exist_ok=True)
        self.lines: list[dict[str, Any]] = []
        self.arrived_s: list[float] = []
        self.said = ""
        with _signals_as_usual():
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edgeprune", "run", *map(str, words)],
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=one, daemon=True) for one in (self._read, self._listen)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def results(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["type"] == "result"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """However the test went, nothing of it is left running."""
        if self.process.poll() is None:
            self.process.kill()
            self.end()

    def wait_for(self, condition: Callable[[], object], timeout_s: float = 60.0) -> None:
        """Wait until something of what was printed holds; fail when it never does."""
        patience = Patience(timeout_s)
        with self._changed:
            while not condition():
                assert patience.lasts(), (self.said[-1000:], self.lines[-3:])
                self._changed.wait(0.1)

    def wait_for_results(self, many: int, timeout_s: float = 60.0) -> None:
        self.wait_for(lambda: len(self.results) >= many, timeout_s)

    def ctl(self, *words: object, code: int = 0) -> Any:
        """Ask it by `edgeprune ctl`; return what was printed, as JSON if that was asked for."""
        done = subprocess.run(
            [sys.executable, "-m", "edgeprune", "ctl", *map(str, words)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stderr
        if code:
            return done.stderr
        return json.loads(done.stdout) if "--json" in words else done.stdout

    def poll(
        self, look: Callable[[dict[str, Any]], object], wanted: object, timeout_s: float = 30.0
    ) -> None:
        """Wait until what `edgeprune ctl status` says is as wanted."""
        patience = Patience(timeout_s)
        while not any(self.home.rglob("*.sock")):
            assert patience.lasts(), self.said
            time.sleep(0.05)
        while (found := look(self.ctl("status", "--json"))) != wanted:
            assert patience.lasts(), (found, self.said)
            time.sleep(0.1)

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 30.0) -> int:
        """End it by a signal; return its exit code."""
        self.process.send_signal(number)
        return self.end(timeout_s)

    def end(self, timeout_s: float = 60.0) -> int:
        """Wait for its end; return its exit code. It never shows a traceback."""
        patience = Patience(timeout_s)
        try:
            while self.process.poll() is None:
                assert patience.lasts(), "it does not end"
                time.sleep(0.02)
            code = self.process.returncode
        finally:
            self.process.kill()
            self.process.wait()
            for thread in self._threads:
                thread.join()
            for stream in (self.process.stdout, self.process.stderr):
                assert stream is not None
                stream.close()
        assert "Traceback" not in self.said, self.said
        assert "Warning" not in self.said, self.said
        return code

    def _read(self) -> None:
        assert self.process.stdout is not None
        for text in self.process.stdout:
            with self._changed:
                self.arrived_s.append(time.monotonic())
                self.lines.append(json.loads(text))
                self._changed.notify_all()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for text in self.process.stderr:
            with self._changed:
                self.said += text
                self._changed.notify_all()
