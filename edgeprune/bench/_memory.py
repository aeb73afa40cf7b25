"""Peak memory, process to process: each way of going over the samples in a process of its own.

``python -m edgeprune.bench._memory`` is such a process; it reads its task from stdin.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..runtime.errors import InputError
from ._process import run_apart

__all__ = ["BARE", "Peak", "Task", "peak_of"]

BARE = "bare"


@dataclass(frozen=True)
class Task:
    """What a process does.

    Attributes:
        way: ``bare``, a loop of plain inference in ONNX Runtime, one sample at a time; or a
            strength of personalisation.
        model: the exported model.
        plain: the dense network as a plain ONNX file, for the bare loop.
        files: the samples.
        threads: threads of one operator.
    """

    way: str
    model: str
    plain: str
    files: list[str]
    threads: int


@dataclass(frozen=True)
class Peak:
    """The most memory that a process held, and the seconds of its work without imports."""

    peak_bytes: int
    seconds: float


def peak_of(task: Task) -> Peak:
    """Run a task in a new process and return the most memory that it held, and its time.

    Raises:
        InputError: the process fails; its last words are in the message.
    """
    peak, seconds = run_apart(__name__, task.way, asdict(task)).split()
    return Peak(int(peak), float(seconds))


def _peak_of_this_process() -> int:
    """`ru_maxrss` will not do: a child starts with the peak of the process that forked it."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise InputError("this system does not tell the peak memory of a process (no VmHWM).")


def _bare(task: Task) -> None:
    """What anybody writes: read a sample, run the network, forget both."""
    from ..devices import open_folder, preprocess_from_dict
    from ..runtime._ort import make_session

    session = make_session(Path(task.plain), threads=task.threads)
    metadata = session.get_modelmeta().custom_metadata_map
    preprocess = preprocess_from_dict(json.loads(metadata["edgeprune.preprocess"]))
    name = session.get_inputs()[0].name
    folder = open_folder(task.files, preprocess)
    for index in range(len(folder)):
        sample = folder.load(index)
        if sample is not None:
            session.run(None, {name: sample.array[None]})


def _personalize(task: Task) -> None:
    """What `Model.personalize` does, without a store; settings are the defaults of the strength."""
    from .._sources import CACHE_SHARE, FolderSource, model_preprocess
    from ..devices import open_folder
    from ..runtime.artifact import Artifact
    from ..runtime.personalize import personalize
    from ..runtime.settings import Settings

    artifact = Artifact.open(task.model)
    strength: Any = task.way
    settings = Settings(strength=strength, threads=task.threads, min_agreement=0.0)
    folder = open_folder(task.files, model_preprocess(artifact))
    cache = settings.memory_mb * 1_000_000 // CACHE_SHARE
    source = FolderSource(folder, most=settings.max_samples, cache_bytes=cache)
    personalize(artifact, source, settings)


def _main() -> None:
    task = Task(**json.load(sys.stdin))
    started = time.perf_counter()
    (_bare if task.way == BARE else _personalize)(task)
    print(_peak_of_this_process(), time.perf_counter() - started)


if __name__ == "__main__":
    _main()
