"""What the benches share: lists of numbers as options, and printing a run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from ._cli_common import Output
from ._cli_format import table as plain_table
from .bench._run import BenchRun
from .bench._run_tables import Table, growth_table, markdown, run_table, torch_table

__all__ = ["check_formats", "finish", "numbers", "print_run", "run_options", "table_text"]

_Command = TypeVar("_Command", bound=Callable[..., Any])
_COLOURS = {"faster": "green", "smaller": "green", "slower": "red", "larger": "red"}


def numbers(
    name: str, kind: Callable[[str], float], low: float, high: float, **options: Any
) -> Callable[[_Command], _Command]:
    """An option that takes numbers between commas."""

    def read(_context: click.Context, _param: click.Parameter, text: str | None) -> Any:
        if text is None:
            return None
        try:
            found = tuple(kind(part) for part in text.split(","))
        except ValueError:
            found = ()
        if not found or not all(low <= number <= high for number in found):
            example = "1,2" if kind is int else "0.5,0.7"
            raise click.BadParameter(f"{text!r}: give {low:g} to {high:g}, as in {example}.")
        return found

    return click.option(name, callback=read, metavar="N,N", **options)


def run_options(command: _Command) -> _Command:
    """Add ``--plot`` and ``--markdown``."""
    plot = click.option(
        "--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw it, as .png or .svg."
    )
    page = click.option("--markdown", "as_markdown", is_flag=True, help="Print it as Markdown.")
    return plot(page(command))


def check_formats(output: Output, plot: Path | None, as_markdown: bool) -> None:
    """Refuse what cannot be printed or drawn before anything is measured."""
    if output.as_json and as_markdown:
        raise click.UsageError("--json and --markdown exclude each other.")
    if plot is not None:
        from .bench._run_plot import check_plot

        check_plot()


def finish(run: BenchRun, output: Output, plot: Path | None, as_markdown: bool) -> None:
    """Print a run in the form that is asked for, and draw it: printed is what took long."""
    if as_markdown:
        click.echo(markdown(run), nl=False)
    else:
        print_run(run, output)
    if plot is not None:
        from .bench._run_plot import plot as draw

        draw(run, plot)
        output.note(f"edgeprune: drawn: {plot}")


def print_run(run: BenchRun, output: Output) -> None:
    """Print a run as JSON or as tables."""
    made = (run_table(run), growth_table(run), torch_table(run))
    tables = [table for table in made if table is not None]
    lines = [f"{run.model['name']}, bench {run.kind}, {run.created}", run.machine.sentence(), ""]
    lines += [table_text(table) + "\n" for table in tables]
    lines += [f"! {remark}" for remark in run.remarks]
    output.result(run.to_dict(), "\n".join(lines).rstrip("\n"))


def table_text(table: Table) -> str:
    """A table: drawn on a terminal, aligned text elsewhere."""
    if not sys.stdout.isatty():
        return plain_table(table.header, table.rows)
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable

    drawn = RichTable(*table.header, box=SIMPLE_HEAD)
    for row in table.rows:
        drawn.add_row(*row, style=_colour(row))
    console = Console()
    with console.capture() as text:
        console.print(drawn)
    return text.get().rstrip("\n")


def _colour(row: Sequence[str]) -> str | None:
    """By the last word of the row, its verdict."""
    return _COLOURS.get(row[-1].split(" ")[-1])
