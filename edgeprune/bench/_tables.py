"""A summary as tables: for a terminal, and as Markdown."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from ._cells import Level
from ._stats import Mean
from ._summary import Contrast, GuardQuality, Row, Summary
from .arms import ARMS

__all__ = ["as_markdown", "as_text"]

_WIDTH = 250  # a terminal wraps or scrolls; a cut figure is lost
_JUDGED = ("A1+", "A2", "A3", "A4", "A5")

_T = TypeVar("_T")
Columns: TypeAlias = Sequence[tuple[str, Callable[[_T], str]]]


@dataclass(frozen=True)
class _Table:
    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def as_text(summary: Summary) -> str:
    """Tables for a terminal."""
    return "\n".join(_rendered(table) for table in _tables(summary)).rstrip()


def as_markdown(summary: Summary) -> str:
    """The same as Markdown."""
    return "\n\n".join(_marked(table) for table in _tables(summary))


def _rendered(table: _Table) -> str:
    made = RichTable(title=table.title, box=box.SIMPLE_HEAD, title_justify="left")
    for place, name in enumerate(table.header):
        made.add_column(name, justify="left" if place < 2 else "right", no_wrap=True)
    for row in table.rows:
        made.add_row(*row)
    target = io.StringIO()
    Console(file=target, width=_WIDTH, color_system=None).print(made)
    return "\n".join(line.rstrip() for line in target.getvalue().splitlines())


def _marked(table: _Table) -> str:
    lines = [table.header, ("---",) * len(table.header), *table.rows]
    return f"**{table.title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _tables(summary: Summary) -> list[_Table]:
    counts = sorted({row.samples for row in summary.rows if row.samples is not None})
    shown: Sequence[int | None] = counts or [None]
    tables = [_arms(summary, samples) for samples in shown]
    tables += [_contrasts(summary, samples) for samples in shown]
    tables += [_costs(summary), _guard(summary.guard)]
    return [table for table in tables if table.rows]


def _arms(summary: Summary, samples: int | None) -> _Table:
    rows = [row for row in summary.rows if row.samples in (None, samples)]
    order = list(ARMS)
    rows.sort(key=lambda row: order.index(row.arm))
    columns: Columns[Row] = (
        ("arm", lambda row: row.arm),
        ("what", lambda row: ARMS[row.arm].title + (" *" if ARMS[row.arm].labels else "")),
        ("sparsity", lambda row: _level(row.sparsity)),
        ("users", lambda row: str(row.accuracy.users)),
        ("top-1", lambda row: _interval(row.accuracy, "{:.3f}")),
        ("to A0", lambda row: _interval(row.difference, "{:+.3f}")),
        ("gap closed", lambda row: _number(row.gap_closed, "{:.0%}")),
        ("harmed", lambda row: "-" if row.harmed is None else str(row.harmed)),
        ("refused", lambda row: str(row.refused) if row.arm in _JUDGED else "-"),
        (
            "unguarded",
            lambda row: _number(row.unguarded, "{:.3f}") if row.arm in _JUDGED else "-",
        ),
    )
    title = "The network as trained" if samples is None else f"{samples} samples to adapt to"
    return _made(f"{title} (* knows labels: a ceiling)", columns, rows)


def _costs(summary: Summary) -> _Table:
    columns: Columns[Row] = (
        ("arm", lambda row: row.arm),
        ("samples", lambda row: str(row.samples)),
        ("sparsity", lambda row: _level(row.sparsity)),
        ("hidden units gone", lambda row: _number(row.hidden_units, "{:.0%}")),
        ("weights gone", lambda row: _number(row.weights, "{:.0%}")),
        ("multiply-adds gone", lambda row: _number(row.macs, "{:.0%}")),
        ("seconds", lambda row: _number(row.seconds, "{:.2f}")),
        ("of the processor", lambda row: _number(row.cpu_seconds, "{:.2f}")),
        ("in plain passes", lambda row: _number(row.passes, "{:.1f}")),
        ("added memory, MB", lambda row: _number(row.added_mb, "{:.0f}")),
    )
    rows = [row for row in summary.rows if row.samples is not None]
    return _made("What adapting takes, on one thread (means over users)", columns, rows)


def _made(title: str, columns: Columns[_T], rows: Sequence[_T]) -> _Table:
    header = tuple(name for name, _ in columns)
    return _Table(title, header, [tuple(text(row) for _, text in columns) for row in rows])


def _contrasts(summary: Summary, samples: int | None) -> _Table:
    columns: Columns[Contrast] = (
        ("arms", lambda made: f"{made.arm} − {made.minus}"),
        ("sparsity", lambda made: _level(made.sparsity)),
        ("users", lambda made: str(made.difference.users)),
        ("difference", lambda made: _interval(made.difference, "{:+.3f}")),
        ("better", lambda made: str(made.better)),
        ("worse", lambda made: str(made.worse)),
        ("time ratio", lambda made: _number(made.time_ratio, "{:.3g}")),
        ("memory ratio", lambda made: _number(made.memory_ratio, "{:.3g}")),
    )
    rows = [made for made in summary.contrasts if made.samples == samples]
    return _made(f"Paired by user, {samples} samples", columns, rows)


def _guard(qualities: Sequence[GuardQuality]) -> _Table:
    rows = [
        (
            q.arm,
            f"{q.harmful_refused} of {q.harmful}",
            f"{q.harmless_allowed} of {q.harmless}",
        )
        for q in qualities
    ]
    header = ("arm", "refused of those that lose over 2 points", "let pass of those that lose none")
    return _Table("The guard, over all users, sparsities and sample counts", header, rows)


def _level(level: Level) -> str:
    if level is None:
        return "-"
    return f"{level:g}" if isinstance(level, float) else level


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _interval(mean: Mean | None, form: str) -> str:
    if mean is None:
        return "-"
    text = form.format(mean.mean)
    if mean.low is None or mean.high is None:
        return text
    return f"{text} ({form.format(mean.low)} to {form.format(mean.high)})"
