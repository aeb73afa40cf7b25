"""One personalisation in a process of its own: started, fed, listened to, ended.

Why a process: its memory goes back to the system when it ends, a crash of it is no crash of the
service, and the scheduler can hold it behind inference. Samples go through its standard input, so
they are never on a disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.settings import Settings
from ._drift import DriftReference
from ._reservoir import Kept

__all__ = ["Job", "JobRequest", "JobResult"]

_WORKER = "edgeprune.service._worker"
# One thread of linear algebra each: their libraries count all processors and start as many.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_STOP_S = 5.0


@dataclass(frozen=True)
class JobRequest:
    """What a worker is to do.

    Attributes:
        model: the ``.onnx`` file.
        store: the root of the profile store.
        profile: the name to save under.
        settings: how to personalise.
        fade: what the classes learnt before are worth, as a share of the samples.
        nice: how far the worker stands behind other programs, 0 to 19.
    """

    model: Path
    store: Path
    profile: str
    settings: Settings
    fade: float
    nice: int

    def header(self, shape: Sequence[int], dtype: str, samples: int) -> bytes:
        """The line that goes before the samples."""
        fields = {
            "model": str(self.model.resolve()),
            "store": str(self.store.resolve()),
            "profile": self.profile,
            "settings": asdict(self.settings) | {"threads": self.settings.threads or 1},
            "fade": self.fade,
            "nice": self.nice,
            "shape": list(shape),
            "dtype": dtype,
            "samples": samples,
        }
        return json.dumps(fields).encode() + b"\n"


@dataclass(frozen=True)
class JobResult:
    """How a personalisation ended.

    Attributes:
        outcome: ``saved``, ``refused`` (by the guard), ``too-few`` (usable samples), ``failed``.
        message: why, or what it did.
        generation: the new one, if it was saved.
        report: its figures.
        reference: what drift is measured against, as `DriftReference.to_dict` gives it.
    """

    outcome: str
    message: str
    generation: int | None = None
    report: dict[str, Any] | None = None
    reference: dict[str, Any] | None = None

    def drift_reference(self) -> DriftReference | None:
        """The reference in its own form; None if there is none."""
        return None if self.reference is None else DriftReference.from_dict(self.reference)


class Job:
    """A personalisation under way. Make it, then call `run` on a thread of its own."""

    def __init__(self, request: JobRequest, kept: Sequence[Kept]) -> None:
        self.request = request
        self.samples = len(kept)
        self.cancelled = False
        self.step, self.share = "starting", 0.0
        self._kept: Sequence[Kept] = kept
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def run(self, timeout_s: float) -> JobResult:
        """Start the worker, feed it, and wait for its outcome; it is gone when this returns."""
        try:
            with self._lock:
                if self.cancelled:
                    return JobResult("failed", "it was cancelled.")
                process = self._process = _start()
        except OSError as error:
            return JobResult("failed", f"the worker cannot be started: {error}.")
        timer = threading.Timer(timeout_s, process.kill)
        timer.daemon = True
        timer.start()
        try:
            return self._converse(process)
        finally:
            timer.cancel()
            timer.join()
            _end(process)

    def cancel(self) -> None:
        """End the worker; it is dead when this returns, and `run` returns soon."""
        with self._lock:
            self.cancelled = True
            if self._process is not None:
                self._process.kill()
                self._process.wait()

    @property
    def pid(self) -> int | None:
        """Of the worker, None before it was started."""
        return None if self._process is None else self._process.pid

    def _converse(self, process: subprocess.Popen[bytes]) -> JobResult:
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # its death is told by the missing outcome
            self._feed(process.stdin.write)
            process.stdin.flush()
        self._kept = ()
        for line in process.stdout:
            message = json.loads(line)
            if "outcome" in message:
                return JobResult(**message)
            self.step, self.share = message["step"], message["share"]
        code = process.wait()
        return JobResult("failed", f"the worker ended without an outcome (status {code}).")

    def _feed(self, write: Callable[[bytes], Any]) -> None:
        dtype = np.result_type(*{kept.array.dtype for kept in self._kept})
        write(self.request.header(self._kept[0].array.shape, dtype.name, len(self._kept)))
        for kept in self._kept:
            write(np.ascontiguousarray(kept.array, dtype).tobytes())


def _start() -> subprocess.Popen[bytes]:
    debug = os.environ.get("EDGEPRUNE_DEBUG") == "1"
    return subprocess.Popen(
        # -P: the folder that the service runs in must not shadow modules.
        [sys.executable, "-P", "-m", _WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if debug else subprocess.DEVNULL,
        env={**os.environ, **_ONE_THREAD},
        # Ctrl-C is the service's to handle. No session of its own: Linux weighs sessions equally
        # (sched_autogroup), and priorities count within one only.
        process_group=0,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    try:
        process.wait(_STOP_S)  # the end of its input tells it to go
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
