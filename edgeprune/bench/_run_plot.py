"""A picture of a run: each ratio with its interval."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ..runtime.errors import InputError, MissingExtra
from ._run import BenchRun

__all__ = ["check_plot", "plot"]

_COLOURS = {"faster": "tab:green", "slower": "tab:red", "no difference": "tab:gray"}


def check_plot() -> None:
    """Refuse a picture before minutes of measuring rather than after.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtra(
            "--plot needs matplotlib, which is not installed. Nothing was measured. Install it "
            'with: pip install "edgeprune[bench]"'
        )


def plot(run: BenchRun, path: Path) -> None:
    """Draw the time ratios of a run; the suffix says the format, as in .png or .svg.

    Raises:
        InputError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in run.rows if row.ratio.low < row.ratio.high][::-1]
    figure = Figure(figsize=(9, 1.2 + 0.32 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.axvline(1.0, color="black", linewidth=0.8)
    for place, row in enumerate(rows):
        ratio = row.ratio
        spread = [[ratio.median - ratio.low], [ratio.high - ratio.median]]
        axes.barh(place, ratio.median, color=_COLOURS[row.verdict], alpha=0.6, xerr=spread)
    axes.set_yticks(range(len(rows)), [row.key for row in rows], fontsize=7)
    axes.set_xlabel("time ratio to the reference, with its 95 % interval (less is faster)")
    axes.set_title(f"{run.model['name']}: {run.kind}, {run.machine.cpu}", fontsize=9)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot draw to {path}: {error}.") from error
