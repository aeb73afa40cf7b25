"""Personalisation: from a stream of unlabelled samples to a profile, by forward passes only."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ._allocate import allocated, curve_moments, estimated_speed, judged
from ._external import FloatArray
from ._graph import Graph
from ._light import prune_at_once
from ._light_walk import operators_reading, prune_light
from ._ort import give_back, run
from ._outcome import made_profile, taught_logits
from ._plan import (
    Site,
    channel_axis,
    find_sites,
    groups_in_scope,
    keep_counts,
    read_at_one_site,
    sites_reading,
    unit_steps,
)
from ._prune import Pruned, PruneJob, best_units, prune_deep, prune_masks
from ._prune_weights import prune_head_weights, prune_weights, weight_shares, weight_steps
from ._state import Classes, OnProgress, State
from ._stream import Batches, SampleSource
from ._targets import TARGETS_SHARE, Taker, Targets, targets_of
from ._watch import ROWS_PER_SAMPLE, Watched, watch
from ._weight_damage import weight_harm
from .artifact import Artifact
from .calibrate import usable_bias
from .costs import DEFAULT_RATES, Rates
from .errors import GuardRefused, NotEnoughSamples
from .guard import GuardReport, distinctness, dominance, judge, too_dominated, too_uniform
from .normalize import renormalize
from .persistence import links_in_time
from .prior import (
    ClassHistory,
    confidence,
    effective_classes,
    estimate_prior,
    information,
    share_of_the_unseen,
)
from .profile import Profile
from .scoring import unit_scores
from .settings import Outcome, Report, Settings, Tried
from .sparse import shares_by_harm
from .teach import fit_head, propagate

__all__ = ["Outcome", "Report", "Settings", "personalize"]

_LARGEST_BATCH = 8
_STEP_BYTES = 8_000_000  # of one node's tensors: larger batches gain nothing on a CPU
_FEWEST = 10
_LIGHT_HELD_OUT = 32  # samples, at most: each is run twice, and `light` is to be light
_MOST_LEARNT = 800  # samples that classes are learnt from: memory grows by their square
_MOST_HELD_OUT = 500
_LIGHT_BYTES = 20_000_000  # kept between layers: more saves little time, and light is to be light
_ALIKE = 1e-4
_BALANCED = 0.3  # share of the classes that a user must meet before normalisation may be moved
_MORE_DOUBT = 0.07  # on three development speakers; on the other three fewer were harmed as well
_MEETS_ALL = 0.8  # above this share the prior's deviations from uniform are estimation noise
_MORE_SAMPLES = "Give it more, and more varied, samples of what this user sees or says."
_BALANCE = 2.0  # for users who meet all classes; on skewed development streams it did no harm


@dataclass(frozen=True)
class _Made:
    """An outcome before it is allowed."""

    profile: Profile
    guard: GuardReport


def personalize(
    artifact: Artifact,
    source: SampleSource,
    settings: Settings | None = None,
    *,
    parent: int | None = None,
    earlier: ClassHistory | None = None,
    rates: Rates = DEFAULT_RATES,
    on_progress: OnProgress = lambda _step, _share: None,
) -> Outcome:
    """Personalise a network to a stream of unlabelled samples.

    The dense network is the teacher throughout: it is watched once; its normalisation is moved to
    the user where that helps; it is pruned and repaired layer after layer against itself; which
    classes the user meets is read off its own predictions; and the outcome is compared with it
    on samples that took no part. Without a sparsity in the settings the highest one that this
    comparison allows is taken.

    Args:
        artifact: the exported model.
        source: the samples, preprocessed: float32 without a batch axis.
        settings: how; None for the defaults.
        parent: the generation of the profile that this one follows, for the record.
        earlier: which classes the user met before, to be remembered with a fading weight.
        rates: how fast this processor is, for what the time of a unit is worth.
        on_progress: called with the name of a step and the share of it that is done.

    Returns:
        The profile and a report. Nothing is stored.

    Raises:
        NotEnoughSamples: fewer than ten usable samples.
        InputError: a sample does not fit the model, or the model is no classifier of one input.
        GuardRefused: the user would probably lose by it, at every sparsity that was to be tried.
    """
    started = time.perf_counter()
    artifact.info.require_classifier("personalising")
    state = _begin(artifact, source, settings or Settings(), on_progress)
    state.rates = rates
    seen = _watch(state)
    give_back(artifact.tensors.values())
    state.stream = state.logits(seen.outputs)
    state.dense_on_held_out = state.logits(seen.held_outputs)
    _need_information(state)
    state.scores = unit_scores(
        state.graph, seen.statistics, state.settings.criterion, state.settings.seed
    )
    give_back(artifact.tensors.values())
    if _normalize(state, seen):
        seen = _watch_again(state)
    state.classes = _remember(earlier, _learn_classes(state, seen), len(state.adapt))
    made, tried = _as_far_as_allowed(state, seen, parent)
    report = Report(
        samples_seen=len(source),
        samples_adapted=len(state.adapt),
        samples_held_out=made.guard.samples,
        strength=state.settings.strength,
        normalization=state.normalization,
        effective_classes=None
        if made.profile.prior is None
        else effective_classes(made.profile.prior),
        guard=made.guard,
        sparsity=made.profile.sparsity(artifact),
        seconds=time.perf_counter() - started,
        tried=tried,
        speed=None if state.settings.faster is None else estimated_speed(state, made.profile.masks),
    )
    return Outcome(replace(made.profile, report=report.to_dict()), report)


def _as_far_as_allowed(
    state: State, seen: Watched, parent: int | None
) -> tuple[_Made, tuple[Tried, ...]]:
    """The first of the sparsities to try that the guard allows, and what became of them all.

    What the stream was watched for, the teacher, the allocation's curves and what was learnt of
    the classes are the same for all of them.

    Raises:
        GuardRefused: it allows none.
    """
    tried: list[Tried] = []
    for share in state.settings.sparsities:
        made = _made(state, seen, share, parent)
        why_not = state.settings.objection_to(made.guard, share)
        tried.append(Tried(share, made.guard.score, made.guard.agreement, why_not is None))
        if why_not is None:
            return made, tuple(tried)
    raise GuardRefused(_refusal(tried, why_not or ""))


def _refusal(tried: Sequence[Tried], why_not: str) -> str:
    if len(tried) == 1:
        hint = "Ask for less sparsity, or give it more samples."
    else:
        shares = ", ".join(f"{one.sparsity:g}" for one in tried)
        hint = f"Sparsities tried: {shares}. {_MORE_SAMPLES}"
    return f"{why_not} Nothing was changed. {hint}"


def _made(state: State, seen: Watched, share: float, parent: int | None) -> _Made:
    if state.settings.granularity == "weight":
        pruned = _prune_weights(state, share)
    else:
        pruned = _prune(state, seen, share)
    profile = made_profile(state, pruned, state.classes, parent)
    return _Made(profile, _guard(state, seen, pruned, profile))


def _begin(
    artifact: Artifact, source: SampleSource, settings: Settings, on_progress: OnProgress
) -> State:
    total = len(source)
    _need(total, total)
    count = min(total, settings.max_samples)
    chosen = np.linspace(0, total - 1, count).astype(int).tolist()
    every = max(round(1 / settings.holdout), -(-count // _MOST_HELD_OUT))
    if settings.strength == "light":
        every = max(every, -(-count // _LIGHT_HELD_OUT))
    held = chosen[every - 1 :: every]
    adapt = [index for place, index in enumerate(chosen) if place % every != every - 1]
    shape = artifact.info.input_shape
    graph = Graph(artifact)
    batch = int(np.clip(_STEP_BYTES // max(graph.largest_step_bytes(), 1), 1, _LARGEST_BATCH))
    samples = Batches(source, chosen, batch, shape)
    return State(
        artifact,
        graph,
        settings,
        samples.subset(adapt),
        samples.subset(held),
        on_progress,
        dict(artifact.tensors) | dict(artifact.neutral_masks),
    )


def _need(usable: int, total: int) -> None:
    if usable < _FEWEST:
        raise NotEnoughSamples(
            f"{usable} of {total} samples are usable; personalisation needs at least {_FEWEST}. "
            "Nothing was changed. Give it more of what this user sees or says."
        )


def _watch(state: State) -> Watched:
    total = len(state.adapt) + len(state.held_out)
    count = state.counter("watching", total)
    seen = watch(
        state.graph,
        state.adapt,
        state.teacher,
        threads=state.threads,
        sites=_sites_to_watch(state),
        means=state.settings.criterion == "activation" or _in_one_pass(state.settings),
        noted=_tensors_to_note(state),
        takers=_takers(state),
        held_out=state.held_out,
        most_kept=_MOST_LEARNT,
        on_samples=count,
    )
    held = len(seen.held_outputs)
    _need(seen.samples + held if seen.samples and held else 0, total)
    _need_variety(seen.outputs)
    return seen


def _watch_again(state: State) -> Watched:
    """What the teacher says now that its normalisation was moved."""
    in_one_pass = _in_one_pass(state.settings)
    return watch(
        state.graph,
        state.adapt,
        state.teacher,
        threads=state.threads,
        sites=sites_reading(state.graph, state.may_lose) if in_one_pass else (),
        noted=_tensors_to_note(state),
        takers=_takers(state),
        held_out=state.held_out,
        most_kept=_MOST_LEARNT,
    )


def _takers(state: State) -> list[Taker]:
    """What deep repair takes from the pass: what to imitate, and what allocation weighs."""
    settings, groups = state.settings, state.may_lose
    if settings.strength != "deep" or not settings.repair or not groups:
        return []
    samples = len(state.adapt)
    wanted = targets_of(state.graph, groups, samples)
    state.targets = Targets(state.graph, wanted, samples, int(state.budget_bytes * TARGETS_SHARE))
    if settings.allocation != "damage":
        return [state.targets]
    state.curve_moments = curve_moments(state, groups)
    return [state.targets, state.curve_moments]


def _tensors_to_note(state: State) -> dict[str, int]:
    """What light repair has to know of the teacher: tensors and their channel axes."""
    settings = state.settings
    if settings.strength != "light" or not settings.repair or _in_one_pass(settings):
        return {}
    readers = operators_reading(state.artifact.info, state.may_lose)
    return {operator.output: channel_axis(operator) for operator in readers}


def _in_one_pass(settings: Settings) -> bool:
    light = settings.strength == "light" and settings.repair
    return light and settings.light_repair == "one_pass"


def _sites_to_watch(state: State) -> list[Site]:
    """Those whose units are scored, or repaired, by what the statistics pass sees."""
    settings, groups = state.settings, set(state.may_lose)
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


def _need_information(state: State) -> None:
    """Refuse a stream that the guard would refuse whatever is made of it, before the work."""
    stream = state.stream
    alike = too_uniform(distinctness(stream), stream.shape[1])
    why_not = alike or too_dominated(dominance(stream))
    if state.settings.min_agreement is None and why_not is not None:
        raise GuardRefused(f"{why_not} Nothing was changed. {_MORE_SAMPLES}")


def _normalize(state: State, seen: Watched) -> bool:
    """Move the teacher's normalisation to the user, where the label-free comparison says so.

    Returns whether it did; what was seen of the teacher is out of date then.

    On a stream of few classes a re-estimate would take away what tells the classes apart, so it is
    not even tried. Elsewhere it stays if predictions tell more.
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
    if choice == "auto" and not _tells_more(state.logits(outputs), before):
        return False
    state.normalization = 1.0
    state.normalized = changed
    state.teacher |= changed
    return True


