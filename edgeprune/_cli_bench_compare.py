"""``edgeprune bench compare``."""

from __future__ import annotations

from pathlib import Path

import click

from ._cli_bench_common import table_text
from ._cli_common import CliError, FloatRange, Output, output_options
from .bench._run import BenchRun
from .bench._run_tables import comparison_table
from .bench.compare import compare as compare_runs

__all__ = ["compare"]

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("old", type=_FILE)
@click.argument("new", type=_FILE)
@click.option(
    "--tolerance",
    type=FloatRange(min=0.0),
    default=0.03,
    show_default=True,
    help="By how much intervals of time ratios must be apart.",
)
@click.option(
    "--memory-tolerance",
    type=FloatRange(min=0.0),
    default=0.1,
    show_default=True,
    help="By how much ratios of peak memory may differ.",
)
@output_options
def compare(
    *, old: Path, new: Path, tolerance: float, memory_tolerance: float, output: Output
) -> None:
    """Tell what got slower from OLD to NEW, two files that bench latency or cost wrote with --json.

    Compared are ratios to each run's own reference. The exit code is 1 if anything got slower, or
    takes more memory, beyond the tolerance.
    """
    comparison = compare_runs(
        BenchRun.read(old),
        BenchRun.read(new),
        tolerance=tolerance,
        memory_tolerance=memory_tolerance,
    )
    lines = [table_text(comparison_table(comparison)), *(f"! {r}" for r in comparison.remarks)]
    output.result(comparison.to_dict(), "\n".join(lines))
    if comparison.worse:
        keys = "; ".join(change.key for change in comparison.worse)
        raise CliError(f"{len(comparison.worse)} figures got worse: {keys}")
