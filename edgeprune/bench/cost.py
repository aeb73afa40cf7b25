"""What personalisation costs, against plain inference over the same samples."""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._probe import some_samples
from .._sources import OnUnusable, model_preprocess
from .._timing import Limits, Timing, measure
from ..devices import open_folder
from ..runtime._ort import make_session, run
from ..runtime.artifact import Artifact
from ..runtime.compact import compact
from ..runtime.errors import MissingExtra, NotEnoughSamples
from ..runtime.personalize import personalize
from ..runtime.session import default_threads
from ..runtime.settings import Settings
from ._fine_tune import TuneTask, compare_with_torch
from ._memory import BARE, Peak, Task, peak_of
from ._run import BenchRun, conditions, facts, rows_of
from ._startup import BARE_START, OUR_START, time_to_first_answer

__all__ = ["STRENGTHS", "cost", "need_torch"]

OnProgress = Callable[[str, float], None]
FloatArray = NDArray[np.float32]

STRENGTHS = ("light", "deep")
_FEWEST = 10
_BATCH = 8
_PLAIN, _ONE_BY_ONE = f"plain, {_BATCH} at a time", "plain, one at a time"


def cost(
    artifact: Artifact,
    folder: str | Path,
    *,
    strengths: Sequence[str] = STRENGTHS,
    samples: int = 300,
    rounds: int = 6,
    memory_rounds: int = 3,
    growth: Sequence[int] = (),
    start_rounds: int = 12,
    factory: str | None = None,
    weights: str | Path | None = None,
    tune_rounds: int = 1,
    threads: int | None = None,
    on_progress: OnProgress = lambda _step, _share: None,
    on_unusable: OnUnusable | None = None,
) -> BenchRun:
    """Personalise samples, and go over the same ones with plain inference, in turns.

    Time is taken in one process, of samples that are decoded already. Memory is the peak of whole
    processes that read the files.

    Args:
        artifact: the exported model, of one input.
        folder: the samples; an even choice of them is taken.
        strengths: of personalisation, each with the default settings. The guard refuses nothing.
        samples: how many.
        rounds: how often each is run; below six nothing can be claimed.
        memory_rounds: how many processes of each kind; 0 leaves memory out.
        growth: numbers of samples to watch the memory grow with; files are used again where there
            are too few.
        start_rounds: processes of each kind that are timed up to their first answer.
        factory: ``package.module:function`` of the PyTorch module behind the model; with it
            fine-tuning in PyTorch and Torch-Pruning are run over the same samples as well.
        weights: its weights.
        tune_rounds: processes of each of these.
        threads: threads of one operator; None for what the machine offers, at most four.
        on_progress: called with the name of a step and the share of it that is done.
        on_unusable: called with each file that cannot be used, and why.

    Raises:
        NotEnoughSamples: fewer than ten can be used.
        InputError, SourceError: the samples do not fit the model, or a process failed.
    """
    threads = threads or default_threads()
    arrays = some_samples(artifact, folder, samples, on_unusable)
    if len(arrays) < _FEWEST:
        raise NotEnoughSamples(f"{len(arrays)} samples can be used; at least {_FEWEST} are needed.")
    with tempfile.TemporaryDirectory(prefix="edgeprune-bench-") as temporary:
        plain = Path(temporary) / "dense.onnx"
        compact(artifact, None, plain)
        job = _Job(artifact, plain, arrays, tuple(strengths), threads, on_progress)
        timing = job.timing(rounds)
        memory = _Memory(artifact, plain, Path(folder), strengths, threads, on_progress)
        peaks = memory.peaks(len(arrays), memory_rounds)
        grown = memory.growth(growth)
        tuned = job.against_torch(Path(temporary), factory, weights, tune_rounds)
    details = {name: job.details(name) | _peak_details(name, peaks) for name in job.names}
    rows = rows_of(timing, f"{len(arrays)} samples: ", details)
    noise, extra = list(timing.remarks), {"conditions": conditions(timing), "memory_growth": grown}
    if start_rounds:
        start = job.start(start_rounds)
        about = {n: job.details(n) | _peak_details(n, {}) for n in (BARE_START, OUR_START)}
        rows += rows_of(start, "", about)
        noise += start.remarks
        extra |= {"start_conditions": conditions(start)}
    return BenchRun(
        "cost",
        facts(artifact.path.name, artifact.info),
        {
            "strengths": list(strengths),
            "samples": len(arrays),
            "rounds": rounds,
            "memory_rounds": memory_rounds,
            "growth": list(growth),
            "start_rounds": start_rounds,
            "tune_rounds": tune_rounds if factory else 0,
            "threads": threads,
        },
        tuple(rows),
        tuple(dict.fromkeys(noise)),
        extra | {"against_torch": tuned},
    )


def need_torch() -> None:
    """Refuse what needs PyTorch before minutes of measuring rather than after.

    Raises:
        MissingExtra: PyTorch or Torch-Pruning is not installed.
    """
    missing = [name for name in ("torch", "torch_pruning") if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"--factory needs {' and '.join(missing)}, which is not installed. Nothing was "
            'measured. Install it with: pip install "edgeprune[bench]"'
        )


@dataclass
class _Counted:
    """Samples in memory that count how often they are read."""

    arrays: Sequence[FloatArray]
    reads: int = 0

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: int) -> FloatArray:
        self.reads += 1
        return self.arrays[index]


