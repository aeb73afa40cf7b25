"""``edgeprune bench`` and what stands below it."""

from __future__ import annotations

import click

from ._cli_groups import LazyGroup

__all__ = ["bench"]

# Name, and the short help that `edgeprune bench --help` shows without importing the command.
_COMMANDS = {
    "latency": "Time a network dense, masked, watched and compacted, in turns.",
    "cost": "Time and memory of personalisation against plain inference.",
    "personalization": "What personalisation gives, against what else could be done.",
    "results": "Print the tables of such a comparison again, also of one in pieces.",
    "guard": "Tell whether the guard refuses those who lose, from such results.",
    "compare": "Tell what got slower from one run to another.",
    "show": "Print saved runs as tables, or put them into a page.",
}


class _Bench(LazyGroup):
    modules = "_cli_bench_"
    short_help_of = _COMMANDS


@click.group(cls=_Bench)
def bench() -> None:
    """Measure what this machine gains and pays, and compare two such runs.

    Every figure is a ratio of runs in turns, with its interval: what is inside the noise is no
    difference. docs/benchmarks.md says how it is measured, and what --json holds.
    """
