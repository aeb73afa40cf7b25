"""``edgeprune predict``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from ._api import Model
from ._cli_common import (
    Output,
    against_option,
    model_argument,
    open_network,
    output_options,
    profile_options,
    store_option,
    threads_option,
)
from ._cli_format import percent
from ._network import Network
from ._results import Prediction, rejected_to_json
from ._sources import find_files
from .runtime.errors import InputError

__all__ = ["predict"]

_AT_ONCE = 8


@click.command()
@model_argument
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@profile_options
@against_option
@click.option("--top", type=click.IntRange(min=1), default=1, show_default=True, metavar="K")
@store_option
@threads_option
@output_options
def predict(
    *,
    model: Path,
    files: tuple[Path, ...],
    profile: str | None,
    dense: bool,
    against: Path | None,
    top: int,
    store: Path | None,
    threads: int | None,
    output: Output,
) -> None:
    """Say what is in FILES; of a folder, in every sample below it.

    One line a file: its name, the label and the probability, with --top more of them, separated by
    tabs. A file that cannot be used is named on stderr, and the others are answered all the same;
    the exit code is 1 only if none could be. MODEL may be a compacted network, too. With --against
    the answer of that network follows on each line.
    """
    opened = open_network(model, store, threads, profile=profile, dense=dense)
    other = None if against is None else open_network(against, store, threads)
    used = opened.profile if isinstance(opened, Model) else None
    output.detail(f"edgeprune: profile {used or 'none, the network as trained'}")
    unusable: list[tuple[Path, str]] = []
    answered: list[tuple[Prediction, ...]] = []
    for together in _answers(opened, other, files, top, unusable):
        answered.append(together)
        if not output.as_json:
            click.echo(_line(together))
    if output.as_json:
        output.result(
            {
                "model": str(model),
                "profile": used,
                "generation": opened.generation if isinstance(opened, Model) else None,
                "predictions": [together[0].to_dict() for together in answered],
                "against": None if other is None else _against(other, answered),
                "unusable": rejected_to_json(unusable),
            },
            "",
        )
    if not answered:
        raise InputError(f"none of {len(unusable)} files could be used.")
    if other is not None:
        same = _same(answered)
        output.note(f"\n{opened.title} and {other.title} agree on {percent(same)} of the files.")


def _against(other: Network, answered: Sequence[tuple[Prediction, ...]]) -> dict[str, Any]:
    return {
        "model": str(other.path),
        "profile": other.profile if isinstance(other, Model) else None,
        "predictions": [together[1].to_dict() for together in answered],
        "agreement": _same(answered) if answered else None,
    }


def _same(answered: Sequence[tuple[Prediction, ...]]) -> float:
    return sum(one.index == two.index for one, two in answered) / len(answered)


def _answers(
    network: Network,
    other: Network | None,
    files: tuple[Path, ...],
    top: int,
    unusable: list[tuple[Path, str]],
) -> Iterator[tuple[Prediction, ...]]:
    def on_unusable(path: Path, reason: str) -> None:
        unusable.append((path, reason))
        click.echo(f"edgeprune: cannot use {path}: {reason}", err=True)

    def silent(_path: Path, _reason: str) -> None:
        """Said once is enough."""

    found = find_files(network.preprocess, files, on_unusable)
    for start in range(0, len(found), _AT_ONCE):
        part = found[start : start + _AT_ONCE]
        ours = network.predict(part, top=top, on_unusable=on_unusable)
        if other is None:
            yield from ((one,) for one in ours)
        else:
            yield from zip(ours, other.predict(part, top=top, on_unusable=silent), strict=True)


def _line(together: tuple[Prediction, ...]) -> str:
    ranked = (f"{label}\t{share:.4f}" for one in together for label, share in one.top)
    return "\t".join([str(together[0].path), *ranked])
