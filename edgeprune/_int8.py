"""Making a compacted network int8, where that is faster here and does no harm."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from ._network import OnProgress
from ._probe import Feeds, random_feeds, sample_feeds
from ._timing import Limits, Timing, Verdict, measure
from .runtime._atomic import write_atomically
from .runtime._metadata import COMPACTED_KEY
from .runtime._ort import make_session, run
from .runtime.answers import AnswerChange
from .runtime.artifact import Artifact, ModelInfo
from .runtime.errors import CompactError, InputError, NotEnoughSamples
from .runtime.quantize import judge_int8, quantize

__all__ = ["MOST_SAMPLES", "Int8Report", "check_int8", "make_int8"]

MOST_SAMPLES = 192
_FEWEST = 30
_CHECKED_EVERY = 3
_MOST_EXPECTED_LOSS = 0.01
_LIMITS = Limits(budget_s=10.0)


@dataclass(frozen=True)
class Int8Report:
    """What came of int8.

    Attributes:
        used: whether the file that was written computes in int8.
        reason: why not; None where it does.
        calibrated: samples that the ranges of activations were taken from.
        bytes: of the int8 network, written or not; None if it could not be made.
        verdict: the comparison with the float network on the other samples; None as above.
        timing: against the compacted float network; None if it was not measured.
    """

    used: bool
    reason: str | None
    calibrated: int
    bytes: int | None = None
    verdict: AnswerChange | None = None
    timing: Timing | None = None

    @property
    def speed(self) -> Verdict | None:
        """Whether it may be called faster than the float network; None if not measured."""
        return None if self.timing is None else self.timing["int8"].verdict

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "speed": self.speed}


def check_int8(info: ModelInfo, samples: Sequence[NDArray[Any]] | None) -> None:
    """Refuse what cannot be calibrated or judged, before anything is written.

    Raises:
        InputError: the model is no classifier of one input, or no samples are given.
        NotEnoughSamples: too few samples.
    """
    if not info.single or info.classes is None:
        raise InputError(
            "int8 is judged by the classes that the network names; this one does not take one "
            "input of floats and give one row of classes. Nothing was written; compact it without "
            "int8."
        )
    if samples is None:
        raise InputError(
            "int8 needs samples of what the user sees or says, to calibrate on. Nothing was "
            "written; give a folder (--samples)."
        )
    if len(samples) < _FEWEST:
        raise NotEnoughSamples(
            f"int8 needs at least {_FEWEST} samples to be calibrated and judged, got "
            f"{len(samples)}. Nothing was written."
        )


def make_int8(
    path: Path,
    artifact: Artifact,
    samples: Sequence[NDArray[Any]],
    *,
    threads: int,
    timing: bool,
    on_progress: OnProgress,
) -> Int8Report:
    """Put an int8 network in the place of a compacted one if it is faster and as good.

    Two of three samples calibrate, the third judges. The float network stays where int8 is not
    measurably faster, or where more than one percent of the answers are expected to be lost.

    Args:
        path: the compacted network, which is replaced.
        artifact: the model that it was made from.
        samples: without batch axis, preprocessed.
        threads: of the timing.
        timing: measure whether it is faster; if not, only what it says decides.
        on_progress: called with the name of a step and the share of it that is done.
    """
    on_progress("quantising", 0.0)
    info = artifact.info
    judging = samples[_CHECKED_EVERY - 1 :: _CHECKED_EVERY]
    calibrating = [s for i, s in enumerate(samples) if i % _CHECKED_EVERY != _CHECKED_EVERY - 1]
    model = path.read_bytes()
    try:
        small = quantize(model, list(sample_feeds(info, calibrating)))
    except CompactError as error:
        return Int8Report(False, str(error).rstrip("."), len(calibrating))
    verdict = judge_int8(
        model, small, list(sample_feeds(info, judging)), logits=info.output_kind == "logits"
    )
    small = _with_precision(
        small,
        {
            "calibrated": len(calibrating),
            "judged": verdict.samples,
            "agreement": verdict.agreement,
            "expected_loss": verdict.expected_loss,
        },
    )
    timed = None
    if timing and verdict.expected_loss <= _MOST_EXPECTED_LOSS:
        timed = _timing(model, small, random_feeds(artifact, 1, 0), threads, on_progress)
    reason = _reason(verdict, timed)
    if reason is None:
        write_atomically(path, small, mode=0o666)  # as any file: the user's umask decides
    return Int8Report(reason is None, reason, len(calibrating), len(small), verdict, timed)


def _reason(verdict: AnswerChange, timing: Timing | None) -> str | None:
    if verdict.expected_loss > _MOST_EXPECTED_LOSS:
        return (
            f"int8 names another class on {1 - verdict.agreement:.0%} of {verdict.samples} "
            f"samples, and {verdict.expected_loss:.1%} of the answers are expected to be lost "
            f"(limit {_MOST_EXPECTED_LOSS:.0%})"
        )
    if timing is not None and timing["int8"].verdict != "faster":
        return "int8 is not measurably faster than float on this processor"
    return None


def _with_precision(model: bytes, told: dict[str, Any]) -> bytes:
    """Note in what the compacted network says of itself that it computes in int8."""
    proto = onnx.load_from_string(model)
    item = next(item for item in proto.metadata_props if item.key == COMPACTED_KEY)
    item.value = json.dumps({**json.loads(item.value), "int8": told}, separators=(",", ":"))
    return bytes(proto.SerializeToString(deterministic=True))


def _timing(
    model: bytes, small: bytes, feeds: Feeds, threads: int, on_progress: OnProgress
) -> Timing:
    first, again, int8 = (make_session(one, threads=threads) for one in (model, model, small))
    return measure(
        {"compacted": partial(run, first, None, feeds), "int8": partial(run, int8, None, feeds)},
        reference="compacted",
        control=partial(run, again, None, feeds),
        limits=_LIMITS,
        on_progress=lambda share: on_progress("timing int8", share),
    )
