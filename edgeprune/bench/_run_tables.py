"""The figures of a run as a table: for a terminal, for a pipe, and for a page of Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._cli_format import percent, size
from .._timing import Ratio, Spread
from ..runtime.errors import InputError
from ._run import BenchRun, Row
from .compare import RunComparison

__all__ = [
    "Table",
    "comparison_table",
    "growth_table",
    "into_page",
    "markdown",
    "run_table",
    "torch_table",
]

_BEGIN, _END = "<!-- bench: begin -->", "<!-- bench: end -->"


@dataclass(frozen=True)
class Table:
    """A header, and rows of as many cells."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """As a table of Markdown."""
        lines = [self.header, ("---",) * len(self.header), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def run_table(run: BenchRun) -> Table:
    """The rows of a run."""
    return _latency_table(run) if run.kind == "latency" else _cost_table(run)


def _latency_table(run: BenchRun) -> Table:
    header = ("threads", "batch", "network", "multiply-adds", "parameters", "time")
    return Table(
        (*header, "time ratio to dense", "rounds", "verdict"),
        tuple(
            (
                str(row.details["threads"]),
                str(row.details["batch"]),
                _name(row),
                _share(row.details["macs"], run.rows[0].details["macs"]),
                _share(row.details["parameters"], run.rows[0].details["parameters"]),
                _time(row.seconds),
                _ratio(row.ratio),
                str(row.ratio.runs),
                _verdict(row),
            )
            for row in run.rows
        ),
    )


def _cost_table(run: BenchRun) -> Table:
    header = ("way", "time", "time ratio to plain", "rounds", "reads of each sample")
    return Table(
        (*header, "peak memory", "memory ratio to bare"),
        tuple(
            (
                row.details["way"],
                _time(row.seconds),
                _ratio(row.ratio),
                str(row.ratio.runs),
                f"{row.details['reads']:.1f}",
                _bytes(row.details["peak_bytes"]),
                "-" if not row.details["peak_ratio"] else f"{row.details['peak_ratio']:.2f}",
            )
            for row in run.rows
        ),
    )


def growth_table(run: BenchRun) -> Table | None:
    """Peak memory and time by the number of samples, where they were measured."""
    grown = run.extra.get("memory_growth")
    if not grown:
        return None
    ways = list(grown[0]["peak_bytes"])
    header = [f"peak memory, {way}" for way in ways]
    rows = [[str(one["samples"]), *(_bytes(one["peak_bytes"][w]) for w in ways)] for one in grown]
    if all("seconds" in one for one in grown):
        header += [f"seconds, {way}" for way in ways]
        for row, one in zip(rows, grown, strict=True):
            row += [f"{one['seconds'][way]:.1f}" for way in ways]
    return Table(("samples", *header), tuple(tuple(row) for row in rows))


def torch_table(run: BenchRun) -> Table | None:
    """Against what PyTorch takes, where it was measured."""
    found = run.extra.get("against_torch")
    if not found:
        return None
    header = ("way", "time", "ratio to fine-tuning", "added peak memory")
    rows = [
        (
            one["way"],
            f"{one['seconds']:.3g} s",
            _figure(one["time_ratio"]),
            _bytes(one["added_bytes"] and int(one["added_bytes"])),
            _figure(one["memory_ratio"]),
            str(one["rounds"]),
            *_answer(one),
        )
        for one in found
    ]
    more = ("memory ratio to fine-tuning", "processes", "multiply-adds gone")
    return Table((*header, *more, "an answer, ratio to Torch-Pruning"), tuple(rows))


def _answer(one: Mapping[str, Any]) -> tuple[str, str]:
    """What of the multiply-adds is gone, and how fast the network is through ONNX Runtime."""
    removed, answer = one.get("removed"), one.get("answer") or {}
    gone = "-" if removed is None else percent(removed)
    if "seconds" not in answer:
        return gone, "-"
    took = f"{1000 * answer['seconds']:.3g} ms"
    if "ratio" not in answer:
        return gone, f"{took}, 1"
    low, high = answer["low"], answer["high"]
    return gone, f"{took}, {answer['ratio']:.3f} ({low:.3f} to {high:.3f}), {answer['verdict']}"


def _figure(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.3f}"


def comparison_table(comparison: RunComparison) -> Table:
    """What changed."""
    rows = (
        (c.key, c.figure, f"{c.old:.3f}", f"{c.new:.3f}", f"{c.quotient:.3f}", c.verdict)
        for c in comparison.changes
    )
    return Table(
        ("measured", "figure", "old ratio", "new ratio", "new / old", "verdict"), tuple(rows)
    )


def _name(row: Row) -> str:
    return row.key.partition(": ")[2]


def _share(part: int, whole: int) -> str:
    return percent(part / whole, 0) if whole else "-"


def _time(seconds: Spread) -> str:
    scale, unit = (1.0, "s") if seconds.median >= 1 else (1e3, "ms")
    if seconds.median < 1e-3:
        scale, unit = 1e6, "µs"
    median, first, third = (scale * x for x in (seconds.median, seconds.first, seconds.third))
    return f"{median:.3g} {unit} ({first:.3g} to {third:.3g})"


def _ratio(ratio: Ratio) -> str:
    if ratio.low == ratio.high == 1.0:
        return "1"
    return f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


def _verdict(row: Row) -> str:
    if row.ratio.low == row.ratio.high == 1.0:
        return "reference"
    if row.verdict == "no difference":
        return row.verdict
    factor = 1 / row.ratio.median if row.verdict == "faster" else row.ratio.median
    return f"{factor:.2f} × {row.verdict}"


def _bytes(number: int | None) -> str:
    return "-" if number is None else size(number)


def markdown(run: BenchRun) -> str:
    """All of a run as a part of a page."""
    model = run.model
    tables = [run_table(run), growth_table(run), torch_table(run)]
    parts = [
        f"### {model['name']}: {run.kind}",
        f"Measured {run.created} on {run.machine.sentence()}.",
        *(table.markdown() for table in tables if table is not None),
        *_listed(run.remarks),
    ]
    return "\n\n".join(parts) + "\n"


def _listed(remarks: Sequence[str]) -> list[str]:
    return ["\n".join(["Remarks:", "", *(f"- {remark}" for remark in remarks)])] if remarks else []


def into_page(page: Path, text: str) -> None:
    """Put figures into a page, in place of those between its two marks.

    Raises:
        InputError: the page cannot be read or written, or lacks the marks; it is as it was.
    """
    try:
        old = page.read_text("utf-8")
        pattern = re.compile(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", re.DOTALL)
        new, count = pattern.subn(lambda _: f"{_BEGIN}\n\n{text}\n{_END}", old)
        if count != 1:
            raise InputError(
                f"{page} needs the lines {_BEGIN} and {_END} once each, for the figures to go "
                "between. Nothing was changed."
            )
        page.write_text(new, "utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot change {page}: {reason}. Nothing was changed.") from error
