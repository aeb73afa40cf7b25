"""Personalisation: from a stream of unlabelled samples to a profile, by forward passes only."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ._graph import Graph
from ._plan import Scope, groups_in_scope, keep_counts
from ._prune import Pruned, PruneSettings, choose_masks, prune_deep, prune_light
from ._stream import Batches, SampleSource
from ._watch import Watched, watch
from .artifact import Artifact, FloatArray, Operator
from .errors import GuardRefused, InputError, NotEnoughSamples
from .guard import GuardReport, compare_outputs
from .normalize import renormalize
from .prior import estimate_prior, log_softmax, prior_shift
from .profile import Profile, Sparsity, kept_inputs, kept_weight, sparsity
from .scoring import CRITERIA, Criterion
from .session import Session, default_threads
from .teach import HeadUpdate, fit_head, propagate

__all__ = ["Outcome", "Report", "Settings", "personalize"]

Normalization = Literal["auto", "on", "off"]
OnProgress = Callable[[str, float], None]
_BATCH = 8
_FEWEST = 10
_ROWS_PER_SAMPLE = 64
_PRIOR_FLOOR = 1e-2
_BLEND = 1.0
_BALANCED = 0.3


@dataclass(frozen=True)
class Settings:
    """How to personalise. The defaults are meant to be left alone.

    Attributes:
        sparsity: share of the units in scope to prune, 0 up to (not including) 1.
        strength: ``light`` changes masks, gains, shifts and the prior (kilobytes); ``deep`` also re-fits
            the weights of the pruned groups' consumers.
        scope: ``hidden`` prunes units inside blocks; ``all`` the residual streams too.
        criterion: how units are scored, see `edgeprune.runtime.scoring`.
        normalization: re-estimate normalisation on the user's data: always, never, or where a
            label-free comparison says that it helps.
        prior: re-estimate the class prior by spreading soft labels over the user's stream (``graph``;
            with strength ``deep`` the head is also re-fitted to them), by expectation maximisation
            (``em``), or not at all.
        channel_multiple: kept units are rounded to a multiple of this.
        ridge: pull of the repair towards no change, relative to the mean variance.
        max_samples: most samples to learn from; of a longer stream an even choice is taken.
        holdout: share of the samples that only the guard sees.
        min_agreement: below this agreement with the dense network nothing is changed.
        memory_mb: most memory for activations kept between layers, in MB (10⁶ bytes).
        threads: threads of one operator; None for `default_threads`.
        seed: for the ``random`` criterion.
    """

    sparsity: float = 0.5
    strength: Literal["light", "deep"] = "deep"
    scope: Scope = "hidden"
    criterion: Criterion = "repair_aware"
    normalization: Normalization = "auto"
    prior: Literal["graph", "em", "off"] = "graph"
    channel_multiple: int = 8
    ridge: float = 1e-2
    max_samples: int = 1000
    holdout: float = 0.2
    min_agreement: float = 0.5
    memory_mb: int = 256
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values; InputError names the one that is wrong."""
        checks = {
            "sparsity": 0.0 <= self.sparsity < 1.0,
            "strength": self.strength in ("light", "deep"),
            "scope": self.scope in ("hidden", "all"),
            "criterion": self.criterion in CRITERIA,
            "normalization": self.normalization in ("auto", "on", "off"),
            "prior": self.prior in ("graph", "em", "off"),
            "channel_multiple": self.channel_multiple >= 1,
            "ridge": math.isfinite(self.ridge) and self.ridge > 0,
            "max_samples": self.max_samples >= 10,
            "holdout": 0.05 <= self.holdout <= 0.5,
            "min_agreement": 0.0 <= self.min_agreement <= 1.0,
            "memory_mb": self.memory_mb >= 1,
            "threads": self.threads is None or self.threads >= 1,
        }
        for name, fine in checks.items():
            if not fine:
                raise InputError(
                    f"{name} = {getattr(self, name)!r} is out of range. Nothing was changed."
                )


@dataclass(frozen=True)
class Report:
    """What personalisation did, in figures."""

    samples_seen: int
    samples_adapted: int
    samples_held_out: int
    strength: str
    normalization: float
    effective_classes: float | None
    guard: GuardReport
    sparsity: Sparsity
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Outcome:
    """A profile that is ready to be stored, and the report on it."""

    profile: Profile
    report: Report


@dataclass(frozen=True)
class _Classes:
    """What was learnt about the user's classes: the prior, and head updates by track."""

    prior: NDArray[np.float64]
    heads: Mapping[str, HeadUpdate]


@dataclass
class _State:
    """What one personalisation carries from step to step."""

    artifact: Artifact
    graph: Graph
    settings: Settings
    adapt: Batches
    held_out: Batches
    teacher: dict[str, FloatArray]
    on_progress: OnProgress
    normalization: float = 0.0
    normalized: dict[str, FloatArray] = field(default_factory=dict)

    @property
    def threads(self) -> int:
        return self.settings.threads or default_threads()

    @property
    def budget_bytes(self) -> int:
        return self.settings.memory_mb * 1_000_000