def _tells_more(after: NDArray[np.floating], before: NDArray[np.floating]) -> bool:
    """Whether the mutual information of sample and prediction grew, and not by variety alone.

    A stream of three words that is spread over eight has more of it; but the network is no longer
    sure of any.
    """
    doubt = confidence(before) - confidence(after)
    return information(after) > information(before) and doubt <= _MORE_DOUBT


def _prune(state: State, seen: Watched, share: float) -> Pruned:
    settings = state.settings
    groups = groups_in_scope(state.artifact, settings.scope)
    keep = keep_counts(groups, share, unit_steps(state.artifact, settings.channel_multiple))
    if settings.allocation == "damage" and settings.repair and settings.strength == "deep":
        keep = allocated(state, seen, keep, share)
    count = state.counter("pruning and repairing", len(keep))
    job = PruneJob(
        state.graph,
        state.adapt,
        state.teacher,
        keep,
        {name: best_units(state.scores[name], units) for name, units in keep.items()},
        choose_here=settings.criterion == "repair_aware",
        judged=judged(state),
        ridge=settings.ridge,
        budget_bytes=state.budget_bytes,
        threads=state.threads,
        on_layer=lambda: count(1),
        targets=state.targets,
    )
    if not settings.repair:
        return prune_masks(job)
    if settings.strength == "deep":
        pruned = prune_deep(job)
        give_back(state.artifact.tensors.values())
        return pruned
    if _in_one_pass(settings):
        return prune_at_once(job, seen.statistics)
    looked_into = replace(
        job,
        batches=state.adapt.subset([*seen.looked_into, *state.held_out.indices]),
        budget_bytes=min(job.budget_bytes, _LIGHT_BYTES),
    )
    return prune_light(looked_into, seen.said, ROWS_PER_SAMPLE)


