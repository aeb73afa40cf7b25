"""Does a model compute what it should: as its source, masked, and compacted?

Three questions, each answered by running ONNX Runtime as a user does:

1. Is the network with neutral tensors the source network?
2. Is the network with masks the same function as the network without the masked units?
3. Is every mask tensor alive: does changing it change the output?
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._probe import (
    BoolArray,
    Feeds,
    masked_tensors,
    outputs_of,
    random_feeds,
    random_masks,
    sample_feeds,
    some_samples,
    worst_error,
)
from ._sources import OnUnusable
from .runtime._ort import make_session
from .runtime.artifact import Artifact, ChannelGroup
from .runtime.errors import ArtifactError, EdgepruneError, InputError

__all__ = ["MaskDraw", "VerifyReport", "verify"]

Outputs = list[NDArray[Any]]
Source = Callable[[Mapping[str, NDArray[Any]]], Sequence[NDArray[Any]]]
OnProgress = Callable[[str, float], None]

_TOLERANCE = 1e-4
_MOST_PRUNED = 0.95
_BATCHES = (1, 3)
_MORE_SEEDS = 3  # inputs to try before a mask is called dead


@dataclass(frozen=True)
class MaskDraw:
    """One choice of masks, masked and compacted.

    Attributes:
        pruned: share of all prunable units that were masked.
        error: worst relative difference on random input.
        error_samples: the same on real samples, None without.
        problem: why it could not be compacted, or None.
    """

    pruned: float
    error: float = float("inf")
    error_samples: float | None = None
    problem: str | None = None

    @property
    def worst(self) -> float:
        """The larger of the two errors."""
        return max(self.error, self.error_samples or 0.0)


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found. Errors are relative to the largest output.

    Attributes:
        path: the model.
        model_id: of the model.
        tolerance: the largest error that passes.
        source: what the neutral network was compared with, None if with nothing.
        neutral_error: worst difference from the source on random input.
        neutral_error_samples: the same on real samples.
        draws: the masks that were tried, masked against compacted.
        groups: prunable groups of more than one unit, each of which was checked for life.
        dead: those whose mask changes nothing.
        samples: how many real samples took part.
        seed: of the input and the masks.
        seconds: wall time.
        failures: what is wrong, in sentences; empty if all is well.
    """

    path: Path
    model_id: str
    tolerance: float
    source: str | None
    neutral_error: float | None
    neutral_error_samples: float | None
    draws: tuple[MaskDraw, ...]
    groups: int
    dead: tuple[str, ...]
    samples: int
    seed: int
    seconds: float
    failures: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.failures

    @property
    def masked_error(self) -> float | None:
        """Worst difference between masked and compacted on random input; None without draws."""
        return max((draw.error for draw in self.draws), default=None)

    @property
    def masked_error_samples(self) -> float | None:
        """The same on real samples."""
        errors = [draw.error_samples for draw in self.draws if draw.error_samples is not None]
        return max(errors, default=None)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values; an error that is not finite is null, and a failure tells why."""
        data = {
            **asdict(self),
            "path": str(self.path),
            "ok": self.ok,
            "masked_error": self.masked_error,
            "masked_error_samples": self.masked_error_samples,
        }
        return {key: _finite(value) for key, value in data.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def verify(
    model: str | Path | Artifact,
    *,
    source: str | Path | Source | None = None,
    constants: Mapping[str, Any] | None = None,
    samples: str | Path | Sequence[NDArray[Any]] | None = None,
    masks: int = 10,
    seed: int = 0,
    tolerance: float = _TOLERANCE,
    max_samples: int = 32,
    threads: int = 1,
    on_progress: OnProgress = lambda _step, _share: None,
    on_unusable: OnUnusable | None = None,
) -> VerifyReport:
    """Check a model against its source, masked against compacted, and every mask for life.

    Args:
        model: ``NAME.onnx`` that was exported, or the opened artifact.
        source: what the neutral network must equal: an ONNX file, a PyTorch module, or a function
            from inputs by name, in the model's order, to all outputs.
        constants: inputs of an ONNX file that the export bound to a value, with that value.
        samples: real input for a model of one input: a folder, or preprocessed arrays.
        masks: how many choices of masks to compact: the first removes nothing, the last 95 % of
            every group, the others from 0 to 95 % of each group on its own.
        seed: of the masks and of the random input.
        tolerance: the largest relative error that passes.
        max_samples: how many files of a folder to take.
        threads: threads of one operator.
        on_progress: called with the name of a step and the share of it that is done.
        on_unusable: called with each file of the folder that cannot be used, and why.

    Raises:
        ArtifactError, InputError, SourceError: the model, the source or the samples cannot be
            read at all. What is wrong with the network itself is in the report.
    """
    started = time.perf_counter()
    artifact = model if isinstance(model, Artifact) else Artifact.open(model)
    check = _Check(artifact, _real(artifact, samples, max_samples, on_unusable), seed, threads)
    told, function = _source(source, constants or {})
    neutral = check.neutral(function) if function is not None else (None, None)
    draws = tuple(check.draws(masks, on_progress))
    dead = tuple(check.dead(on_progress))
    report = VerifyReport(
        path=artifact.path,
        model_id=artifact.info.model_id,
        tolerance=tolerance,
        source=told,
        neutral_error=neutral[0],
        neutral_error_samples=neutral[1],
        draws=draws,
        groups=len(check.maskable),
        dead=dead,
        samples=len(check.samples),
        seed=seed,
        seconds=time.perf_counter() - started,
        failures=(),
    )
    return _judged(report, check.damage, _about_weights(source, artifact))


def _about_weights(source: str | Path | Source | None, artifact: Artifact) -> str:
    """A remark where a module has other parameters than the one that was exported."""
    if not hasattr(source, "state_dict"):
        return ""
    from .exporters._torch_export import parameters_sha256

    if parameters_sha256(source) == artifact.info.source_sha256:  # type: ignore[arg-type]
        return ""
    return (
        ": its parameters are not those that the model was exported from. Give the same weights "
        "(--weights), or a factory that always makes the same ones"
    )


def _judged(report: VerifyReport, damage: Sequence[str], about_weights: str) -> VerifyReport:
    """The report with what is wrong in sentences."""
    failures = [*damage]
    worst = max(report.neutral_error or 0.0, report.neutral_error_samples or 0.0)
    if not worst <= report.tolerance:
        failures.append(
            f"with neutral tensors it differs from the source by {worst:.3g}, more than "
            f"{report.tolerance:g}{about_weights}"
        )
    for number, draw in enumerate(report.draws):
        if draw.problem is None and not draw.worst <= report.tolerance:
            failures.append(
                f"masks {number} ({100 * draw.pruned:.0f} % of the units masked): masked and "
                f"compacted differ by {draw.worst:.3g}, more than {report.tolerance:g}"
            )
    problems = Counter(draw.problem for draw in report.draws if draw.problem is not None)
    for problem, count in problems.items():
        failures.append(f"{count} of {len(report.draws)} choices of masks: {problem}")
    failures += [f"the mask of group {name} is dead: it changes no output" for name in report.dead]
    return replace(report, failures=tuple(failures))


def _real(
    artifact: Artifact,
    samples: str | Path | Sequence[NDArray[Any]] | None,
    most: int,
    on_unusable: OnUnusable | None,
) -> list[NDArray[np.float32]]:
    if isinstance(samples, str | Path):
        return some_samples(artifact, samples, most, on_unusable)
    return [np.asarray(sample, np.float32) for sample in (() if samples is None else samples)]


def _source(
    source: str | Path | Source | None, constants: Mapping[str, Any]
) -> tuple[str | None, Source | None]:
    if source is None:
        return None, None
    if isinstance(source, str | Path):
        return "onnx", _OnnxSource(Path(source), constants)
    if hasattr(source, "state_dict"):
        from .exporters._torch_export import torch_function

        return "pytorch", torch_function(source)  # type: ignore[arg-type]
    return "function", source


def _bound(path: Path, constants: Mapping[str, Any]) -> Path | bytes:
    """The source as it is, or with inputs bound as the export bound them."""
    if not constants:
        return path
    from .exporters import read_bound

    return bytes(read_bound(path, constants).SerializeToString())


class _OnnxSource:
    """An ONNX file as a function of inputs in its order; made for one batch size, it is obeyed."""

    def __init__(self, path: Path, constants: Mapping[str, Any]) -> None:
        if not path.is_file():
            raise InputError(f"there is no source {path}. Give the ONNX file that was exported.")
        self._path, self._session = path, make_session(_bound(path, constants))
        self._inputs = self._session.get_inputs()

    @property
    def batch(self) -> int | None:
        """The one batch size that it takes, None if it takes any."""
        size = self._inputs[0].shape[0] if self._inputs[0].shape else None
        return size if isinstance(size, int) else None

    def __call__(self, feeds: Mapping[str, NDArray[Any]]) -> Outputs:
        if len(feeds) != len(self._inputs):
            raise InputError(
                f"{self._path} has the inputs {', '.join(item.name for item in self._inputs)} and "
                f"the model {', '.join(feeds)}. Give those that the export bound to a value again, "
                "as in --set sr=16000; else it is not what the model was exported from."
            )
        pairs = zip(self._inputs, feeds.values(), strict=True)
        return outputs_of(self._session, {item.name: value for item, value in pairs})


@dataclass
class _Check:
    """One model under examination."""

    artifact: Artifact
    samples: list[NDArray[np.float32]]
    seed: int
    threads: int
    damage: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        info = self.artifact.info
        self.maskable: list[ChannelGroup] = [g for g in info.prunable if g.units > 1]
        self.random = [random_feeds(self.artifact, batch, self.seed) for batch in _BATCHES]
        self.real = list(sample_feeds(info, self.samples))
        try:
            self.artifact.verify_weights()
        except ArtifactError as error:
            self.damage.append(str(error))

    def session(self, masks: Mapping[str, BoolArray] | None = None) -> Any:
        """The artifact with these masks and nothing else changed."""
        tensors = masked_tensors(self.artifact, masks)
        return make_session(self.artifact.graph, tensors, threads=self.threads)

    def neutral(self, source: Source) -> tuple[float, float | None]:
        """Worst difference from the source on random input and on samples."""
        session = self.session()
        only = getattr(source, "batch", None)
        first = self.artifact.info.input_name
        random = self.random if only is None else [random_feeds(self.artifact, only, self.seed)]
        real = self.real
        if only is not None:
            whole = range(0, len(self.samples) - only + 1, only)
            real = [{first: np.stack(self.samples[start : start + only])} for start in whole]

        def worst(batches: Sequence[Feeds]) -> float | None:
            errors = [worst_error(source(feeds), outputs_of(session, feeds)) for feeds in batches]
            return max(errors, default=None)

        return worst(random) or 0.0, worst(real)

    def draws(self, count: int, on_progress: OnProgress) -> Iterator[MaskDraw]:
        """Compact under each choice of masks and compare."""
        for number in range(count):
            on_progress("masked against compacted", number / count)
            yield self._draw(self._masks(number, count))
        if count:
            on_progress("masked against compacted", 1.0)

    def _masks(self, number: int, count: int) -> dict[str, BoolArray]:
        rng = np.random.default_rng([self.seed, number])
        groups = self.artifact.info.prunable
        shares = {group.name: float(rng.uniform(0, _MOST_PRUNED)) for group in groups}
        if number in (0, count - 1):
            shares = dict.fromkeys(shares, 0.0 if number == 0 else _MOST_PRUNED)
        return random_masks(groups, shares, rng)

    def _draw(self, masks: Mapping[str, BoolArray]) -> MaskDraw:
        from .runtime.compact import compact

        units = sum(mask.size for mask in masks.values())
        pruned = sum(int(np.count_nonzero(~mask)) for mask in masks.values()) / max(units, 1)
        with tempfile.TemporaryDirectory(prefix="edgeprune-verify-") as folder:
            path = Path(folder) / "compact.onnx"
            try:
                compact(self.artifact, None, path, masks=masks)
                small = make_session(path, threads=self.threads)
            except EdgepruneError as error:
                return MaskDraw(pruned, problem=str(error))
            masked = self.session(masks)

            def worst(batches: Sequence[Feeds]) -> float | None:
                pairs = [(outputs_of(masked, feeds), outputs_of(small, feeds)) for feeds in batches]
                return max((worst_error(*pair) for pair in pairs), default=None)

            return MaskDraw(pruned, worst(self.random) or 0.0, worst(self.real))

    def dead(self, on_progress: OnProgress) -> Iterator[str]:
        """Groups in which masking all units but one leaves every output as it was, bit for bit."""
        whole = self.session()
        for number, group in enumerate(self.maskable):
            on_progress("masks alive", number / len(self.maskable))
            if not self._alive(whole, group):
                yield group.name
        on_progress("masks alive", 1.0)

    def _alive(self, whole: Any, group: ChannelGroup) -> bool:
        mask = np.zeros(group.units, np.bool_)
        mask[self.seed % group.units] = True
        masked = self.session({group.name: mask})
        more = (
            random_feeds(self.artifact, batch, self.seed + further)
            for further in range(1, 1 + _MORE_SEEDS)
            for batch in _BATCHES
        )
        return any(
            any(a.tobytes() != b.tobytes() for a, b in zip(*pair, strict=True))
            for pair in (
                (outputs_of(whole, feeds), outputs_of(masked, feeds))
                for feeds in (*self.random, *self.real, *more)
            )
        )
