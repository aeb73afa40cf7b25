"""Two runs of the same benchmark: what got slower or larger, beyond the noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from .._timing import Ratio, compare_ratios
from ..runtime.errors import InputError
from ._run import SCHEMA, BenchRun, Row

__all__ = ["Change", "RunComparison", "compare"]

Told = Literal["faster", "slower", "smaller", "larger", "no difference"]


@dataclass(frozen=True)
class Change:
    """One row of both runs.

    Attributes:
        key: what was measured.
        figure: ``time``, the ratio to the reference of its own run, or ``memory``.
        old, new: that ratio.
        quotient: the new one over the old one.
        verdict: what may be claimed.
    """

    key: str
    figure: Literal["time", "memory"]
    old: float
    new: float
    quotient: float
    verdict: Told


@dataclass(frozen=True)
class RunComparison:
    """What changed from one run to another.

    Attributes:
        kind: which benchmark.
        changes: what both runs measured.
        remarks: what is not comparable, or disturbed one of the runs.
    """

    kind: str
    changes: tuple[Change, ...]
    remarks: tuple[str, ...]

    @property
    def worse(self) -> tuple[Change, ...]:
        """What got slower, or takes more memory, beyond the noise."""
        return tuple(c for c in self.changes if c.verdict in ("slower", "larger"))

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "schema": SCHEMA,
            "kind": "comparison",
            "of": self.kind,
            "changes": [asdict(change) for change in self.changes],
            "worse": [change.key for change in self.worse],
            "remarks": list(self.remarks),
        }


def compare(
    old: BenchRun, new: BenchRun, *, tolerance: float = 0.03, memory_tolerance: float = 0.1
) -> RunComparison:
    """Compare two runs by what each measured against its own reference.

    Ratios of one run are independent of how fast the machine was that day, so times themselves
    are not compared.

    Args:
        old, new: the runs.
        tolerance: by how much the 95 % intervals of two ratios must be apart to tell a difference.
        memory_tolerance: by how much peak memory, relative to bare inference, may differ.

    Raises:
        InputError: the runs are of different benchmarks, or have nothing in common.
    """
    if old.kind != new.kind:
        raise InputError(f"one run is of bench {old.kind}, the other of bench {new.kind}.")
    rows = {row.key: row for row in new.rows}
    both = [(row, rows[row.key]) for row in old.rows if row.key in rows]
    if not both:
        raise InputError(
            "the two runs have no row in common: measure both with the same options. The first "
            f"has {old.rows[0].key!r}."
            if old.rows
            else "the first run has no rows."
        )
    changes = [
        change
        for before, after in both
        for change in _changes(before, after, tolerance, memory_tolerance)
    ]
    return RunComparison(old.kind, tuple(changes), tuple(_remarks(old, new)))


def _changes(old: Row, new: Row, tolerance: float, memory: float) -> Iterator[Change]:
    if not _is_reference(old.ratio):
        quotient, verdict = compare_ratios(old.ratio, new.ratio, tolerance)
        yield Change(old.key, "time", old.ratio.median, new.ratio.median, quotient, verdict)
    before, after = old.details.get("peak_ratio"), new.details.get("peak_ratio")
    if before and after:
        quotient = after / before
        yield Change(old.key, "memory", before, after, quotient, _size_verdict(quotient, memory))


def _is_reference(ratio: Ratio) -> bool:
    return ratio.low == ratio.high == 1.0


def _size_verdict(quotient: float, tolerance: float) -> Told:
    if quotient > 1 + tolerance:
        return "larger"
    return "smaller" if quotient < 1 / (1 + tolerance) else "no difference"


def _remarks(old: BenchRun, new: BenchRun) -> Iterator[str]:
    if old.machine.cpu != new.machine.cpu:
        yield f"the runs are of different processors: {old.machine.cpu} and {new.machine.cpu}"
    changed = [
        f"{name} {old.machine.versions.get(name)} and {version}"
        for name, version in new.machine.versions.items()
        if old.machine.versions.get(name) != version
    ]
    if changed:
        yield f"the runs are of different versions: {', '.join(changed)}"
    if old.model.get("model_id") != new.model.get("model_id"):
        yield "the runs are of different models"
    names = old.settings.keys() | new.settings.keys()
    changed = sorted(n for n in names if old.settings.get(n) != new.settings.get(n))
    if changed:
        yield f"the runs have different settings: {', '.join(changed)}"
    alone = sorted({row.key for row in old.rows} ^ {row.key for row in new.rows})
    if alone:
        yield f"{len(alone)} rows are in one run only, such as {alone[0]!r}"
    for name, run in (("first", old), ("second", new)):
        yield from (f"the {name} run: {remark}" for remark in run.remarks)