def _prune_weights(state: State, share: float) -> Pruned:
    """Prune single weights of all operators, of the head with what it is taught."""
    if not share:
        return Pruned()
    known = state.classes
    update, prior = (None, None) if known is None else (known.head, known.prior)
    shares = weight_shares(state.graph, share, prior)
    if state.settings.allocation == "damage":
        if state.harm is None:
            state.harm = weight_harm(state)
        shares = shares_by_harm(shares, state.harm)
    count = state.counter("pruning and repairing", weight_steps(state.graph))
    job = PruneJob(
        state.graph,
        state.adapt,
        state.teacher,
        keep={},
        masks={},
        choose_here=False,
        judged=judged(state),
        ridge=state.settings.ridge,
        budget_bytes=state.budget_bytes,
        threads=state.threads,
        on_layer=lambda: count(1),
    )
    pruned = prune_weights(job, shares)
    prune_head_weights(job, pruned, shares, update, prior)
    return pruned


def _learn_classes(state: State, seen: Watched) -> Classes | None:
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
        return Classes(_plausible(estimate_prior(logits)), bias, None)
    links = links_in_time(logits) if settings.order == "auto" else None
    labels = propagate(logits, features, links=links)
    if _meets_all(labels.mean(0)):
        labels = propagate(logits, features, balance=_BALANCE, links=links)
    taught = settings.strength == "deep" and info.operator_by_name[info.head].op == "Gemm"
    head = fit_head(features, labels) if taught else None
    return Classes(_plausible(labels.mean(0)), bias, head, share_of_the_unseen(labels))


