"""Where the consumers of groups read them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ._graph import Graph
from .artifact import Operator
from .scope import Scope, groups_in_scope, keep_counts, unit_steps

__all__ = [
    "Scope",
    "Site",
    "find_sites",
    "groups_in_scope",
    "keep_counts",
    "read_at_one_site",
    "sites_reading",
    "unit_steps",
]


@dataclass(frozen=True)
class Site:
    """A tensor that dense operators read: where masks act and repair is fitted.

    ``units`` says for each channel of the tensor which unit of the concatenated `groups` it is.
    """

    tensor: str
    operators: tuple[Operator, ...]
    groups: tuple[str, ...]
    units: NDArray[np.int64]
    channel_axis: int

    @property
    def simple(self) -> bool:
        """One group, each unit one channel, in order."""
        return len(self.groups) == 1 and bool(
            np.array_equal(self.units, np.arange(len(self.units)))
        )


def channel_axis(operator: Operator) -> int:
    """The axis of the operator's input and output that holds channels."""
    return -1 if operator.op in ("Gemm", "MatMul") else 1


def find_sites(graph: Graph) -> list[Site]:
    """Every tensor that a masked operator reads, in the order in which it is first read.

    Recurrent operators are no sites: what their weights make of it cannot be seen.
    """
    artifact = graph.artifact
    readers: dict[str, list[Operator]] = {}
    for operator in artifact.info.operators:
        if operator.masked and not operator.recurrent:
            readers.setdefault(operator.input, []).append(operator)
    sites = [
        Site(
            tensor,
            tuple(operators),
            operators[0].reads,
            artifact.mask_index(operators[0]),
            channel_axis(operators[0]),
        )
        for tensor, operators in readers.items()
    ]
    return sorted(sites, key=lambda site: first_use(graph, site))


def sites_reading(graph: Graph, groups: Collection[str]) -> list[Site]:
    """The sites of `find_sites` that hold units of any of `groups`."""
    return [site for site in find_sites(graph) if not set(groups).isdisjoint(site.groups)]


def first_use(graph: Graph, site: Site) -> int:
    """Position of the first node that reads the site."""
    return min(graph.consumed_at(operator) for operator in site.operators)


def read_at_one_site(sites: Sequence[Site]) -> Mapping[str, Site]:
    """Groups that are read at one simple site, where all that their loss costs can be seen."""
    reads: dict[str, list[Site]] = {}
    for site in sites:
        for name in site.groups:
            reads.setdefault(name, []).append(site)
    return {name: at[0] for name, at in reads.items() if len(at) == 1 and at[0].simple}
