"""``edgeprune bench guard``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._cli_common import Output, output_options
from ._cli_format import pairs

if TYPE_CHECKING:
    from .bench._guard_fit import Rates
    from .bench.guard import GuardStudy

__all__ = ["guard"]

_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("results", nargs=-1, required=True, type=_FILE, metavar="RESULTS.jsonl...")
@click.option("--plots", type=_FOLDER, help="Draw estimated against true change there.")
@output_options
def guard(*, results: tuple[Path, ...], plots: Path | None, output: Output) -> None:
    """Tell whether the guard refuses those who lose, from results of `bench personalization`.

    It should refuse those who lose more than 2 points and let those pass who lose none. The rates
    are those of the constants in use, and of constants fitted without the user who is judged.
    """
    from .bench.guard import study_guard

    study = study_guard(results)
    data = {key: value for key, value in study.to_dict().items() if key != "cells"}
    if plots is not None:
        from .bench._plots import write_guard_plot

        data["plot"] = str(write_guard_plot(study.cells, plots))
        output.note(f"edgeprune: {data['plot']}")
    output.result(data, pairs(_rows(study)))


def _rows(study: GuardStudy) -> list[tuple[str, str]]:
    rows = [("all, constants in use", _told(study.shipped))]
    rows += [(f"  {name}", _told(found)) for name, found in study.by_study.items()]
    rows += [(f"  {name}", _told(found)) for name, found in study.by_arm.items()]
    if study.unseen is not None:
        rows.append(("all, user left out", _told(study.unseen)))
    fit = study.fitted
    constants = f"{fit.base:+.3f} {fit.learnt:+.3f} · learnt − {fit.lost:.3f} · lost"
    text = f"{constants}, limit {fit.limit:+.3f}"
    return [*rows, ("fitted to all", text)]


def _told(found: Rates) -> str:
    return (
        f"refused {_share(found.refused)} of {found.harmful} that lose over 2 points, "
        f"allowed {_share(found.allowed)} of {found.harmless} that lose none"
    )


def _share(share: tuple[float, float, float] | None) -> str:
    return "-" if share is None else "{:.0%} ({:.0%} to {:.0%})".format(*share)
