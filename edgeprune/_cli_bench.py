"""``edgeprune bench`` and what stands below it."""

from __future__ import annotations

import importlib

import click

__all__ = ["bench"]

# Name, and the short help that `edgeprune bench --help` shows without importing the command.
_COMMANDS = {
    "latency": "Time a network dense, masked, watched and compacted, in turns.",
    "cost": "Time and memory of personalisation against plain inference.",
    "personalization": "What personalisation gives, against what else could be done.",
    "compare": "Tell what got slower from one run to another.",
    "show": "Print saved runs as tables, or put them into a page.",
}


class _Bench(click.Group):
    """Imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"._cli_bench_{cmd_name}", __package__)
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Bench)
def bench() -> None:
    """Measure what this machine gains and pays, and compare two such runs.

    Every figure is a ratio of runs in turns, with its interval: what is inside the noise is no
    difference. docs/benchmarks.md says how it is measured, and what --json holds.
    """
