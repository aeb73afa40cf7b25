"""Personalisation: from a stream of unlabelled samples to a profile, by forward passes only."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ._external import FloatArray
from ._graph import Graph
from ._light import prune_at_once
from ._ort import trim_memory
from ._plan import (
    Site,
    find_sites,
    groups_in_scope,
    keep_counts,
    read_at_one_site,
    sites_reading,
)
from ._prune import Pruned, PruneJob, best_units, prune_deep, prune_light, prune_masks
from ._stream import Batches, SampleSource
from ._watch import Watched, watch
from .allocation import allocate
from .artifact import Artifact, Operator
from .calibrate import usable_bias
from .errors import GuardRefused, NotEnoughSamples
from .guard import GuardReport, compare_outputs
from .normalize import renormalize
from .prior import effective_classes, estimate_prior, information, prior_shift
from .profile import Profile, kept_inputs, kept_weight, sparsity
from .scoring import unit_scores
from .session import Session, default_threads
from .settings import Outcome, Report, Settings
from .teach import HeadUpdate, fit_head, propagate

__all__ = ["Outcome", "Report", "Settings", "personalize"]

OnProgress = Callable[[str, float], None]

_LARGEST_BATCH = 8
_STEP_BYTES = 8_000_000  # of one node's tensors: larger batches gain nothing on a CPU
_FEWEST = 10
_ALLOCATION_SAMPLES = 64
_LIGHT_SAMPLES = 120  # a gain and a shift need no more; on development users twice as many did not
_ALIKE = 1e-4
_PRIOR_FLOOR = 1e-2  # a class that the user has not met keeps a hundredth of a fair share
_BALANCED = 0.3  # share of the classes that a user must meet before normalisation may be moved
_MEETS_ALL = 0.8  # above this share the prior's deviations from uniform are estimation noise
_BALANCE = 2.0  # for users who meet all classes; on skewed development streams it did no harm


@dataclass(frozen=True)
class _Classes:
    """What was learnt about the user's classes: the prior, and an update of the teacher's head.

    ``bias`` is what the stream adds to all logits alike: see `domain_bias`.
    """

    prior: NDArray[np.float64]
    bias: NDArray[np.float64]
    head: HeadUpdate | None


@dataclass
class _State:
    """What one personalisation carries from step to step."""

    artifact: Artifact
    graph: Graph
    settings: Settings
    adapt: Batches
    held_out: Batches
    on_progress: OnProgress
    teacher: dict[str, FloatArray]
    normalization: float = 0.0
    normalized: dict[str, FloatArray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.threads = self.settings.threads or default_threads()
        self.budget_bytes = self.settings.memory_mb * 1_000_000
        groups = groups_in_scope(self.artifact, self.settings.scope)
        self.keep = keep_counts(
            groups, self.settings.target_sparsity, self.settings.channel_multiple
        )

    def counter(self, step: str, total: int) -> Callable[[int], None]:
        """A callback that counts towards `total` and reports the share of `step` that is done."""
        done = 0

        def count(more: int = 1) -> None:
            nonlocal done
            done += more
            self.on_progress(step, min(done / max(total, 1), 1.0))

        return count

    def logits(self, outputs: FloatArray) -> FloatArray:
        """The network's outputs as logits, whatever it ends with."""
        if self.artifact.info.output_kind == "logits":
            return outputs
        return np.log(np.maximum(outputs, np.float32(1e-30)))


