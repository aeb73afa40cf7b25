"""A study in four pictures. The only place that imports matplotlib."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..runtime.errors import MissingExtra
from ..runtime.guard import LEAST_CHANGE, estimated_change
from ._cells import Cell
from ._guard_fit import Judged, as_shipped, judged_cells
from ._stats import Mean
from ._summary import HARM, Row, Summary
from .arms import ARMS

__all__ = ["check_plots", "write_guard_plot", "write_plots"]

_SIZE = (7.0, 4.5)
_DPI = 150


def check_plots() -> None:
    """Refuse plots before hours of work rather than after.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtra("--plots needs matplotlib. Install it: pip install 'edgeprune[bench]'")


def write_plots(summary: Summary, cells: Iterable[Cell], folder: Path) -> list[Path]:
    """Write the pictures for which there is something to show; returns their files.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    check_plots()
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {
        "accuracy-by-sparsity": _by_sparsity(summary),
        "accuracy-by-samples": _by_samples(summary),
        "accuracy-by-cost": _by_cost(summary),
        "guard": _guard(list(cells)),
    }
    return [_saved(figure, folder / f"{name}.png") for name, figure in drawn.items() if figure]


def _figure(x: str, y: str, title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # no window system, no global state

    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize="medium")
    axes.set_axisbelow(True)
    axes.grid(alpha=0.3)
    return figure, axes


def _saved(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=_DPI)
    return path


def _color(arm: str) -> Any:
    from matplotlib import colormaps

    return colormaps["tab20"](list(ARMS).index(arm))


def _legend(figure: Any) -> None:
    figure.legend(loc="outside right upper", fontsize="x-small")


def _plain_log(axes: Any, places: Iterable[float]) -> None:
    """A logarithmic axis that names these numbers, or some, and no powers of ten."""
    from matplotlib.ticker import FixedLocator, LogLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    ticks = sorted(set(places))
    axes.xaxis.set_major_locator(FixedLocator(ticks) if ticks else LogLocator(subs=(1, 2, 5)))


def _line(axes: Any, arm: str, rows: Sequence[Row], places: Sequence[float]) -> None:
    middle = [row.accuracy.mean for row in rows]
    halves = [_within(row.accuracy) for row in rows]
    down, up = zip(*halves, strict=True)
    axes.errorbar(
        places,
        middle,
        (down, up),
        label=arm,
        color=_color(arm),
        marker="o",
        markersize=4,
        capsize=3,
    )


def _within(mean: Mean) -> tuple[float, float]:
    """The interval's reach to both sides, cut at 0 and 1."""
    if mean.low is None or mean.high is None:
        return 0.0, 0.0
    return mean.mean - max(mean.low, 0.0), min(mean.high, 1.0) - mean.mean


def _flat(axes: Any, row: Row) -> None:
    axes.axhline(row.accuracy.mean, label=row.arm, color=_color(row.arm), linestyle="--", alpha=0.7)


def _by_sparsity(summary: Summary) -> Any:
    numbered = [row for row in summary.rows if isinstance(row.sparsity, float)]
    if not numbered:
        return None
    samples = max(row.samples or 0 for row in numbered)
    figure, axes = _figure(
        "share of hidden units to prune", "top-1", f"{samples} samples, mean and 95 % over users"
    )
    for arm in ARMS:
        rows = [row for row in numbered if row.arm == arm and row.samples == samples]
        if rows:
            _line(axes, arm, rows, [float(row.sparsity or 0) for row in rows])
    for row in summary.rows:
        if row.sparsity is None and row.samples in (None, samples) and row.arm in _REFERENCES:
            _flat(axes, row)
    _legend(figure)
    return figure


_REFERENCES = ("A0", "A1", "A1+", "C1")


def _by_samples(summary: Summary) -> Any:
    counted = [row for row in summary.rows if row.samples is not None]
    if not counted:
        return None
    levels = sorted({row.sparsity for row in counted if isinstance(row.sparsity, float)})
    level = min(levels, key=lambda one: abs(one - 0.5)) if levels else None
    figure, axes = _figure(
        "samples to adapt to", "top-1", f"sparsity {level}, mean and 95 % over users"
    )
    for arm in ARMS:
        rows = [row for row in counted if row.arm == arm and row.sparsity in (None, level)]
        if rows:
            _line(axes, arm, rows, [float(row.samples or 0) for row in rows])
    for row in summary.rows:
        if row.samples is None:
            _flat(axes, row)
    _plain_log(axes, (float(row.samples or 0) for row in counted))
    _legend(figure)
    return figure


def _by_cost(summary: Summary) -> Any:
    rows = [row for row in summary.rows if row.cpu_seconds > 0 and row.samples]
    if not rows:
        return None
    samples = max(row.samples or 0 for row in rows)
    figure, axes = _figure(
        "seconds of the processor to adapt", "top-1", f"cost and accuracy, {samples} samples"
    )
    for arm in ARMS:
        mine = [row for row in rows if row.arm == arm and row.samples == samples]
        if mine:
            points = [(row.cpu_seconds, row.accuracy.mean) for row in mine]
            axes.plot(*zip(*points, strict=True), "o:", color=_color(arm), label=arm, markersize=5)
        for row in (row for row in mine if row.sparsity is not None):
            text = f"{row.sparsity:g}" if isinstance(row.sparsity, float) else row.sparsity
            place = (row.cpu_seconds, row.accuracy.mean)
            axes.annotate(text, place, (4, 3), textcoords="offset points", fontsize=6)
    _plain_log(axes, ())
    _legend(figure)
    return figure


def _guard(cells: Sequence[Cell]) -> Any:
    return _guard_figure(judged_cells("", cells))


def write_guard_plot(cells: Sequence[Judged], folder: Path) -> Path:
    """Draw the estimated against the true change of accuracy; returns the file.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    check_plots()
    folder.mkdir(parents=True, exist_ok=True)
    return _saved(_guard_figure(cells), folder / "guard.png")


def _guard_figure(cells: Sequence[Judged]) -> Any:
    if not cells:
        return None
    figure, axes = _figure(
        "estimated change of top-1, without labels",
        "true change of top-1",
        "what the guard estimated, and what was so (crosses: refused)",
    )
    for arm in dict.fromkeys(cell.arm for cell in cells):
        for refused, marker in ((False, "o"), (True, "x")):
            points = [
                (estimated_change(cell.learnt, cell.lost), cell.change)
                for cell in cells
                if cell.arm == arm and as_shipped(cell) == refused
            ]
            if points:
                label = arm if not refused else f"{arm}, refused"
                x, y = zip(*points, strict=True)
                axes.plot(x, y, marker, color=_color(arm), label=label, markersize=4)
    axes.axhline(-HARM, color="gray", linewidth=0.8)
    axes.axvline(LEAST_CHANGE, color="gray", linewidth=0.8)
    _legend(figure)
    return figure
