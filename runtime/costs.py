"""What a unit costs in time, so that what is pruned is what takes long.

Units are not alike: one at the input of an image network, where pictures are large, takes forty
times as long as one near the head. How long an operator takes follows from three rates closely
enough to choose by (the roofline model, Williams, Waterman and Patterson 2009, with a sum in place
of the maximum): multiply-adds, bytes of activations, and bytes of weights, which a network run on
one sample at a time has to fetch anew. With channels on the multiples that a processor likes, time
falls in proportion to the channels, so one figure a unit does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ._graph import Graph
from .artifact import Operator

__all__ = ["DEFAULT_RATES", "Costs", "Rates", "network_costs"]

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Rates:
    """Nanoseconds for a multiply-add, a byte of activations read or written, a byte of weights.

    And for calling an operator at all.
    """

    per_mac: float
    per_byte: float
    per_weight_byte: float
    per_operator: float

    @property
    def usable(self) -> bool:
        """Whether they are times: finite, none negative, and not all nothing."""
        every = (self.per_mac, self.per_byte, self.per_weight_byte, self.per_operator)
        return all(math.isfinite(rate) and rate >= 0 for rate in every) and sum(every[:3]) > 0


# Measured on x86 with AVX-512 at one thread; only their ratios matter to an allocation.
DEFAULT_RATES = Rates(0.017, 0.031, 0.051, 7000.0)


@dataclass(frozen=True)
class Costs:
    """Nanoseconds of the network with all units, and of one unit of each prunable group in it."""

    total: float
    units: Mapping[str, float]
    counts: Mapping[str, int]

    def time(self, kept: Mapping[str, int]) -> float:
        """Of the network with so many units kept; groups that are not named keep all."""
        gone = sum((self.counts[name] - n) * self.units[name] for name, n in kept.items())
        return self.total - gone


def network_costs(graph: Graph, rates: Rates = DEFAULT_RATES) -> Costs:
    """Estimate what takes how long, one sample at a time.

    An operator that reads a group and writes another counts for both: what goes of either is saved.
    Activations of unknown shape do not count.
    """
    info = graph.artifact.info
    groups = {group.name: group.units for group in info.groups}
    costs = dict.fromkeys((group.name for group in info.prunable), 0.0)
    total = 0.0
    for operator in info.operators:
        read, written, common = _parts(graph, operator, rates)
        total += read + written + common + rates.per_operator
        grouped = operator.depthwise
        _add(costs, groups, operator.reads, common + read + (written if grouped else 0.0))
        if grouped and operator.reads:
            continue  # one group, on both sides of it
        _add(costs, groups, operator.writes, common + written + (read if grouped else 0.0))
    return Costs(total, costs, {name: groups[name] for name in costs})


def _parts(graph: Graph, operator: Operator, rates: Rates) -> tuple[float, float, float]:
    """Time of reading the input, of writing the output, and of the rest."""
    read, written = (_bytes(graph, name) for name in (operator.input, operator.output))
    weights = _FLOAT_BYTES * operator.parameters * rates.per_weight_byte
    return read * rates.per_byte, written * rates.per_byte, operator.macs * rates.per_mac + weights


def _bytes(graph: Graph, tensor: str) -> int:
    sizes = graph.shapes.get(tensor, ())[1:]
    known = [size for size in sizes if size is not None]
    return _FLOAT_BYTES * math.prod(known) if sizes and len(known) == len(sizes) else 0


def _add(
    costs: dict[str, float], groups: Mapping[str, int], names: tuple[str, ...], time: float
) -> None:
    """Share a time out over the units of the groups that stand side by side in a tensor.

    What is none of the groups is the one channel of ones that a mask index may point at.
    """
    units = sum(groups.get(name, 1) for name in names)
    for name in names:
        if name in costs:
            costs[name] += time / units
