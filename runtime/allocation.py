"""Which groups give up how many units: by the damage that is left after repair.

For every group that is read at one place, backward elimination on the dense network's own moments
gives a curve: the share of its consumers' output energy that the repair cannot restore, against the
number of units removed. Units are then taken where the next ones cost least, to the same total as a
uniform share. How far a group may stray from that share is bounded: a curve knows its own layer
and not what the layers behind make of the error, and an unbounded choice starves the last blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ._external import FloatArray
from ._graph import Graph
from ._ort import run
from ._plan import Site, find_sites, read_at_one_site
from ._stream import Batches
from .repair import Elimination, outgoing_weights
from .statistics import CrossMoments, rows

__all__ = ["DamageCurve", "damage_curves", "spread", "worth_of_units"]

_ROWS_PER_SAMPLE = 32
_STEPS = 32
_STRAY = 0.4  # a group loses between 0.6 and 1.4 times the uniform share
_MOST_REMOVED = 0.9  # and never more than this share of its units


@dataclass(frozen=True)
class DamageCurve:
    """Relative damage of a group against units removed; both start at 0 and never fall."""

    units: int
    removed: NDArray[np.int64]
    damage: NDArray[np.float64]

    def at(self, removed: int) -> float:
        """Damage when so many units are removed, between the measured points by interpolation."""
        return float(np.interp(removed, self.removed, self.damage))


def damage_curves(
    graph: Graph,
    batches: Batches,
    teacher: Mapping[str, FloatArray],
    groups: frozenset[str],
    *,
    ridge: float,
    threads: int,
    judged: Mapping[str, FloatArray] | None = None,
    seen: Mapping[str, FloatArray] | None = None,
) -> dict[str, DamageCurve]:
    """Measure the curves of those `groups` that are read at one simple site, in one pass.

    Args:
        graph: the network.
        batches: some of the user's samples; a few dozen do.
        teacher: the dense network's external tensors.
        groups: names of groups.
        ridge: as in `fit_mixing`.
        threads: threads of one operator.
        judged: external tensors by whose weights units are judged; None for the teacher's.
        seen: values of tensors that are known already, of more samples than `batches` holds.
    """
    at_one = read_at_one_site(find_sites(graph))
    sites = [site for name, site in at_one.items() if name in groups]
    if not sites:
        return {}
    moments = {site.tensor: CrossMoments(len(site.units)) for site in sites}
    axes = {site.tensor: site.channel_axis for site in sites}
    for tensor, values in (seen or {}).items():
        if tensor in moments:
            moments[tensor].update(rows(values, axes[tensor], _ROWS_PER_SAMPLE))
    unseen = [tensor for tensor in moments if tensor not in (seen or {})]
    for tensor, values in _values(graph, batches, teacher, unseen, threads):
        moments[tensor].update(rows(values, axes[tensor], _ROWS_PER_SAMPLE))
    weights = judged or teacher
    return {s.groups[0]: _curve(s, moments.pop(s.tensor), weights, ridge) for s in sites}


def _values(
    graph: Graph,
    batches: Batches,
    teacher: Mapping[str, FloatArray],
    tensors: Sequence[str],
    threads: int,
) -> Iterator[tuple[str, FloatArray]]:
    """What the dense network makes of the samples, tensor by tensor, batch by batch."""
    if not tensors:
        return
    session = graph.session([graph.input], tensors, teacher, threads)
    for batch in batches:
        yield from zip(tensors, run(session, tensors, {graph.input: batch}), strict=True)


def _curve(
    site: Site, moments: CrossMoments, teacher: Mapping[str, FloatArray], ridge: float
) -> DamageCurve:
    outgoing = outgoing_weights(teacher, site.operators)
    energy = float(np.einsum("oi,ij,oj->", outgoing, moments.xx, outgoing, optimize=True))
    elimination = Elimination(moments, outgoing, ridge)
    units = len(moments.mean_x)
    least = max(1, round(units * (1 - _MOST_REMOVED)))
    removed, damage = [0], [0.0]
    while len(elimination.alive) > least:
        step = min(max(1, units // _STEPS), len(elimination.alive) - least)
        damage.append(damage[-1] + elimination.remove(step) / max(energy, 1e-30))
        removed.append(units - len(elimination.alive))
    return DamageCurve(units, np.array(removed), np.array(damage))


def spread(
    curves: Mapping[str, DamageCurve],
    keep: Mapping[str, int],
    multiple: int,
    worth: Mapping[str, float] | None = None,
) -> dict[str, int]:
    """Move removed units between groups to where they cost least; the total stays, to rounding.

    Every group ends on the board's grid: compaction rounds up to it, so that units between its
    points would be kept for nothing.

    Args:
        curves: by group.
        keep: units that each group would keep under a uniform share, rounded or not.
        multiple: kept units are a multiple of this, or all of a group's.
        worth: what it is worth to be rid of one unit of a group; None makes all units alike. See
            `worth_of_units`.

    Returns:
        Units to keep by group, for all groups of `keep`.
    """
    total = sum(keep[name] for name in curves)
    kept = {name: _most(curve, keep[name], multiple) for name, curve in curves.items()}
    least = {name: _least(curve, keep[name]) for name, curve in curves.items()}
    each = dict.fromkeys(curves, 1.0) | dict(worth or {})

    def price(name: str) -> float:
        return _price(curves[name], kept[name], multiple) / each[name]

    while sum(kept.values()) - total > multiple / 2:
        able = [name for name in curves if _below(kept[name], multiple) >= least[name]]
        if not able:
            break
        cheapest = min(
            able, key=lambda name: _price(curves[name], kept[name], multiple) / each[name]
        )
        kept[cheapest] = _below(kept[cheapest], multiple)
    return dict(keep) | kept


def worth_of_units(
    costs: Mapping[str, float], units: Mapping[str, int], speed: float
) -> dict[str, float]:
    """What it is worth to be rid of one unit of each group, about 1 in the mean over all units.

    Args:
        costs: time of one unit, by group, in any measure: see `edgeprune.runtime.costs`.
        units: units by group.
        speed: 0 counts units, 1 counts time, anything between weighs the two.
    """
    total = sum(costs[name] * count for name, count in units.items())
    mean = total / max(sum(units.values()), 1)
    if mean <= 0:
        return dict.fromkeys(units, 1.0)
    return {name: 1 - speed + speed * costs[name] / mean for name in units}


def _most(curve: DamageCurve, keep: int, multiple: int) -> int:
    """The most that a group may keep, on the board's grid or all of it."""
    most = curve.units - (curve.units - keep) * (1 - _STRAY)
    return min(-int(-most // multiple) * multiple, curve.units)


def _least(curve: DamageCurve, keep: int) -> float:
    """The least that a group may keep."""
    return max(
        curve.units - (curve.units - keep) * (1 + _STRAY), curve.units * (1 - _MOST_REMOVED), 1
    )


def _below(kept: int, multiple: int) -> int:
    return (kept - 1) // multiple * multiple


def _price(curve: DamageCurve, kept: int, multiple: int) -> float:
    """Damage per unit of the next step down."""
    fewer = _below(kept, multiple)
    return (curve.at(curve.units - fewer) - curve.at(curve.units - kept)) / (kept - fewer)
