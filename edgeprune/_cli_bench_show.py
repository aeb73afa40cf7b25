"""``edgeprune bench show``."""

from __future__ import annotations

from pathlib import Path

import click

from ._cli_bench_common import print_run
from ._cli_common import Output
from .bench._run import BenchRun
from .bench._run_tables import into_page, markdown

__all__ = ["show"]

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=_FILE, metavar="RUN.json...")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print them as Markdown.")
@click.option(
    "--into",
    "page",
    type=_FILE,
    metavar="PAGE.md",
    help="Put them into a page, in place of what stands between its two marks.",
)
def show(*, runs: tuple[Path, ...], as_markdown: bool, page: Path | None) -> None:
    """Print runs that were saved with --json, or put them into a page of Markdown."""
    read = [BenchRun.read(path) for path in runs]
    text = "\n".join(markdown(run) for run in read)
    if page is not None:
        into_page(page, text)
        click.echo(f"written: {page}")
    elif as_markdown:
        click.echo(text, nl=False)
    else:
        for run in read:
            print_run(run, Output(as_json=False, quiet=False, verbose=False))
