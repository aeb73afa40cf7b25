"""Which groups give up how many units: by the damage that is left after repair.

For every group that is read at one place, backward elimination on the dense network's own moments
gives a curve: the share of its consumers' output energy that the repair cannot restore, against the
number of units removed. Each curve is scaled by what the network's answers suffer where that group
alone is pruned and repaired. Units are then taken where the next ones cost least for what they
take, to the same total as a uniform share, or until the network is as fast as is asked for. How
far a group may stray from the uniform share is bounded: a curve sees one group, not all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ._external import FloatArray
from ._graph import Graph
from ._ort import trim_memory
from ._output_damage import Probe, output_damage, repaired_tensors
from ._plan import Site, find_sites, read_at_one_site
from ._stream import Batches
from ._targets import SiteMoments
from ._watch import watch
from .costs import Costs
from .repair import Elimination, fit_mixing, outgoing_weights
from .statistics import CrossMoments

__all__ = [
    "ROWS_FOR_CURVES",
    "Answers",
    "DamageCurve",
    "curve_sites",
    "damage_curves",
    "spread",
]

ROWS_FOR_CURVES = 32  # of a sample
_STEPS = 16
_STRAY = 0.5  # a group loses at least half of the uniform share of its units
_LEAST_KEPT = 0.6  # of what it would keep under the uniform share: speech networks fell below it
_MOST_REMOVED = 0.9  # and never more than this share of its units
_TIME_COUNTS = 0.75  # of what a unit is worth; the rest is for its number
_USUAL = 0.6  # share of the units at which answers are measured
_MANY_UNITS = 500  # whose matrices are worth being given back at once
_LEAST_DAMAGE = 0.05  # of the median group


@dataclass(frozen=True)
class DamageCurve:
    """Relative damage of a group against units removed; both start at 0 and never fall."""

    units: int
    removed: NDArray[np.int64]
    damage: NDArray[np.float64]

    def at(self, removed: int) -> float:
        """Damage when so many units are removed, between the measured points by interpolation."""
        return float(np.interp(removed, self.removed, self.damage))


@dataclass(frozen=True)
class Answers:
    """What to measure the network's answers on; see `output_damage`."""

    samples: Batches
    tensors: Mapping[str, FloatArray]
    importance: NDArray[np.floating] | None
    budget_bytes: int

    def damage(self, graph: Graph, probes: Sequence[Probe], threads: int) -> list[float]:
        """How far each probe moves the answers."""
        return output_damage(
            graph,
            self.samples,
            self.tensors,
            probes,
            importance=self.importance,
            budget_bytes=self.budget_bytes,
            threads=threads,
        )


def damage_curves(
    graph: Graph,
    batches: Batches,
    teacher: Mapping[str, FloatArray],
    groups: frozenset[str],
    *,
    ridge: float,
    threads: int,
    judged: Mapping[str, FloatArray] | None = None,
    moments: Mapping[str, CrossMoments] | None = None,
    answers: Answers | None = None,
) -> dict[str, DamageCurve]:
    """Measure the curves of those `groups` that are read at one simple site, in one pass.

    Args:
        graph: the network.
        batches: some of the user's samples; a few dozen do. Not read where `moments` are given.
        teacher: the dense network's external tensors.
        groups: names of groups.
        ridge: as in `fit_mixing`.
        threads: threads of one operator.
        judged: external tensors by whose weights units are judged; None for the teacher's.
        moments: of what the dense network makes of the samples, by tensor, of every site of
            `curve_sites`; None to find out.
        answers: what to measure the network's answers on; None leaves every curve relative to its
            own layer.
    """
    sites = curve_sites(graph, groups)
    if not sites:
        return {}
    left = dict(moments or _moments(graph, batches, teacher, sites, threads))
    curves, probes = {}, []
    for site in sites:
        mine = left.pop(site.tensor)  # a large one need not stay
        curve, kept = _curve(site, mine, judged or teacher, ridge)
        if len(kept) >= _MANY_UNITS:
            trim_memory()
        curves[site.groups[0]] = curve
        if answers is not None:
            mixing = fit_mixing(mine, kept, ridge)
            changed = repaired_tensors(answers.tensors, site, mixing)
            probes.append(Probe(site, curve.at(int(np.count_nonzero(~kept))), changed))
    if answers is None:
        return curves
    trim_memory()  # sessions of the whole network come next
    return _scaled(curves, probes, answers.damage(graph, probes, threads))


def curve_sites(graph: Graph, groups: Collection[str]) -> list[Site]:
    """Where curves are measured: the simple sites of those groups that are read at one."""
    at_one = read_at_one_site(find_sites(graph))
    return [site for name, site in at_one.items() if name in groups]


def _moments(
    graph: Graph,
    batches: Batches,
    teacher: Mapping[str, FloatArray],
    sites: Sequence[Site],
    threads: int,
) -> Mapping[str, CrossMoments]:
    """Moments of what the dense network makes of the samples, by tensor."""
    taker = SiteMoments(graph, sites, 1, ROWS_FOR_CURVES)
    watch(graph, batches, teacher, takers=[taker], threads=threads)
    return taker.moments


