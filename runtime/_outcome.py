"""The profile of what a personalisation changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ._external import FloatArray
from ._prune import Pruned
from ._state import Classes, State
from .artifact import Operator
from .prior import prior_shift
from .profile import Profile, kept_inputs, kept_weight
from .teach import HeadUpdate

__all__ = ["made_profile", "taught_logits"]


def made_profile(
    state: State, pruned: Pruned, classes: Classes | None, parent: int | None
) -> Profile:
    """Everything that changed, with what was learnt about the classes put into the head."""
    info = state.artifact.info
    gains = _by_operator(state, "gain") | pruned.gains
    shifts = _by_operator(state, "shift") | pruned.shifts
    weights = dict(pruned.weights)
    if classes is not None and info.head is not None:
        head = info.operator_by_name[info.head]
        shift = prior_shift(classes.prior, classes.floor).astype(np.float64) - classes.bias
        if head.name in shifts:
            shift += shifts[head.name]
        if classes.head is not None and pruned.head_moments is None:
            weights[head.name], added = _taught_head(state, pruned, head, gains, classes.head)
            shift += added
        shifts[head.name] = shift.astype(np.float32)
    return Profile(
        model_id=info.model_id,
        masks=pruned.masks,
        gains=gains,
        shifts=shifts,
        weights=weights,
        weight_masks=_weight_masks(state, pruned, weights),
        prior=None if classes is None else classes.prior.astype(np.float32),
        strength=state.settings.strength,
        parent=parent,
    )


def taught_logits(
    classes: Classes | None,
    logits: NDArray[np.floating],
    features: NDArray[np.floating] | None,
) -> NDArray[np.floating]:
    """What the teacher says with what `made_profile` puts into its head, without running it.

    Args:
        classes: what was learnt.
        logits: the teacher's, ``(samples, classes)``; each sample's may be off by a constant.
        features: what its head read of the same samples, ``(samples, …)``.
    """
    if classes is None or features is None:
        return logits
    taught = logits + prior_shift(classes.prior, classes.floor).astype(np.float64) - classes.bias
    if classes.head is not None:
        flat = features.reshape(len(features), -1).astype(np.float32)
        taught += flat @ classes.head.weight.T + classes.head.bias
    return np.asarray(taught)


def _weight_masks(
    state: State, pruned: Pruned, weights: Mapping[str, FloatArray]
) -> dict[str, NDArray[np.bool_]]:
    """Where single weights are gone, by operator."""
    if state.settings.granularity == "unit":
        return {}
    found = {name: weights[name] != 0 for name in pruned.weights}
    return {name: mask for name, mask in found.items() if not mask.all()}


def _by_operator(state: State, kind: Literal["gain", "shift"]) -> dict[str, FloatArray]:
    names = {getattr(o, kind): o.name for o in state.artifact.info.operators}
    return {names[tensor]: v for tensor, v in state.normalized.items() if tensor in names}


def _taught_head(
    state: State,
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
    added, offset = update.weight, update.bias
    if pruned.head_mixing is not None:
        added = update.weight @ pruned.head_mixing.matrix.astype(np.float32)
        offset = offset + update.weight @ pruned.head_mixing.offset
    elif not kept.all():
        added = update.weight[:, kept]
    gain = gains.get(head.name, np.ones(head.out_channels, np.float32))
    added = added / gain[:, None]
    return (current + (added if head.out_axis == 0 else added.T)).astype(np.float32), offset