@dataclass
class _Job:
    """The ways of going over the samples that are timed."""

    artifact: Artifact
    plain: Path
    arrays: list[FloatArray]
    strengths: tuple[str, ...]
    threads: int
    on_progress: OnProgress
    reads: dict[str, float] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the ways, the reference first."""
        return (_PLAIN, _ONE_BY_ONE, *self.strengths)

    def timing(self, rounds: int) -> Timing:
        """All ways in turns."""
        limits = Limits(
            budget_s=float("inf"), fewest=rounds, most=rounds, warm_up=1, block_s=0.0, settle_s=0.0
        )
        arms: dict[str, Callable[[], object]] = {
            _PLAIN: self._loop(_BATCH),
            _ONE_BY_ONE: self._loop(1),
        }
        arms |= {strength: partial(self._personalize, strength) for strength in self.strengths}
        done, total = itertools.count(1), rounds * (len(arms) + 1)

        def told(name: str, arm: Callable[[], object]) -> Callable[[], object]:
            def call() -> object:
                self.on_progress("time", min(next(done) / (total + len(arms) + 1), 1.0))
                return arm()

            return call

        return measure(
            {name: told(name, arm) for name, arm in arms.items()},
            reference=_PLAIN,
            control=told(_PLAIN, self._loop(_BATCH)),
            limits=limits,
        )

    def start(self, rounds: int) -> Timing:
        """Processes up to their first answer, in turns."""
        done = itertools.count()

        def told() -> None:
            self.on_progress("start-up", min(next(done) / (3 * rounds + 2), 1.0))

        return time_to_first_answer(self.artifact, rounds, self.threads, told)

    def against_torch(
        self, folder: Path, factory: str | None, weights: str | Path | None, rounds: int
    ) -> list[dict[str, Any]]:
        """Personalisation and what PyTorch takes, a process each; nothing without a factory."""
        if factory is None:
            return []
        samples = folder / "samples.npy"
        np.save(samples, np.stack(self.arrays))
        task = TuneTask(
            way="",
            model=str(self.artifact.path),
            samples=str(samples),
            factory=factory,
            weights=None if weights is None else str(weights),
            threads=self.threads,
        )
        return compare_with_torch(
            task, self.strengths, rounds, partial(self.on_progress, "PyTorch")
        )

    def details(self, name: str) -> dict[str, Any]:
        """What of a way is no time."""
        return {
            "way": name,
            "samples": len(self.arrays),
            "threads": self.threads,
            "reads": self.reads.get(name, 1.0),
        }

    def _loop(self, size: int) -> Callable[[], object]:
        session = make_session(self.plain, threads=self.threads)
        name = session.get_inputs()[0].name

        def go() -> None:
            for start in range(0, len(self.arrays), size):
                run(session, None, {name: np.stack(self.arrays[start : start + size])})

        return go

    def _personalize(self, strength: str) -> None:
        source = _Counted(self.arrays)
        settings = replace(_settings(len(self.arrays), strength), threads=self.threads)
        personalize(self.artifact, source, settings)
        self.reads[strength] = source.reads / len(source)


def _settings(samples: int, strength: Any) -> Settings:
    """The defaults, but all samples and no refusal: a bench ends with figures."""
    return Settings(strength=strength, max_samples=max(samples, _FEWEST), min_agreement=0.0)


@dataclass(frozen=True)
class _Memory:
    """Processes whose peak memory is compared."""

    artifact: Artifact
    plain: Path
    folder: Path
    strengths: Sequence[str]
    threads: int
    on_progress: OnProgress

    def peaks(self, samples: int, rounds: int) -> dict[str, list[int]]:
        """Peaks in bytes of each way, one process of each kind after the other."""
        ways = (BARE, *self.strengths)
        found: dict[str, list[int]] = {way: [] for way in ways if rounds}
        for number in range(rounds):
            for way in ways:
                self.on_progress("memory", number / rounds)
                found[way].append(self._peak(way, samples).peak_bytes)
        return found

    def growth(self, counts: Sequence[int]) -> list[dict[str, Any]]:
        """One process of each way for each number of samples."""
        grown = []
        for place, samples in enumerate(counts):
            self.on_progress("memory by samples", place / len(counts))
            peaks = {way: self._peak(way, samples) for way in (BARE, *self.strengths)}
            grown.append(
                {
                    "samples": samples,
                    "peak_bytes": {way: one.peak_bytes for way, one in peaks.items()},
                    "seconds": {way: one.seconds for way, one in peaks.items()},
                }
            )
        return grown

    def _peak(self, way: str, samples: int) -> Peak:
        paths = open_folder(self.folder, model_preprocess(self.artifact)).paths
        if samples <= len(paths):
            chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, samples).astype(int)]
        else:
            chosen = list(itertools.islice(itertools.cycle(paths), samples))
        # Settings.max_samples stays as it is: a long stream is sampled, as users' streams are.
        files = [str(path) for path in chosen]
        task = Task(way, str(self.artifact.path), str(self.plain), files, self.threads)
        return peak_of(task)


def _peak_details(name: str, peaks: dict[str, list[int]]) -> dict[str, Any]:
    mine = peaks.get(BARE if name == _ONE_BY_ONE else name)
    if not mine:
        return {"peak_bytes": None, "peak_ratio": None}
    ratios = [one / bare for one, bare in zip(mine, peaks[BARE], strict=True)]
    return {"peak_bytes": int(statistics.median(mine)), "peak_ratio": statistics.median(ratios)}
