"""Compacting the network that is in use, and finding out whether that pays on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ._int8 import MOST_SAMPLES as MOST_INT8_SAMPLES
from ._int8 import Int8Report, check_int8, make_int8
from ._network import OnProgress, silent
from ._probe import random_feeds, some_samples
from ._rounding import RoundingJudge, units_removed
from ._sources import OnUnusable
from ._timing import Limits, Timing, Verdict, measure
from .runtime._ort import make_session, run
from .runtime.answers import AnswerChange
from .runtime.artifact import Artifact
from .runtime.compact import (
    CompactReport,
    Masks,
    Rounding,
    compact,
    rounded_profile,
    tensors_in_force,
)
from .runtime.profile import Profile
from .runtime.session import default_threads

__all__ = ["CompactionReport", "Job", "compact_model"]

_MOST_SAMPLES = 32
_LIMITS = Limits(budget_s=10.0)


@dataclass(frozen=True)
class CompactionReport:
    """A compacted network: what was written, and whether it is faster here.

    Attributes:
        compact: what the runtime reports: units, costs before and after, errors.
        timing: the compacted network against the masked one; None if it was not measured.
        threads: of the timing.
        profile, generation: what was compacted; None for the network as trained.
        updated_generation: the generation that holds the masks after rounding down, if saved.
        changed_units: units that rounding down removed beyond the profile's masks.
        rounding: how far that changed the answers to the samples; None if nothing was removed, or
            without samples.
        int8: what came of int8; None if it was not asked for. Where it is used, ``timing`` and
            ``bytes`` are those of the int8 network.
        masks_given: for how many groups masks were given instead of the profile's.
    """

    compact: CompactReport
    timing: Timing | None = None
    threads: int = 1
    profile: str | None = None
    generation: int | None = None
    updated_generation: int | None = None
    changed_units: int = 0
    rounding: AnswerChange | None = None
    int8: Int8Report | None = None
    masks_given: int = 0

    @property
    def bytes(self) -> int:
        """Of the file that was written."""
        if self.int8 is not None and self.int8.used and self.int8.bytes is not None:
            return self.int8.bytes
        return self.compact.bytes_after

    @property
    def speed(self) -> Verdict | None:
        """Whether it may be called faster than the masked network; None if not measured."""
        return None if self.timing is None else self.timing["compacted"].verdict

    @property
    def advice(self) -> str | None:
        """What to do about it, None where there is nothing to say."""
        if self.changed_units and self.rounding is None:
            return (
                f"Rounding down removed {self.changed_units} units that the network was using, and "
                "nothing makes up for them. Give --samples to have that judged; or personalise "
                "with this --channel-multiple, which repairs what it removes."
            )
        if self.speed is None or self.speed == "faster":
            return None
        found = "slower" if self.speed == "slower" else "not measurably faster"
        return (
            f"Compaction does not pay on this machine: the network is {found}. Keep the model "
            "with its profile, which runs as the dense network and can be undone; or try another "
            "--channel-multiple or more sparsity."
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            **self.compact.to_dict(),
            "bytes_after": self.bytes,
            "int8": None if self.int8 is None else self.int8.to_dict(),
            "profile": self.profile,
            "generation": self.generation,
            "updated_generation": self.updated_generation,
            "changed_units": self.changed_units,
            "rounding": None if self.rounding is None else asdict(self.rounding),
            "masks_given": self.masks_given,
            "threads": self.threads,
            "timing": None if self.timing is None else asdict(self.timing),
            "speed": self.speed,
            "advice": self.advice,
        }


@dataclass(frozen=True)
class Job:
    """What to compact, and how; the parts are those of `Model.compact`."""

    artifact: Artifact
    profile: Profile | None
    path: Path
    masks: Masks | None = None
    channel_multiple: int = 16
    rounding: Rounding = "up"
    samples: str | Path | Sequence[NDArray[Any]] | None = None
    threads: int | None = None
    timing: bool = True
    int8: bool = False
    on_progress: OnProgress = silent
    on_unusable: OnUnusable | None = None


def compact_model(job: Job) -> tuple[CompactionReport, Profile | None]:
    """Compact, measure; return also the profile that rounding down made, if it changed any mask."""
    samples = _samples(job)
    threads = job.threads or default_threads()
    judge = RoundingJudge(job.artifact, job.profile, job.masks, samples)
    report = compact(
        job.artifact,
        job.profile,
        job.path,
        masks=job.masks,
        channel_multiple=job.channel_multiple,
        rounding=job.rounding,
        samples=None if samples is None else samples[:_MOST_SAMPLES],
        accept=judge if job.rounding == "down" else None,
        progress=lambda line: job.on_progress(line, 0.0),
    )
    rounded = None if job.profile is None else _rounded(job.artifact, job.profile, report)
    int8 = None
    if job.int8 and samples is not None:
        int8 = make_int8(
            job.path,
            job.artifact,
            samples,
            threads=threads,
            timing=job.timing,
            on_progress=job.on_progress,
        )
    timing = _timing(job, rounded or job.profile, threads) if job.timing else None
    made = CompactionReport(
        report,
        timing,
        threads,
        changed_units=judge.units,
        rounding=judge.change,
        int8=int8,
        masks_given=len(job.masks or {}),
    )
    return made, rounded


def _samples(job: Job) -> Sequence[NDArray[Any]] | None:
    samples = job.samples
    if isinstance(samples, str | Path):
        most = MOST_INT8_SAMPLES if job.int8 else _MOST_SAMPLES
        samples = some_samples(job.artifact, samples, most, job.on_unusable)
    if job.int8:
        check_int8(job.artifact.info, samples)
    return samples


def _rounded(artifact: Artifact, profile: Profile, report: CompactReport) -> Profile | None:
    changed = report.rounding == "down" and units_removed(profile.masks, report)
    return rounded_profile(artifact, profile, report.masks) if changed else None


def _timing(job: Job, profile: Profile | None, threads: int) -> Timing:
    """One sample at a time; the masked network is built twice, to see what building it varies."""
    artifact = job.artifact
    tensors = tensors_in_force(artifact, profile, job.masks or {})
    feeds = random_feeds(artifact, 1, 0)
    masked, again = (make_session(artifact.graph, tensors, threads=threads) for _ in range(2))
    small = make_session(job.path, threads=threads)
    return measure(
        {
            "masked": partial(run, masked, None, feeds),
            "compacted": partial(run, small, None, feeds),
        },
        reference="masked",
        control=partial(run, again, None, feeds),
        limits=_LIMITS,
        on_progress=lambda share: job.on_progress("timing", share),
    )
