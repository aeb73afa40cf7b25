"""Which groups of a network give up how much, for the user whose samples were watched."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from ._external import FloatArray
from ._ort import give_back
from ._outcome import made_profile
from ._prune import Pruned
from ._state import State
from ._stream import Batches
from ._targets import SiteMoments
from ._watch import Watched
from .allocation import (
    ROWS_FOR_CURVES,
    Answers,
    DamageCurve,
    curve_sites,
    damage_curves,
    spread,
)
from .costs import network_costs
from .statistics import CrossMoments, rows
from .teach import class_importance, weighed_head

__all__ = ["allocated", "curve_moments", "estimated_speed", "judged", "judging_places", "some"]

_SAMPLES = 64
_ANSWERS = 8  # samples on which every group is pruned by itself


def allocated(
    state: State, seen: Watched, keep: Mapping[str, int], share: float
) -> Mapping[str, int]:
    """Units to keep where the damage is weighed against time; on average the share, unrounded."""
    settings = state.settings
    if state.curves is None:
        state.curves = _measured_curves(state, seen, frozenset(keep))
    known = {name: curve for name, curve in state.curves.items() if name in keep}
    exact = {name: round(curve.units * (1 - share)) for name, curve in known.items()}
    exact |= {name: count for name, count in keep.items() if name not in known}
    costs = network_costs(state.graph, state.rates)
    return spread(known, exact, settings.channel_multiple, costs, settings.faster)


def curve_moments(state: State, groups: Collection[str]) -> SiteMoments:
    """What the curves of `groups` are measured on, to be taken from the pass that watches."""
    sites = curve_sites(state.graph, groups)
    head = _head_input(state)
    others = [site for site in sites if site.tensor != head]
    step = max(1, len(state.adapt) // _SAMPLES)
    return SiteMoments(state.graph, others, step, ROWS_FOR_CURVES)


def _head_input(state: State) -> str | None:
    info = state.artifact.info
    return None if info.head is None else info.operator_by_name[info.head].input


def _measured_curves(
    state: State, seen: Watched, groups: frozenset[str]
) -> Mapping[str, DamageCurve]:
    """Curves of the groups, from a share of the samples; they serve every sparsity.

    What the head reads has few rows, one a sample, but is known of all of them. The samples whose
    answers tell what matters are not among those that it is fitted on.
    """
    adapt, head = state.adapt, _head_input(state)
    places = judging_places(adapt)
    moments = dict(state.curve_moments.settle()) if state.curve_moments else {}
    if head is not None and seen.features is not None:
        others = rows(seen.features[~np.isin(seen.places, places)], -1)
        moments[head] = CrossMoments(others.shape[1], single=True)
        moments[head].update(others)
    state.curve_moments = None
    weighed, info = judged(state), state.artifact.info
    taught = dict(made_profile(state, Pruned(), state.classes, None).tensors(state.artifact))
    if head is not None:  # the same numbers twice
        weight = info.operator_by_name[info.head or ""].weight
        taught |= {weight: weighed[weight]} if weight in taught else {}
    give_back(state.artifact.tensors.values())
    curves = damage_curves(
        state.graph,
        adapt,
        state.teacher,
        groups,
        ridge=state.settings.ridge,
        threads=state.threads,
        judged=weighed,
        moments=moments,
        answers=Answers(
            adapt.subset([adapt.indices[place] for place in places]),
            state.teacher | dict(taught),
            None if state.classes is None else class_importance(state.classes.prior),
            state.budget_bytes,
        ),
    )
    give_back(state.artifact.tensors.values())
    return curves


def judged(state: State) -> dict[str, FloatArray]:
    """The teacher's tensors, with the head as this user will need it."""
    classes, info = state.classes, state.artifact.info
    if classes is None or info.head is None:
        return state.teacher
    operator = info.operator_by_name[info.head]
    return weighed_head(state.teacher, operator, classes.head, classes.prior)


def judging_places(adapt: Batches) -> list[int]:
    """Places of the few samples on whose answers it is seen what matters."""
    return list(range(1, len(adapt), max(1, len(adapt) // _ANSWERS)))[:_ANSWERS]


def some(batches: Batches, count: int) -> Batches:
    """At least `count` of the samples, evenly chosen, if there are so many."""
    return batches.subset(batches.indices[:: max(1, len(batches) // count)])


def estimated_speed(state: State, masks: Mapping[str, NDArray[np.bool_]]) -> float:
    """How many times as fast as the dense network the compacted one should be on this board."""
    costs = network_costs(state.graph, state.rates)
    kept = {name: int(mask.sum()) for name, mask in masks.items() if name in costs.units}
    return costs.total / max(costs.time(kept), 1e-9)