def personalize(
    artifact: Artifact,
    source: SampleSource,
    settings: Settings | None = None,
    *,
    parent: int | None = None,
    on_progress: OnProgress = lambda _step, _share: None,
) -> Outcome:
    """Personalise a network to a stream of unlabelled samples.

    The dense network is the teacher throughout: it is watched once; its normalisation is moved to the
    user where that helps; it is pruned and repaired layer after layer against itself; the class
    prior is read off its own predictions; and the outcome is compared with it on samples that
    took no part.

    Args:
        artifact: the exported model.
        source: the samples, preprocessed: float32 without a batch axis.
        settings: how; None for the defaults.
        parent: the generation of the profile that this one follows, for the record.
        on_progress: called with the name of a step and the share of it that is done.

    Returns:
        The profile and a report. Nothing is stored.

    Raises:
        NotEnoughSamples: fewer than ten usable samples.
        InputError: a sample does not fit the model.
        GuardRefused: the outcome agrees too little with the dense network.
    """
    started = time.perf_counter()
    settings = settings or Settings()
    state = _begin(artifact, source, settings, on_progress)
    seen = _watch(state)
    _normalize(state, seen)
    pruned = _prune(state, seen)
    classes = _learn_classes(state, pruned)
    profile = _taught(state, pruned, classes, "student", parent)
    guard = _guard(state, profile, classes)
    report = Report(
        samples_seen=len(source),
        samples_adapted=len(state.adapt),
        samples_held_out=guard.samples,
        strength=settings.strength,
        normalization=state.normalization,
        effective_classes=None if classes is None else _effective(classes.prior),
        guard=guard,
        sparsity=sparsity(artifact, pruned.masks),
        seconds=time.perf_counter() - started,
    )
    _refuse_if_harmful(settings, guard)
    return Outcome(replace(profile, report=report.to_dict()), report)


def _begin(
    artifact: Artifact, source: SampleSource, settings: Settings, on_progress: OnProgress
) -> _State:
    total = len(source)
    count = min(total, settings.max_samples)
    chosen = np.linspace(0, total - 1, count).astype(int).tolist() if count else []
    every = round(1 / settings.holdout)
    held = [index for place, index in enumerate(chosen) if place % every == every - 1]
    adapt = [index for place, index in enumerate(chosen) if place % every != every - 1]
    shape = artifact.info.input_shape
    state = _State(
        artifact,
        Graph(artifact),
        settings,
        Batches(source, adapt, _BATCH, shape),
        Batches(source, held, _BATCH, shape),
        dict(artifact.tensors) | dict(artifact.neutral_masks),
        on_progress,
    )
    _need(count, total)
    return state


def _need(usable: int, total: int) -> None:
    if usable < _FEWEST:
        raise NotEnoughSamples(
            f"{usable} of {total} samples are usable; personalisation needs at least {_FEWEST}. "
            "Nothing was changed. Give it more of what this user sees or says."
        )


def _watch(state: _State) -> Watched:
    done = 0

    def on_samples(count: int) -> None:
        nonlocal done
        done += count
        state.on_progress("watching", done / max(len(state.adapt), 1))

    seen = watch(
        state.graph, state.adapt, state.teacher, threads=state.threads, on_samples=on_samples
    )
    _need(seen.samples, len(state.adapt))
    return seen


