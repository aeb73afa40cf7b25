"""Channel groups as data and as a tree that a person can read."""

from __future__ import annotations

import io
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._cli_format import count, percent
from .runtime.artifact import Artifact, ChannelGroup, Operator

if TYPE_CHECKING:
    from rich.tree import Tree

__all__ = ["describe_group", "draw_groups"]

_ROLES = {"producer": "written by", "channelwise": "passes", "consumer": "read by"}
_MANY = 6  # nodes that units pass through, above which they are counted
_UNWRAPPED = 10_000  # columns: what reads from a pipe wraps lines itself
_KINDS = {
    "hidden": "hidden units",
    "linear": "units of a linear bottleneck",
    "residual": "units of a residual stream",
    "heads": "attention heads",
    "recurrent": "hidden units of a recurrent layer",
}


def describe_group(artifact: Artifact, group: ChannelGroup) -> dict[str, Any]:
    """All that is known of a group, as plain data."""
    return {
        "name": group.name,
        "units": group.units,
        "kind": group.kind,
        "frozen": group.frozen,
        "parameters": group.parameters,
        "macs": group.macs,
        "members": [
            {
                "node": member.node,
                "op": member.op,
                "role": member.role,
                "axis": member.axis,
                "channels_per_unit": _channels(artifact, group, member.node, member.role),
            }
            for member in group.members
        ],
    }


def _channels(artifact: Artifact, group: ChannelGroup, node: str, role: str) -> int | None:
    """How many rows or columns of an operator's weight belong to one unit, on average."""
    operator = artifact.info.operator_by_name.get(node)
    if operator is None or group.frozen is not None:
        return None
    reading = role == "consumer"
    places = artifact.mask_index(operator) if reading else _written(operator)
    start = 0
    for name in operator.reads if reading else operator.writes:
        size = artifact.info.group_by_name[name].units if name != "edgeprune.ones" else 1
        if name == group.name:
            mine = (places >= start) & (places < start + size)
            return int(np.count_nonzero(mine)) // group.units
        start += size
    return None


def _written(operator: Operator) -> Any:
    index = operator.write_index
    return np.arange(operator.out_channels) if index is None else np.array(index)


def draw_groups(
    title: str,
    groups: Iterable[Mapping[str, Any]],
    totals: Mapping[str, int],
    *,
    whole: bool = False,
) -> str:
    """The groups as a tree, coloured on a terminal and plain elsewhere.

    `totals` are the network's parameters and multiply-adds, of which each group has its share.
    Where units pass through many nodes these are counted by operator, unless `whole`.
    """
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    tree = Tree(Text(title))
    for group in groups:
        _add_group(tree, group, totals, whole=whole)
    terminal = sys.stdout.isatty()
    console = Console(
        file=io.StringIO(),
        force_terminal=terminal,
        width=shutil.get_terminal_size().columns if terminal else _UNWRAPPED,
    )
    with console.capture() as captured:
        console.print(tree, soft_wrap=not terminal)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _add_group(
    tree: Tree, group: Mapping[str, Any], totals: Mapping[str, int], *, whole: bool
) -> None:
    from rich.text import Text

    frozen = group["frozen"]
    head = Text(group["name"], style="dim" if frozen else "bold")
    head.append(f"  {_summary(group)}", style="not bold")
    branch = tree.add(head)
    if frozen:
        branch.add(Text(f"frozen: {frozen}"))
    else:
        branch.add(Text(_carries(group, totals)))
    for role, title in _ROLES.items():
        members = [member for member in group["members"] if member["role"] == role]
        if len(members) == 1:
            branch.add(Text(f"{title} {_member(members[0])}"))
        elif len(members) > _MANY and role == "channelwise" and not whole:
            branch.add(Text(f"{title} {_in_brief(members)}"))
        elif members:
            below = branch.add(Text(title))
            for member in members:
                below.add(Text(_member(member)))


def _in_brief(members: Sequence[Mapping[str, Any]]) -> str:
    """``25 nodes: 9 Reshape, 8 Transpose, Softmax``, in the order in which they come first."""
    counts = Counter(member["op"] for member in members)
    ops = ", ".join(op if number == 1 else f"{number} {op}" for op, number in counts.items())
    return f"{len(members)} nodes: {ops}"


def _summary(group: Mapping[str, Any]) -> str:
    if group["frozen"]:
        return "cannot be pruned"
    return f"{count(group['units'])} {_KINDS[group['kind']]}"


def _carries(group: Mapping[str, Any], totals: Mapping[str, int]) -> str:
    """What goes with all units, as numbers and as shares of the network."""
    shares = {
        what: f"{count(group[what])} {name} ({percent(_share(group[what], totals[what]))})"
        for what, name in (("parameters", "parameters"), ("macs", "multiply-adds"))
    }
    return f"carries {shares['parameters']}, {shares['macs']}"


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _member(member: Mapping[str, Any]) -> str:
    """``Conv layer1.conv2, weight axis 1, 2 channels a unit``."""
    text = f"{member['op']} {member['node']}"
    if member["axis"] is not None:
        of_weight = "weight axis" if member["role"] != "channelwise" else "axis"
        text += f", {of_weight} {member['axis']}"
    each = member["channels_per_unit"]
    return text + (f", {each} channels a unit" if each is not None and each > 1 else "")
