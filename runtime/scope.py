"""Which groups are pruned, and how many units each of them keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .artifact import Artifact, ChannelGroup

__all__ = ["Scope", "groups_in_scope", "keep_counts", "unit_steps"]

Scope = Literal["hidden", "all"]


def groups_in_scope(artifact: Artifact, scope: Scope) -> tuple[ChannelGroup, ...]:
    """The groups that may be pruned.

    ``hidden`` leaves the residual streams and the linear bottlenecks alone: what they carry is
    read by many layers, and nothing in between can stand in for it. Groups that a recurrent
    operator reads or writes are left alone, because no repair is known for them here.
    """
    beyond = {
        name
        for operator in artifact.info.operators
        if operator.recurrent
        for name in (*operator.reads, *operator.writes)
    }
    wanted = artifact.info.prunable if scope == "all" else _hidden(artifact)
    return tuple(group for group in wanted if group.name not in beyond)


def _hidden(artifact: Artifact) -> Sequence[ChannelGroup]:
    return [group for group in artifact.info.prunable if group.kind == "hidden"]


def unit_steps(artifact: Artifact, channel_multiple: int) -> Mapping[str, int]:
    """For each group how many units at a time keep its tensors at a multiple of channels.

    A hidden unit is one channel. An attention head is as many as it is wide: whatever number of
    heads stays, their channels are a multiple of that width.
    """
    spans = {group.name: 0 for group in artifact.info.groups}
    for operator in artifact.info.operators:
        if operator.reads:
            _narrow(artifact, spans, operator.reads, artifact.mask_index(operator))
        if operator.writes:
            index = operator.write_index or range(operator.out_channels)
            _narrow(artifact, spans, operator.writes, np.asarray(index))
    return {name: channel_multiple // gcd(channel_multiple, n or 1) for name, n in spans.items()}


def _narrow(
    artifact: Artifact, spans: dict[str, int], names: tuple[str, ...], index: NDArray[np.int64]
) -> None:
    """Lower the spans of these groups to what divides the channels that each unit has here."""
    start = 0
    for name in names:
        units = artifact.info.group_by_name[name].units
        channels = np.bincount(index[(index >= start) & (index < start + units)] - start)
        spans[name] = gcd(spans[name], *channels.tolist())
        start += units


def keep_counts(
    groups: tuple[ChannelGroup, ...], sparsity: float, steps: int | Mapping[str, int]
) -> Mapping[str, int]:
    """How many units each group keeps: the same share everywhere, in whole steps for the board.

    `steps` are those of `unit_steps`, or one for all. Groups that keep all of their units are left
    out.
    """
    counts: dict[str, int] = {}
    for group in groups:
        step = min(steps if isinstance(steps, int) else steps[group.name], group.units)
        wanted = round(group.units * (1.0 - sparsity) / step) * step
        counts[group.name] = int(np.clip(wanted, step, group.units))
    return {group.name: counts[group.name] for group in groups if counts[group.name] < group.units}
