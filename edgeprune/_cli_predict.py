"""``edgeprune predict``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from ._api import Model
from ._cli_common import (
    Output,
    model_argument,
    open_model,
    output_options,
    profile_options,
    store_option,
    threads_option,
)
from ._results import Prediction, rejected_to_json
from ._sources import find_files
from .runtime.errors import InputError

__all__ = ["predict"]

_AT_ONCE = 8


@click.command()
@model_argument
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@profile_options
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
    top: int,
    store: Path | None,
    threads: int | None,
    output: Output,
) -> None:
    """Say what is in FILES; of a folder, in every sample below it.

    One line a file: its name, the label and the probability, with --top more of them, separated by
    tabs. A file that cannot be used is named on stderr, and the others are answered all the same;
    the exit code is 1 only if none could be.
    """
    opened = open_model(model, store, threads, profile=profile, dense=dense)
    output.detail(f"edgeprune: profile {opened.profile or 'none, the network as trained'}")
    unusable: list[tuple[Path, str]] = []
    answered: list[Prediction] = []
    for prediction in _answers(opened, files, top, unusable):
        answered.append(prediction)
        if not output.as_json:
            click.echo(_line(prediction))
    if output.as_json:
        output.result(
            {
                "model": str(model),
                "profile": opened.profile,
                "generation": opened.generation,
                "predictions": [one.to_dict() for one in answered],
                "unusable": rejected_to_json(unusable),
            },
            "",
        )
    if not answered:
        raise InputError(f"none of {len(unusable)} files could be used.")


def _answers(
    model: Model, files: tuple[Path, ...], top: int, unusable: list[tuple[Path, str]]
) -> Iterator[Prediction]:
    def on_unusable(path: Path, reason: str) -> None:
        unusable.append((path, reason))
        click.echo(f"edgeprune: cannot use {path}: {reason}", err=True)

    found = find_files(model.preprocess, files, on_unusable)
    for start in range(0, len(found), _AT_ONCE):
        yield from model.predict(found[start : start + _AT_ONCE], top=top, on_unusable=on_unusable)


def _line(prediction: Prediction) -> str:
    ranked = (f"{label}\t{share:.4f}" for label, share in prediction.top)
    return "\t".join([str(prediction.path), *ranked])