def _remember(
    earlier: ClassHistory | None, classes: Classes | None, samples: int
) -> Classes | None:
    """Blend in what was met before, unless the user meets nearly all classes anyway."""
    if earlier is None or classes is None or _meets_all(classes.prior):
        return classes
    return replace(classes, prior=earlier.blend(classes.prior, samples))


def _plausible(prior: NDArray[np.float64]) -> NDArray[np.float64]:
    """A prior, or the uniform one where the user meets nearly all classes."""
    return np.full(len(prior), 1.0 / len(prior)) if _meets_all(prior) else prior


def _meets_all(prior: NDArray[np.float64]) -> bool:
    return effective_classes(prior) >= _MEETS_ALL * len(prior)


def _guard(state: State, seen: Watched, pruned: Pruned, profile: Profile) -> GuardReport:
    """Compare with the dense network, and with it taught the same way: what harms is told apart.

    What these two say of the held-out samples was seen by the statistics pass.
    """
    teacher = state.logits(seen.held_outputs)
    taught = taught_logits(state.classes, teacher, seen.held_features)
    if pruned.answers is not None:
        answers = state.logits(pruned.answers[-len(teacher) :])
        outputs = taught_logits(state.classes, answers, seen.held_features)
    else:
        changed = pruned.masks or pruned.weights
        outputs = _outputs_on_held_out(state, profile) if changed else taught
    return judge(state.dense_on_held_out, taught, outputs, state.stream)


def _outputs_on_held_out(state: State, profile: Profile) -> NDArray[np.floating]:
    """Logits on the held-out samples."""
    count = state.counter("checking", len(state.held_out))
    graph = state.graph
    tensors = dict(state.artifact.tensors) | dict(state.artifact.neutral_masks)
    tensors |= profile.tensors(state.artifact)
    ends = [graph.input], [graph.output]
    session = graph.session(*ends, tensors, state.threads, masks=profile.masks)
    outputs = []
    for batch in state.held_out:
        outputs.append(state.logits(run(session, [graph.output], {graph.input: batch})[0]))
        count(len(batch))
    return np.concatenate(outputs)
