"""From nothing to the first answer, process to process: here, and with bare ONNX Runtime."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial

from .._timing import Limits, Timing, measure
from ..runtime.artifact import Artifact
from ..runtime.errors import InputError

__all__ = ["BARE_START", "OUR_START", "time_to_first_answer"]

BARE_START, OUR_START = "first answer, bare ONNX Runtime", "first answer"
# What anybody writes: the network as exported, one thread count, one array of zeros.
_BARE = """
import sys
import numpy
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[2])
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
shape = [size if isinstance(size, int) else 1 for size in session.get_inputs()[0].shape]
session.run(None, {session.get_inputs()[0].name: numpy.zeros(shape, numpy.float32)})
"""
_OURS = """
import sys
import numpy
import edgeprune
model = edgeprune.load(sys.argv[1], threads=int(sys.argv[2]), store=sys.argv[3])
shape = [size or 1 for size in model.info.input_shape]
model.predict(numpy.zeros(shape, numpy.float32))
"""


def time_to_first_answer(
    artifact: Artifact, rounds: int, threads: int, on_round: Callable[[], None] = lambda: None
) -> Timing:
    """Start processes in turns that import what they need and ask the network once.

    Args:
        artifact: the exported model; both kinds of process open these very files.
        rounds: processes of each kind.
        threads: threads of one operator.
        on_round: called before each process.

    Raises:
        InputError: a process failed; its last words are in the message.
    """
    with tempfile.TemporaryDirectory(prefix="edgeprune-bench-") as store:
        words = [str(artifact.path), str(threads), store]

        def start(code: str) -> None:
            on_round()
            _started(code, words)

        return measure(
            {BARE_START: partial(start, _BARE), OUR_START: partial(start, _OURS)},
            reference=BARE_START,
            limits=Limits(
                budget_s=float("inf"),
                fewest=rounds,
                most=rounds,
                warm_up=1,
                block_s=0.0,
                settle_s=0.0,
            ),
        )


def _started(code: str, words: list[str]) -> None:
    # Modules are compiled once, as where a package is installed; the warm-up does it.
    kept = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**kept, "ORT_DISABLE_TELEMETRY": "1"},
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise InputError(f"the process that was to be timed failed: {last}")