def _logits(state: _State, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """The network's outputs as logits, whatever it ends with."""
    if state.artifact.info.output_kind == "logits":
        return outputs
    return np.log(np.maximum(outputs, 1e-30))


def _information(logits: NDArray[np.float32]) -> float:
    """Mutual information of sample and prediction in nats: sure of each, and not always the same."""
    logp = log_softmax(logits)
    p = np.exp(logp)
    mean = p.mean(0)
    return float(-(mean * np.log(mean + 1e-30)).sum() + (p * logp).sum(1).mean())


def _normalize(state: _State, seen: Watched) -> None:
    """Move the teacher's normalisation to the user, where the label-free comparison says so."""
    info = state.artifact.info
    if state.settings.normalization == "off" or not any(o.reference for o in info.operators):
        return
    before = _logits(state, np.concatenate(seen.outputs))
    prior = estimate_prior(before)
    if state.settings.normalization == "auto" and _effective(prior) < _BALANCED * len(prior):
        return
    operators = sum(1 for o in info.operators if o.reference is not None)
    done = 0

    def on_layer(_: str) -> None:
        nonlocal done
        done += 1
        state.on_progress("normalising", done / operators)

    changed, outputs = renormalize(
        state.graph,
        state.adapt,
        state.teacher,
        _BLEND,
        budget_bytes=state.budget_bytes,
        threads=state.threads,
        on_layer=on_layer,
    )
    after = _logits(state, np.concatenate(outputs))
    if state.settings.normalization == "auto" and _information(after) <= _information(before):
        return
    state.normalization = _BLEND
    state.normalized = changed
    state.teacher |= changed


def _effective(prior: NDArray[np.floating]) -> float:
    """How many classes a prior amounts to: the exponential of its entropy."""
    wide = np.asarray(prior, np.float64)
    return float(np.exp(-(wide * np.log(wide + 1e-30)).sum()))


def _prune(state: _State, seen: Watched) -> Pruned:
    settings = state.settings
    groups = groups_in_scope(state.artifact, settings.scope)
    keep = keep_counts(groups, settings.sparsity, settings.channel_multiple)
    keep = {g.name: keep[g.name] for g in groups if keep[g.name] < g.units}
    how = PruneSettings(
        criterion=settings.criterion,
        ridge=settings.ridge,
        rows_per_sample=_ROWS_PER_SAMPLE,
        budget_bytes=state.budget_bytes,
        threads=state.threads,
        seed=settings.seed,
    )
    masks = choose_masks(state.graph, seen.statistics, keep, how)
    done = 0

    def on_layer(_: str) -> None:
        nonlocal done
        done += 1
        state.on_progress("pruning and repairing", done / max(len(keep), 1))

    if settings.strength == "deep":
        return prune_deep(state.graph, state.adapt, state.teacher, keep, masks, how, on_layer)
    return prune_light(state.graph, state.adapt, state.teacher, masks, how, on_layer)


def _learn_classes(state: _State, pruned: Pruned) -> _Classes | None:
    """Read off the teacher which classes the user meets, and what to teach the head."""
    info, settings = state.artifact.info, state.settings
    if settings.prior == "off" or info.head is None:
        return None
    logits = _logits(state, pruned.outputs)
    if settings.prior == "em":
        return _Classes(estimate_prior(logits), {})
    labels = propagate(logits, _flat(pruned.features["teacher"]))
    heads = {}
    if settings.strength == "deep" and info.operator_by_name[info.head].op == "Gemm":
        heads = {track: fit_head(values, labels) for track, values in pruned.features.items()}
    return _Classes(labels.mean(0), heads)


def _flat(features: FloatArray) -> FloatArray:
    return features.reshape(len(features), -1)


def _taught(
    state: _State, pruned: Pruned, classes: _Classes | None, track: str, parent: int | None
) -> Profile:
    """The profile of one network, with what was learnt about the classes put into its head."""
    info = state.artifact.info
    gains = _by_operator(state, "gain") | pruned.gains
    shifts = _by_operator(state, "shift") | pruned.shifts
    weights = dict(pruned.weights)
    if classes is not None and info.head is not None:
        head = info.operator_by_name[info.head]
        shift = shifts.get(head.name, np.zeros(head.out_channels, np.float32))
        shift = shift + prior_shift(classes.prior, _PRIOR_FLOOR)
        if track in classes.heads:
            update = classes.heads[track]
            weights[head.name] = _head_weight(state, pruned, head, gains, update)
            shift = shift + update.bias
        shifts[head.name] = shift.astype(np.float32)
    return Profile(
        model_id=info.model_id,
        masks=pruned.masks,
        gains=gains,
        shifts=shifts,
        weights=weights,
        prior=None if classes is None else classes.prior.astype(np.float32),
        strength=state.settings.strength,
        created=datetime.now(UTC),
        parent=parent,
    )


def _by_operator(state: _State, kind: Literal["gain", "shift"]) -> dict[str, FloatArray]:
    names = {getattr(o, kind): o.name for o in state.artifact.info.operators}
    return {names[tensor]: v for tensor, v in state.normalized.items() if tensor in names}


def _head_weight(
    state: _State,
    pruned: Pruned,
    head: Operator,
    gains: Mapping[str, FloatArray],
    update: HeadUpdate,
) -> FloatArray:
    kept = kept_inputs(state.artifact, head, pruned.masks)
    current = pruned.weights.get(head.name)
    if current is None:
        current = kept_weight(state.artifact, head, pruned.masks, state.teacher[head.weight])
    gain = gains.get(head.name, np.ones(head.out_channels, np.float32)).astype(np.float64)
    added = update.weight[:, kept] / gain[:, None]
    return (current + (added if head.out_axis == 0 else added.T)).astype(np.float32)


def _guard(state: _State, profile: Profile, classes: _Classes | None) -> GuardReport:
    """Compare with the teacher taught the same way, so that only the pruning is judged."""
    reference = _taught(state, Pruned(), classes, "teacher", None)
    sessions = [Session(state.artifact, p, threads=state.threads) for p in (reference, profile)]
    outputs = [[session.run(batch) for session in sessions] for batch in state.held_out]
    dense, personalized = (np.concatenate(part) for part in zip(*outputs, strict=True))
    return compare_outputs(_logits(state, dense), _logits(state, personalized))


def _refuse_if_harmful(settings: Settings, guard: GuardReport) -> None:
    if guard.agreement < settings.min_agreement:
        raise GuardRefused(
            f"the personalised network agrees with the dense one on only {guard.agreement:.0%} of "
            f"{guard.samples} held-out samples (limit {settings.min_agreement:.0%}). Nothing was "
            "changed. Ask for less sparsity, or give it more samples."
        )
