"""What the answers suffer where single weights of one operator go.

The branch of a residual block adds little to what passes it by; what nothing passes by, such as
the convolutions where the resolution changes, decides much more. So every operator but the head is
pruned and repaired alone, once, at one share, and how far the logits move is taken, as for units
(`_output_damage`). How the damage grows with the share is taken from the weights themselves: by
``w² · var(x)``, Wanda's score squared (Sun et al. 2024, arXiv 2306.11695).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ._allocate import judging_places, some
from ._outcome import made_profile
from ._output_damage import Probe, output_damage
from ._plan import Site, channel_axis
from ._prune import Pruned
from ._prune_weights import fitted_weights, prunable_operators
from ._state import State
from ._walk import LayerWalk
from .artifact import Operator
from .repair import weight_matrix
from .sparse import Harm
from .statistics import CrossMoments, rows
from .teach import class_importance

__all__ = ["weight_harm"]

_SAMPLES = 48
_SHARE = 0.7  # that every operator loses in its turn
_ROWS_PER_SAMPLE = 64
_DENSE = "dense"

Float64 = NDArray[np.float64]


def weight_harm(state: State) -> dict[str, Harm]:
    """How much the loss of weights costs the answers, by operator; the head is left out."""
    adapt, classes = state.adapt, state.classes
    taught = made_profile(state, Pruned(), classes, None).tensors(state.artifact)
    pruned = list(_each_alone(state))
    damage = output_damage(
        state.graph,
        adapt.subset([adapt.indices[place] for place in judging_places(adapt)]),
        state.teacher | dict(taught),
        [probe for probe, _ in pruned],
        importance=None if classes is None else class_importance(classes.prior),
        budget_bytes=state.budget_bytes,
        threads=state.threads,
    )
    return {
        probe.site.operators[0].name: Harm.of(scores, _SHARE, found)
        for (probe, scores), found in zip(pruned, damage, strict=True)
    }


def _each_alone(state: State) -> Iterator[tuple[Probe, Float64]]:
    """Every operator but the head, pruned in the dense network, and the scores of its weights."""
    walk = LayerWalk(
        state.graph,
        some(state.adapt, _SAMPLES),
        {_DENSE: state.teacher},
        fixed=(_DENSE,),
        budget_bytes=state.budget_bytes,
        threads=state.threads,
    )
    for operator in prunable_operators(state.graph):
        if operator.name == state.artifact.info.head:
            continue
        walk.advance(state.graph.consumed_at(operator))
        moments = CrossMoments(operator.in_channels)
        for seen in walk.observe(operator.input):
            moments.update(rows(seen[_DENSE], channel_axis(operator), _ROWS_PER_SAMPLE))
        yield _probe(state, operator, moments), _scores(state, operator, moments)


def _probe(state: State, operator: Operator, moments: CrossMoments) -> Probe:
    ridge = state.settings.ridge
    weight, shift = fitted_weights(state.teacher, operator, moments, _SHARE, ridge)
    units = np.arange(operator.in_channels)
    site = Site(operator.input, (operator,), (), units, channel_axis(operator))
    return Probe(site, 0.0, {operator.weight: weight, operator.shift: shift})


def _scores(state: State, operator: Operator, moments: CrossMoments) -> Float64:
    matrix = weight_matrix(state.teacher[operator.weight], operator)
    variance = np.diag(moments.xx)
    return np.asarray(matrix**2 * variance[None, :, None], np.float64)
