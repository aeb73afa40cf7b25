"""Which groups are pruned, and how many units each of them keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from .artifact import Artifact, ChannelGroup

__all__ = ["Scope", "groups_in_scope", "keep_counts"]

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


def keep_counts(
    groups: tuple[ChannelGroup, ...], sparsity: float, channel_multiple: int
) -> Mapping[str, int]:
    """How many units each group keeps: the same share everywhere, rounded for the board.

    Groups that keep all of their units are left out.
    """
    counts: dict[str, int] = {}
    for group in groups:
        multiple = min(channel_multiple, group.units)
        wanted = round(group.units * (1.0 - sparsity) / multiple) * multiple
        counts[group.name] = int(np.clip(wanted, multiple, group.units))
    return {group.name: counts[group.name] for group in groups if counts[group.name] < group.units}