def _scaled(
    curves: Mapping[str, DamageCurve], probes: Sequence[Probe], damage: Sequence[float]
) -> dict[str, DamageCurve]:
    """Curves of what the answers suffer; few samples must not make a group cost nothing."""
    floor = _LEAST_DAMAGE * float(np.median(damage))
    if floor <= 0:
        return dict(curves)
    scaled = {}
    for (name, curve), probe, error in zip(curves.items(), probes, damage, strict=True):
        scale = max(error, floor) / max(probe.damage, 1e-12)
        scaled[name] = replace(curve, damage=curve.damage * scale)
    return scaled


def _curve(
    site: Site, moments: CrossMoments, weights: Mapping[str, FloatArray], ridge: float
) -> tuple[DamageCurve, NDArray[np.bool_]]:
    """The curve, and which units were left about where pruning is usual."""
    outgoing = outgoing_weights(weights, site.operators)
    energy = float(np.vdot(moments.answers(outgoing), outgoing))
    elimination = Elimination(moments, outgoing, ridge)  # uses up the weights
    units = len(moments.mean_x)
    least = max(1, round(units * (1 - _MOST_REMOVED)))
    removed, damage, kept = [0], [0.0], np.ones(units, np.bool_)
    while len(elimination.alive) > least:
        step = min(max(1, units // _STEPS), len(elimination.alive) - least)
        damage.append(damage[-1] + elimination.remove(step) / max(energy, 1e-30))
        removed.append(units - len(elimination.alive))
        if removed[-2] < units * _USUAL:
            kept = np.isin(np.arange(units), elimination.alive)
    return DamageCurve(units, np.array(removed), np.array(damage)), kept


def spread(
    curves: Mapping[str, DamageCurve],
    keep: Mapping[str, int],
    multiple: int,
    costs: Costs | None = None,
    faster: float | None = None,
) -> dict[str, int]:
    """Move removed units between groups to where they cost least; the total stays, to rounding.

    Every group ends on the board's grid: compaction rounds up to it, so that units between its
    points would be kept for nothing.

    Args:
        curves: by group.
        keep: units that each group would keep under a uniform share, rounded or not.
        multiple: kept units are a multiple of this, or all of a group's.
        costs: what takes how long; None makes all units alike.
        faster: go on, units of any number, until the network is estimated to be so many times
            faster, as far as `_MOST_REMOVED` of every group allows.

    Returns:
        Units to keep by group, for all groups of `keep`.
    """
    kept = {name: _most(curve, keep[name], multiple) for name, curve in curves.items()}
    if costs is not None and faster is not None:
        least = {name: _fewest(curve) for name, curve in curves.items()}
        others = {name: count for name, count in keep.items() if name not in curves}
        most_ns = costs.total / faster

        def slow() -> bool:
            return costs.time(kept | others) > most_ns

        _take(curves, kept, least, multiple=multiple, worth=costs.units, more=slow)
    least = {name: _least(curve, keep[name]) for name, curve in curves.items()}
    total = sum(keep[name] for name in curves)
    worth = _worth(costs, {name: curve.units for name, curve in curves.items()})

    def too_many() -> bool:
        return sum(kept.values()) - total > multiple / 2

    _take(curves, kept, least, multiple=multiple, worth=worth, more=too_many)
    return dict(keep) | kept


def _take(
    curves: Mapping[str, DamageCurve],
    kept: dict[str, int],
    least: Mapping[str, float],
    *,
    multiple: int,
    worth: Mapping[str, float],
    more: Callable[[], bool],
) -> None:
    """Take the step of least damage for what it is worth, again and again; changes `kept`."""

    def price(name: str) -> float:
        return _price(curves[name], kept[name], multiple) / worth[name]

    while more():
        able = [
            name
            for name in curves
            if worth[name] > 0 and _below(kept[name], multiple) >= least[name]
        ]
        if not able:
            break
        cheapest = min(able, key=price)
        kept[cheapest] = _below(kept[cheapest], multiple)


def _worth(costs: Costs | None, units: Mapping[str, int]) -> dict[str, float]:
    """What it is worth to be rid of a unit: part for its number, part for its time; mean 1."""
    total = 0.0 if costs is None else sum(costs.units[name] * n for name, n in units.items())
    if costs is None or total <= 0:
        return dict.fromkeys(units, 1.0)
    mean = total / sum(units.values())
    return {name: 1 - _TIME_COUNTS + _TIME_COUNTS * costs.units[name] / mean for name in units}


def _most(curve: DamageCurve, keep: int, multiple: int) -> int:
    """The most that a group may keep, on the board's grid or all of it."""
    most = curve.units - (curve.units - keep) * (1 - _STRAY)
    return min(-int(-most // multiple) * multiple, curve.units)


def _least(curve: DamageCurve, keep: int) -> float:
    """The least that a group may keep."""
    return max(keep * _LEAST_KEPT, _fewest(curve))


def _fewest(curve: DamageCurve) -> float:
    return max(curve.units * (1 - _MOST_REMOVED), 1)


def _below(kept: int, multiple: int) -> int:
    return (kept - 1) // multiple * multiple


def _price(curve: DamageCurve, kept: int, multiple: int) -> float:
    """Damage per unit of the next step down."""
    fewer = _below(kept, multiple)
    return (curve.at(curve.units - fewer) - curve.at(curve.units - kept)) / (kept - fewer)