def personalize(
    artifact: Artifact,
    source: SampleSource,
    settings: Settings | None = None,
    *,
    parent: int | None = None,
    on_progress: OnProgress = lambda _step, _share: None,
) -> Outcome:
    """Personalise a network to a stream of unlabelled samples.

    The dense network is the teacher throughout: it is watched once; its normalisation is moved to
    the user where that helps; it is pruned and repaired layer after layer against itself; which
    classes the user meets is read off its own predictions; and the outcome is compared with it
    on samples that took no part.

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
        InputError: a sample does not fit the model, or the model has several inputs or outputs.
        GuardRefused: the outcome agrees too little with the dense network.
    """
    started = time.perf_counter()
    artifact.info.require_single("personalising")
    state = _begin(artifact, source, settings or Settings(), on_progress)
    seen = _watch(state)
    trim_memory()
    scores = unit_scores(
        state.graph, seen.statistics, state.settings.criterion, state.settings.seed
    )
    if _normalize(state, seen):
        seen = _watch_again(state)
    pruned = _prune(state, scores, seen)
    classes = _learn_classes(state, seen)
    profile = _profile(state, pruned, classes, parent)
    guard = _guard(state, profile, classes)
    report = Report(
        samples_seen=len(source),
        samples_adapted=len(state.adapt),
        samples_held_out=guard.samples,
        strength=state.settings.strength,
        normalization=state.normalization,
        effective_classes=None if classes is None else effective_classes(classes.prior),
        guard=guard,
        sparsity=sparsity(artifact, pruned.masks),
        seconds=time.perf_counter() - started,
    )
    _refuse_if_harmful(state.settings, guard)
    return Outcome(replace(profile, report=report.to_dict()), report)


