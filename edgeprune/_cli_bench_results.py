"""``edgeprune bench results``."""

from __future__ import annotations

from pathlib import Path

import click

from ._cli_common import Output, output_options

__all__ = ["results"]

_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("files", nargs=-1, required=True, type=_FILE, metavar="RESULTS.jsonl...")
@click.option("--plots", type=_FOLDER, help="Write pictures there.")
@click.option("--markdown", is_flag=True, help="Print the tables as Markdown.")
@output_options
def results(*, files: tuple[Path, ...], plots: Path | None, markdown: bool, output: Output) -> None:
    """Print the tables of a study from its files of results, without measuring anything.

    A study that was measured in pieces, some arms here and some there, is told as one. What
    several files hold counts as in the last.
    """
    from .bench._cells import gather_results
    from .bench._summary import summarize
    from .bench._tables import as_markdown, as_text

    cells = gather_results(files)
    versions = len({cell.code for cell in cells})
    if versions > 1:
        output.note(f"edgeprune: results of {versions} versions of the runtime's code")
    summary = summarize(cells)
    data = summary.to_dict() | {"results": [str(path) for path in files], "versions": versions}
    if plots is not None:
        from .bench._plots import write_plots

        data["plots"] = [str(path) for path in write_plots(summary, cells, plots)]
        output.note(f"edgeprune: {len(data['plots'])} pictures in {plots}")
    output.result(data, (as_markdown if markdown else as_text)(summary))