def _begin(
    artifact: Artifact, source: SampleSource, settings: Settings, on_progress: OnProgress
) -> _State:
    total = len(source)
    _need(total, total)
    count = min(total, settings.max_samples)
    chosen = np.linspace(0, total - 1, count).astype(int).tolist()
    every = round(1 / settings.holdout)
    held = chosen[every - 1 :: every]
    adapt = [index for place, index in enumerate(chosen) if place % every != every - 1]
    shape = artifact.info.input_shape
    graph = Graph(artifact)
    batch = int(np.clip(_STEP_BYTES // max(graph.largest_step_bytes(), 1), 1, _LARGEST_BATCH))
    return _State(
        artifact,
        graph,
        settings,
        Batches(source, adapt, batch, shape),
        Batches(source, held, batch, shape),
        on_progress,
        dict(artifact.tensors) | dict(artifact.neutral_masks),
    )


def _need(usable: int, total: int) -> None:
    if usable < _FEWEST:
        raise NotEnoughSamples(
            f"{usable} of {total} samples are usable; personalisation needs at least {_FEWEST}. "
            "Nothing was changed. Give it more of what this user sees or says."
        )


def _watch(state: _State) -> Watched:
    count = state.counter("watching", len(state.adapt))
    total = len(state.adapt) + len(state.held_out)
    seen = watch(
        state.graph,
        state.adapt,
        state.teacher,
        threads=state.threads,
        sites=_sites_to_watch(state),
        means=state.settings.criterion == "activation" or _in_one_pass(state.settings),
        on_samples=count,
    )
    held = sum(len(batch) for batch in state.held_out)  # read now: an unusable one must not count
    _need(seen.samples + held if seen.samples else 0, total)
    _need_variety(seen.outputs)
    return seen


def _watch_again(state: _State) -> Watched:
    """What the teacher says now that its normalisation was moved."""
    in_one_pass = _in_one_pass(state.settings)
    return watch(
        state.graph,
        state.adapt,
        state.teacher,
        threads=state.threads,
        sites=sites_reading(state.graph, state.keep) if in_one_pass else (),
    )


def _in_one_pass(settings: Settings) -> bool:
    light = settings.strength == "light" and settings.repair
    return light and settings.light_repair == "one_pass"


def _sites_to_watch(state: _State) -> list[Site]:
    """Those whose units are scored, or repaired, by what the statistics pass sees."""
    settings, groups = state.settings, set(state.keep)
    if settings.strength == "deep" and settings.repair and settings.criterion == "repair_aware":
        groups -= set(read_at_one_site(find_sites(state.graph)))  # their layer chooses, later
    return sites_reading(state.graph, groups)


def _need_variety(outputs: FloatArray) -> None:
    """Silence or a covered lens teaches nothing, and statistics of it ruin a network."""
    spread = float(np.ptp(outputs, axis=0).max())
    if spread <= _ALIKE * (1.0 + float(np.abs(outputs).max())):
        raise NotEnoughSamples(
            "the samples are all alike: the network says the same of each. Nothing was changed. "
            "Check the microphone or camera, and give it more of what this user sees or says."
        )


def _normalize(state: _State, seen: Watched) -> bool:
    """Move the teacher's normalisation to the user, where the label-free comparison says so.

    Returns whether it did; what was seen of the teacher is out of date then.

    On a stream of few classes a re-estimate would take away what tells the classes apart, so it is
    not even tried. Elsewhere it stays if predictions got surer and more varied: if the mutual
    information of sample and prediction grew.
    """
    choice = state.settings.normalization
    layers = sum(1 for o in state.artifact.info.operators if o.reference is not None)
    if choice == "off" or not layers:
        return False
    before = state.logits(seen.outputs)
    met = effective_classes(estimate_prior(before)) / before.shape[1]
    if choice == "auto" and met < _BALANCED:
        return False
    count = state.counter("normalising", layers)
    changed, outputs = renormalize(
        state.graph,
        state.adapt,
        state.teacher,
        blend=1.0,
        budget_bytes=state.budget_bytes,
        threads=state.threads,
        on_layer=lambda: count(1),
    )
    if choice == "auto" and information(state.logits(outputs)) <= information(before):
        return False
    state.normalization = 1.0
    state.normalized = changed
    state.teacher |= changed
    return True


def _prune(state: _State, scores: Mapping[str, NDArray[np.float64]], seen: Watched) -> Pruned:
    settings = state.settings
    keep = state.keep
    if settings.allocation == "damage" and settings.repair and settings.strength == "deep":
        keep = _allocated(state, keep)
    count = state.counter("pruning and repairing", len(keep))
    job = PruneJob(
        state.graph,
        state.adapt,
        state.teacher,
        keep,
        {name: best_units(scores[name], units) for name, units in keep.items()},
        choose_here=settings.criterion == "repair_aware",
        ridge=settings.ridge,
        budget_bytes=state.budget_bytes,
        threads=state.threads,
        on_layer=lambda: count(1),
    )
    if not settings.repair:
        return prune_masks(job)
    if settings.strength == "deep":
        return prune_deep(job)
    if _in_one_pass(settings):
        return prune_at_once(job, seen.statistics)
    return prune_light(replace(job, batches=_some(state.adapt, _LIGHT_SAMPLES)))


def _allocated(state: _State, keep: Mapping[str, int]) -> Mapping[str, int]:
    return allocate(
        state.graph,
        _some(state.adapt, _ALLOCATION_SAMPLES),
        state.teacher,
        keep,
        multiple=state.settings.channel_multiple,
        ridge=state.settings.ridge,
        threads=state.threads,
    )


def _some(batches: Batches, count: int) -> Batches:
    """At least `count` of the samples, evenly chosen, if there are so many."""
    return batches.subset(batches.indices[:: max(1, len(batches) // count)])


def _learn_classes(state: _State, seen: Watched) -> _Classes | None:
    """Read off the teacher which classes the user meets, and what to teach the head."""
    info, settings = state.artifact.info, state.settings
    if settings.prior == "off" or info.head is None or seen.features is None:
        return None
    features = seen.features.reshape(len(seen.features), -1)
    logits = state.logits(seen.outputs).astype(np.float64)
    bias = np.zeros(logits.shape[1])
    if settings.calibrate and not state.normalization:
        bias = usable_bias(logits, features)  # moved normalisation has taken it off already
    logits -= bias
    if settings.prior == "em":
        return _Classes(_plausible(estimate_prior(logits)), bias, None)
    labels = propagate(logits, features)
    if _meets_all(labels.mean(0)):
        labels = propagate(logits, features, balance=_BALANCE)
    taught = settings.strength == "deep" and info.operator_by_name[info.head].op == "Gemm"
    head = fit_head(features, labels) if taught else None
    return _Classes(_plausible(labels.mean(0)), bias, head)


def _plausible(prior: NDArray[np.float64]) -> NDArray[np.float64]:
    """A prior, or the uniform one where the user meets nearly all classes."""
    return np.full(len(prior), 1.0 / len(prior)) if _meets_all(prior) else prior


def _meets_all(prior: NDArray[np.float64]) -> bool:
    return effective_classes(prior) >= _MEETS_ALL * len(prior)


def _profile(
    state: _State, pruned: Pruned, classes: _Classes | None, parent: int | None
) -> Profile:
    """Everything that changed, with what was learnt about the classes put into the head."""
    info = state.artifact.info
    gains = _by_operator(state, "gain") | pruned.gains
    shifts = _by_operator(state, "shift") | pruned.shifts
    weights = dict(pruned.weights)
    if classes is not None and info.head is not None:
        head = info.operator_by_name[info.head]
        shift = prior_shift(classes.prior, _PRIOR_FLOOR).astype(np.float64) - classes.bias
        if head.name in shifts:
            shift += shifts[head.name]
        if classes.head is not None:
            weights[head.name], added = _taught_head(state, pruned, head, gains, classes.head)
            shift += added
        shifts[head.name] = shift.astype(np.float32)
    return Profile(
        model_id=info.model_id,
        masks=pruned.masks,
        gains=gains,
        shifts=shifts,
        weights=weights,
        prior=None if classes is None else classes.prior.astype(np.float32),
        strength=state.settings.strength,
        parent=parent,
    )


def _by_operator(state: _State, kind: Literal["gain", "shift"]) -> dict[str, FloatArray]:
    names = {getattr(o, kind): o.name for o in state.artifact.info.operators}
    return {names[tensor]: v for tensor, v in state.normalized.items() if tensor in names}


def _taught_head(
    state: _State,
    pruned: Pruned,
    head: Operator,
    gains: Mapping[str, FloatArray],
    update: HeadUpdate,
) -> tuple[FloatArray, NDArray[np.float64]]:
    """The head's taught weight, kept inputs only, and what is to be added to its shift.

    The update was fitted on the dense network's features. The repair's own mixing carries it over
    to the pruned ones: fitted on those directly it learns how the repair over-fitted its samples.
    """
    kept = kept_inputs(state.artifact, head, pruned.masks)
    current = pruned.weights.get(head.name)
    if current is None:
        current = kept_weight(state.artifact, head, pruned.masks, state.teacher[head.weight])
    added: NDArray[np.float64] = update.weight[:, kept]
    offset = update.bias
    if pruned.head_mixing is not None:
        added = update.weight @ pruned.head_mixing.matrix
        offset = offset + update.weight @ pruned.head_mixing.offset
    gain = gains.get(head.name, np.ones(head.out_channels, np.float32)).astype(np.float64)
    added = added / gain[:, None]
    return (current + (added if head.out_axis == 0 else added.T)).astype(np.float32), offset


def _guard(state: _State, profile: Profile, classes: _Classes | None) -> GuardReport:
    """Compare with the teacher taught the same way, so that only the pruning is judged."""
    reference = _profile(state, Pruned(), classes, None)
    count = state.counter("checking", 2 * len(state.held_out))
    dense, personalized = (
        _outputs_on_held_out(state, taught, count) for taught in (reference, profile)
    )
    return compare_outputs(dense, personalized)


def _outputs_on_held_out(
    state: _State, profile: Profile, count: Callable[[int], None]
) -> FloatArray:
    """Logits on the held-out samples; one session at a time, for the memory that each takes."""
    session = Session(state.artifact, profile, threads=state.threads)
    outputs = []
    for batch in state.held_out:
        outputs.append(state.logits(session.run(batch)))
        count(len(batch))
    if not outputs:
        _need(0, len(state.held_out))
    return np.concatenate(outputs)


def _refuse_if_harmful(settings: Settings, guard: GuardReport) -> None:
    if guard.agreement < settings.min_agreement:
        raise GuardRefused(
            f"the personalised network agrees with the dense one on only {guard.agreement:.0%} of "
            f"{guard.samples} held-out samples (limit {settings.min_agreement:.0%}). Nothing was "
            "changed. Ask for less sparsity, or give it more samples."
        )
